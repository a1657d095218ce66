"""Files are written wholly or not at all, and reading them runs no code."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from graphkit.utils import io as files
from graphkit.utils.io import (
    atomic_write,
    cache_root,
    check_writable,
    data_root,
    load_tensors,
    remove_leftovers,
    save_tensors,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


def write_text(path, text, mode="w"):
    with atomic_write(path, mode) as file:
        file.write(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_arrives_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic_write(path) as file:
        file.write("π\n")
        assert not path.exists()
    assert path.read_bytes() == "π\n".encode()
    with atomic_write(str(path), "wb") as file:
        file.write(b"\x00")
    assert path.read_bytes() == b"\x00"
    assert names(path.parent) == ["file.txt"]


@posix
def test_text_is_utf8_in_any_locale(tmp_path):
    path = str(tmp_path / "x")
    code = (
        "import sys, types; sys.modules['torch'] = types.ModuleType('torch')\n"  # which takes seconds to import
        "from graphkit.utils.io import atomic_write\n"
        f"with atomic_write({path!r}) as file: file.write('\\u03c0')"
    )
    root = Path(files.__file__).parents[2]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (tmp_path / "x").read_bytes() == "π".encode()


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), OSError(errno.ENOENT, "gone", "other.txt")])
def test_an_error_in_the_block_leaves_the_earlier_file(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write():
        with atomic_write(path) as file:
            file.write("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error  # an error of another file keeps its own name
    assert path.read_text() == "before"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_earlier_file_and_is_named(tmp_path, monkeypatch, place):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file.txt"
    path.write_text("before")
    monkeypatch.setattr(files.os, place, fail)
    with (
        pytest.raises(OSError, match=r"cannot write .*file\.txt: No space left on device; .*free some space") as caught,
        atomic_write(path) as file,
    ):
        file.write("after")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["file.txt"]


@posix
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 100_000),
        lambda path: save_tensors({"weight": torch.zeros(100_000)}, path),
    ],
    ids=["text", "tensors"],
)
def test_a_full_disk(tmp_path, write):
    """A limit on the size of files, in this process: the write itself fails half-way."""
    import resource
    import signal

    path = tmp_path / "file"
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*file: File too large") as caught:
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write .*x\.txt: .*; choose another folder"):
        write_text(tmp_path / "file" / "x.txt", "x")
    with pytest.raises(OSError, match="choose another folder"):
        check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*taken"):
        write_text(tmp_path / "taken", "x")
    assert names(tmp_path) == ["taken"]


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="choose another folder"):
        check_writable(tmp_path)


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_several_writers_never_mix(tmp_path):
    path = tmp_path / "file"

    def write(letter):
        for _ in range(20):
            with atomic_write(path) as file:
                for _ in range(50):
                    file.write(letter)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(path.read_text())) == 1
    assert len(path.read_text()) == 50
    assert names(tmp_path) == ["file"]


def test_modes_that_keep_the_old_content_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mode must be 'w' or 'wb'.*\(got 'a'\)"):
        write_text(tmp_path / "file", "x", "a")


def test_check_writable_leaves_nothing(tmp_path):
    assert check_writable(tmp_path / "new") == tmp_path / "new"
    assert names(tmp_path / "new") == []


def test_remove_leftovers_knows_its_own(tmp_path):
    for name in (".a.pt.12-ab.tmp", ".a.pt.tmp", ".b.pt.12-ab.tmp", "a.pt", "a.pt.12-ab.tmp"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path / "a.pt")
    assert names(tmp_path) == sorted([".a.pt.tmp", ".b.pt.12-ab.tmp", "a.pt", "a.pt.12-ab.tmp"])
    remove_leftovers(tmp_path / "nowhere" / "a.pt")


def test_leftovers_of_a_killed_writer_are_those_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)  # what a kill amounts to
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a[1].pt"):
        raise RuntimeError
    monkeypatch.undo()
    assert len(names(tmp_path)) == 1
    remove_leftovers(tmp_path / "a[1].pt")
    assert names(tmp_path) == []


# Tensors -------------------------------------------------------------------------------------------------------------

CONTENT = {"weight": torch.arange(1000.0), "note": "x", "rows": [{"a": 1.5, "b": None}], 3: (True, 2)}


def test_tensors_come_back(tmp_path):
    save_tensors(CONTENT, tmp_path / "file.pt")
    found = load_tensors(tmp_path / "file.pt")
    assert torch.equal(found.pop("weight"), CONTENT["weight"])
    assert found == {key: value for key, value in CONTENT.items() if key != "weight"}


def test_every_flipped_byte_of_a_tensor_is_found(tmp_path):
    path = tmp_path / "file.pt"
    save_tensors(CONTENT, path)
    whole = path.read_bytes()
    start = whole.index(torch.arange(1000.0).numpy().tobytes())
    for place in range(start, start + 4000, 397):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"file\.pt is damaged"):
            load_tensors(path)


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_found(tmp_path, size):
    path = tmp_path / "file.pt"
    save_tensors(CONTENT, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: size if isinstance(size, int) else int(size * len(whole))])
    with pytest.raises(ValueError, match=r"file\.pt is damaged"):
        load_tensors(path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICIOUS_FOLDER"],)


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, how):
    monkeypatch.setenv("MALICIOUS_FOLDER", str(tmp_path / "executed"))
    path = tmp_path / "file.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious()))
    else:
        torch.save({"x": Malicious()}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match=r"file\.pt is damaged"):
        load_tensors(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "executed").exists()  # it would have run elsewhere


def test_a_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "file.pt")


# Folders -------------------------------------------------------------------------------------------------------------


def test_roots(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHKIT_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "data"
    assert data_root(tmp_path / "given") == tmp_path / "given"
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv("GRAPHKIT_ROOT", "")
    monkeypatch.delenv("GRAPHKIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_root() == cache_root() == tmp_path / "home" / ".cache" / "graphkit"
    assert data_root("~/x") == tmp_path / "home" / "x"
