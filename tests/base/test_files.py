"""Files are whole or absent, readable by those the user lets read, and hashed by their content."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tlx.base import files
from tlx.base.errors import StorageError


def test_atomic_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with open(path) as reader:
        files.write_json(path, {"b": [2, 3.5, None, "é"]})
        assert reader.read() == '{\n  "a": 1\n}\n', "who reads meanwhile sees the old file, whole"
    assert files.read_json(path) == {"b": [2, 3.5, None, "é"]}
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_while_writing_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "x"
    if before:
        path.write_text(before)
    with pytest.raises(RuntimeError), files.atomic_open(path) as handle:
        handle.write("half")
        handle.flush()
        raise RuntimeError
    assert os.listdir(tmp_path) == (["x"] if before else [])
    assert not before or path.read_text() == before


def test_killed_while_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    code = f"""
        import os, signal
        from tlx.base import files
        with files.atomic_open({str(path)!r}) as handle:
            handle.write("new" * 100_000)
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_binary_and_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with files.atomic_open(tmp_path / "x", "wb") as handle:
            handle.write(b"\x00\xff")
    finally:
        os.umask(before)
    assert (tmp_path / "x").read_bytes() == b"\x00\xff"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_hashes(tmp_path):
    content = os.urandom(3 << 20)
    (tmp_path / "x").write_bytes(content)
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert files.sha256_json({"b": 1, "a": [1.5]}) == files.sha256_json({"a": [1.5], "b": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "a"))
    assert files.cache_folder() == tmp_path / "a" and (tmp_path / "a").is_dir()
    monkeypatch.delenv("TLX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert files.cache_folder() == tmp_path / "b" / "tlx"
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "file" / "c"))
    with pytest.raises(StorageError, match="set TLX_CACHE"):
        files.cache_folder()


@pytest.mark.parametrize("before", ["missing", "empty"])
def test_a_new_folder_is_whole_or_not_there(tmp_path, before):
    target = tmp_path / "out" / "new"
    if before == "empty":
        target.mkdir(parents=True)
    with pytest.raises(RuntimeError), files.new_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert (
        target.exists() == (before == "empty") and os.listdir(tmp_path / "out") == ["new"] * target.exists()
    )
    with files.new_folder(target) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
    assert (target / "a" / "b").read_text() == "x" and os.listdir(target) == ["a"]


def test_a_new_folder_below_a_file_or_on_a_full_disk_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"), files.new_folder(tmp_path / "file" / "new"):
        pass
    with pytest.raises(StorageError, match="No space left"), files.new_folder(tmp_path / "new"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, 73),
        (errno.EDQUOT, 73),
        (errno.EROFS, 73),
        (errno.EACCES, 73),
        (errno.ENOTDIR, 73),
        (errno.ENOENT, None),
    ],
)
def test_errors_of_the_disk_are_one_line(number, code):
    error = files.storage_error(OSError(number, os.strerror(number), "/runs/x/run.json"))
    assert (error and error.code) == code
    assert error is None or str(error).startswith("/runs/x/run.json: ") and "\n" not in str(error)
