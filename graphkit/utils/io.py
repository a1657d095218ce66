"""Files: where data and caches live, and writes that happen wholly or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch


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
    before the move, so that a power cut does not leave an empty file. Text is UTF-8 with the line ends as written.

    Args:
        path: the file; its folder is made if it is not there.
        mode: ``"w"`` or ``"wb"``.

    Raises:
        ValueError: another mode.
        OSError: the file cannot be written; the message names it.

    Example:
        >>> with atomic_write("table.json") as file:  # doctest: +SKIP
        ...     json.dump(table, file)
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', a whole file is written (got {mode!r})")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _named(error, path, "choose another folder") from error
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch.save reports a full disk as a failed check of its own, with the OSError behind it.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        # An error of another file, raised inside the block, names that file already.
        if isinstance(reason, OSError) and reason.filename in (None, str(temporary)):
            raise _named(
                reason, path, "an earlier file is as it was; free some space or choose another folder"
            ) from error
        raise


def _named(error: OSError, path: Path, remedy: str) -> OSError:
    """The same error with a message that names the file meant, not the temporary one."""
    return type(error)(error.errno, f"cannot write {path}: {error.strerror or error}; {remedy}")


def check_writable(folder: str | os.PathLike) -> Path:
    """Make ``folder`` if it is not there and try to write in it, before work starts whose results go there.

    Raises:
        OSError: it cannot be made or written; the message names it.
    """
    folder = Path(folder)
    probe = folder / f".writable.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with atomic_write(probe) as file:
        file.write("")
    probe.unlink()
    return folder


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove the temporary files that killed writers of ``path`` left; no other writer may be at work."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*-*.tmp"):
        leftover.unlink(missing_ok=True)


def save_tensors(content: Any, path: str | os.PathLike) -> None:
    """``torch.save``, wholly or not at all.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    with atomic_write(path, "wb") as file:
        torch.save(content, file)


def load_tensors(path: str | os.PathLike) -> Any:
    """Read a file of :func:`save_tensors` to the CPU: tensors, numbers, strings and containers of them, nothing else.

    The checksum of every part is compared, and no code in the file is run.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged} differs")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged ({reason})") from error
