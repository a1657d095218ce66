"""Files: where data and caches live, and writes that happen wholly or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Folder that holds raw datasets: ``root``, else ``$GRAPHKIT_ROOT``, else ``~/.cache/graphkit``."""
    return Path(root or os.environ.get("GRAPHKIT_ROOT") or Path.home() / ".cache" / "graphkit").expanduser()


def cache_root() -> Path:
    """Writable folder for what is derived from raw data: ``$GRAPHKIT_CACHE``, else ``~/.cache/graphkit``."""
    return Path(os.environ.get("GRAPHKIT_CACHE") or Path.home() / ".cache" / "graphkit").expanduser()


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and move it there only when the block ends without an error.

    A full disk, an exception or a kill leaves an earlier file at ``path`` untouched. The data is flushed to the disk
    before the move, so that a power cut does not leave an empty file.

    Example:
        >>> with atomic_write("table.json") as file:  # doctest: +SKIP
        ...     json.dump(table, file)
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {path}: {error.strerror}; choose another folder") from error
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
