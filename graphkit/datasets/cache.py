"""Processed data on disk: built once from raw files, checked when read, rebuilt when damaged.

Raw files may lie on a read-only disk: nothing is written beside them. A cache file's name carries a fingerprint of its
raw files, so that changed raw files, or another copy of them, never meet an old cache.
"""

from __future__ import annotations

import errno
import hashlib
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graphkit.utils.io import atomic_write, cache_root

# Raise this number when the content of cache files changes.
FORMAT = 1


def cached(folder: str, sources: Callable[[], Sequence[Path]], build: Callable[[], Any]) -> Any:
    """What ``build()`` returns, kept in ``$GRAPHKIT_CACHE/processed/<folder>``.

    Args:
        folder: Where under the cache folder.
        sources: Lists the raw files; asked again after ``build``, which may download them.
        build: Makes tensors, numbers, strings and containers of them (nothing else, so that reading is safe).

    Raises:
        OSError: the cache folder cannot be written; the message names ``GRAPHKIT_CACHE``.
    """
    files = sources()
    if files:
        path = _path(folder, files)
        if path.exists():
            content = _read(path)
            if content is not None:
                return content
    content = build()
    path = _path(folder, sources())
    try:
        with atomic_write(path, "wb") as file:
            torch.save(content, file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno or errno.EIO,
            f"cannot write the cache file {path} ({reason}); name a writable folder with GRAPHKIT_CACHE",
        ) from error
    return content


def _path(folder: str, files: Sequence[Path]) -> Path:
    key = hashlib.sha256(str(FORMAT).encode())
    for file in sorted(files):
        status = file.stat()
        key.update(f"{file}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return cache_root() / "processed" / folder / f"{key.hexdigest()[:16]}.pt"


def _read(path: Path) -> Any:
    """The content of a cache file, or None (with a warning) if it is damaged."""
    try:
        # A torch file is a zip archive with a checksum for every member: half-written and altered files are found.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, weights_only=True)
        reason = f"checksum of {damaged} differs"
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    warnings.warn(f"{path} is damaged ({reason}); it is built again from the raw files", stacklevel=4)
    return None
