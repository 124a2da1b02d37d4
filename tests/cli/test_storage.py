"""Directories that are read-only, full or in the way end a command with exit 73 and one line."""

import errno
import os
import resource

import pytest

from tests.cli import tiny
from tlx import cli
from tlx.base.errors import ConfigError, StorageError
from tlx.base.lookup import Table
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.cli import convert_actions
from tlx.text.frames import Frame
from tlx.trainer import driver
from tlx.trainer.fatal_errors import errors_noted
from tlx.training.journal import read_lines


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_any_verb_ends_with_one_line(monkeypatch, capsys, number):
    def full(argv):
        raise OSError(number, os.strerror(number), "runs/x/metrics.jsonl")

    monkeypatch.setattr(Table, "load", lambda self, name: full)
    assert cli.main(["report", "runs/x"]) == 73
    assert capsys.readouterr().err.startswith(f"tlx report: runs/x/metrics.jsonl: {os.strerror(number)}; ")


def test_other_errors_of_the_system_stay_tracebacks(monkeypatch):
    def missing(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    monkeypatch.setattr(Table, "load", lambda self, name: missing)
    with pytest.raises(FileNotFoundError):
        cli.main(["report", "runs/x"])


def test_an_error_of_a_directory_that_cannot_be_written_is_not_lost(tmp_path):
    with pytest.raises(StorageError, match="read-only"), errors_noted(tmp_path / "not" / "there"):
        raise StorageError("read-only")
    with pytest.raises(StorageError), errors_noted(tmp_path):
        raise StorageError("full")
    assert [line["what"] for line in read_lines(tmp_path / "events.jsonl")] == ["full"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "check_devices", lambda config, num_devices: None)  # seconds of tracing
    return tiny.write_config(tmp_path)


def test_a_disk_that_is_full_while_a_run_trains(config, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    monkeypatch.setattr(driver, "_assemble", full)
    assert cli.main(["train", str(config), f"--workdir={tmp_path}/run"]) == 73
    assert capsys.readouterr().err.startswith("tlx train: metrics.jsonl: No space left on device; free some")
    (line,) = read_lines(tmp_path / "run" / "events.jsonl")
    assert (line["event"], line["exit"]) == ("error", 73)


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_and_then_for_good(config, tmp_path, monkeypatch, capsys, caplog):
    """Files cannot grow beyond 40 kB: journals do not reach that, checkpoints of 450 kB do not fit."""
    saves = Checkpoints.save
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = {10, 15, 25, 30, 35}

    def save(self, step, state, extra=None):
        self._settle()  # the save before is in flight
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000 if step in full else soft, hard))
        return saves(self, step, state, extra)

    monkeypatch.setattr(Checkpoints, "save", save)
    run = tmp_path / "run"
    words = ("--config.eval.every=0", "--config.train.steps=60", f"--workdir={run}")
    try:
        assert cli.main(["train", f"--config={config}", *words]) == 73
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"tlx train: 3 checkpoints in a row could not be saved to {run}/checkpoints" in err
    lines = read_lines(run / "events.jsonl")
    assert [line["step"] for line in lines if line["event"] == "checkpoint_failed"] == sorted(full)
    assert [line["step"] for line in lines if line["event"] == "checkpoint_saved"] == [5, 20]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == len(full) and all("bytes needed" in error and "\n" not in error for error in errors)
    # What failed is gone, at the latest with the next start (writers may still have been at it), what was there is
    # whole, and no half line is left.
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.prepare()
    assert sorted(path.name for path in (run / "checkpoints").glob("[!.]*")) == ["20", "5"]
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 35


def test_a_run_directory_below_a_file(config, capsys):
    """As a read-only one: nothing can be made there."""
    assert cli.main(["train", str(config), f"--workdir={config}/run"]) == 73
    err = capsys.readouterr().err
    assert f"cannot write to the run directory {config}/run" in err and "Traceback" not in err
    assert err.count("\n") == 1


class _Model:
    """A loaded model whose tokenizer needs a package that is not installed."""

    module = type("Module", (), {"model": None})
    standalone_params = {"model": {}}
    kind = "decoder"
    frame = Frame()

    class tokenizer:
        vocab = type(
            "Vocab", (), dict.fromkeys(("pad", "eos", "bos", "cls", "sep"), 0) | {"size": 4, "added": 0}
        )

        @staticmethod
        def export(folder, frame):
            (folder / "tokenizer_config.json").write_text("{}")
            raise ConfigError("tokenizer.json needs the extra hf: pip install 'tlx-lm[hf]'")


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(convert_actions, "load", lambda *args, **kwargs: _Model)
    monkeypatch.setattr(convert_actions, "exported_head", lambda model, without_head: ({}, None))
    monkeypatch.setattr(convert_actions, "exported_frame", lambda model: ((), ()))
    monkeypatch.setattr(convert_actions, "special_ids", lambda model: {})
    monkeypatch.setattr(convert_actions.hub, "save_folder", lambda *args, **kwargs: written.append(args))
    words = ["convert", "export", "runs/x", str(tmp_path / "hf"), "--family=llama"]
    assert cli.main(words) == 64
    assert "tlx-lm[hf]" in capsys.readouterr().err
    assert not written and os.listdir(tmp_path) == []

    def full(folder, *args, **kwargs):
        (folder / "model.safetensors").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.safetensors"))

    monkeypatch.setattr(_Model.tokenizer, "export", staticmethod(lambda folder, frame: None))
    monkeypatch.setattr(convert_actions.hub, "save_folder", full)
    assert cli.main(words) == 73
    assert os.listdir(tmp_path) == []
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("theirs")
    assert cli.main(words) == 64 and (tmp_path / "hf" / "config.json").read_text() == "theirs"
