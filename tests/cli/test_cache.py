"""`tlx cache` says what the cache holds and removes it, except what another process is building."""

import os
import time

import pytest

from tlx.base.errors import ConfigError
from tlx.base.files import write_json
from tlx.cli import main
from tlx.data.build_once import build_once, lock_path, locked

DAY = 86_400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Three folders, used today, 10 and 40 days ago, and the rest of a killed build."""
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))

    def make(folder):
        meta = {"source": "python", "num_documents": 1234, "num_tokens": 56789}
        write_json(folder / "meta.json", meta)
        (folder / "tokens.bin").write_bytes(bytes(2_000_000))

    for name, days in (("tokens/new", 0), ("tokens/old", 10), ("tokenizers/older", 40)):
        build_once(tmp_path / name, make, lambda folder: folder)
        for path in (tmp_path / name, lock_path(tmp_path / name)):
            os.utime(path, (time.time() - days * DAY,) * 2)
    (tmp_path / "tokens/.killed.x1y2").mkdir()
    return tmp_path


def folders(cache):
    return sorted(path.name for path in cache.glob("*/*") if path.is_dir())


def test_sizes_and_last_uses_are_shown(cache, capsys):
    assert main(["cache"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tokenizers", "tokens", "tokens", "tokens"]
    assert "2.0 MB  used 40 days ago" in lines[0] and "used 10 days ago" in lines[1]
    (new,) = [line for line in lines if " new " in line]
    assert "used today" in new and "python: 1,234 documents, 56,789 tokens" in new
    assert "left over by a process that was killed" in "".join(lines)
    assert total.startswith(f"{cache}: 6.0 MB in 4 folders")


def test_clean_removes_what_was_not_used_for_so_long(cache, capsys):
    assert main(["cache", "clean", "--unused-for=30"]) == 0
    assert folders(cache) == [".killed.x1y2", "new", "old"]
    assert "removed 2.0 MB in 1 folders, 4.0 MB left" in capsys.readouterr().out
    # A use counts: what is loaded is not removed as unused.
    build_once(cache / "tokens/old", lambda folder: pytest.fail("it is there"), lambda folder: folder)
    assert main(["cache", "clean", "--unused-for=5"]) == 0
    assert folders(cache) == [".killed.x1y2", "new", "old"]


def test_clean_removes_all_but_what_is_being_built(cache, capsys):
    with locked(lock_path(cache / "tokens/old")):
        assert main(["cache", "clean"]) == 0
    assert folders(cache) == ["old"]
    assert "left: " in capsys.readouterr().out
    opened = open(cache / "tokens/old/tokens.bin", "rb")  # as a run that trains has it
    assert main(["cache", "clean"]) == 0
    assert folders(cache) == [] and len(opened.read()) == 2_000_000
    opened.close()
    assert main(["cache"]) == 0
    assert "0.0 MB in 0 folders" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unused-for=3"], "--unused-for=3 is for `tlx cache clean`"),
        (["clean", "--unused-for=-1"], "--unused-for=-1 must be a number of days, 0 or more"),
    ],
)
def test_wrong_flags(cache, words, message, capsys):
    assert main(["cache", *words]) == ConfigError.code
    assert message in capsys.readouterr().err
    assert len(folders(cache)) == 4
