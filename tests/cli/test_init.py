"""The table of verbs: help, unknown verbs, exit codes of the errors a user can cause."""

import subprocess
import sys

import pytest

from tlx import cli
from tlx.base.errors import CheckpointError, Preempted


def test_help_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in cli.VERBS)
    assert set(cli._ABOUT) == set(cli.VERBS)


def test_no_verb_and_unknown_verb(capsys):
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError("gone"), 74), (Preempted("stopped"), 42), (KeyboardInterrupt(), 130)]
)
def test_errors_are_one_line_and_a_code(monkeypatch, capsys, error, code):
    def verb(argv):
        raise error

    monkeypatch.setattr(cli.VERBS, "load", lambda name: verb)
    assert cli.main(["train"]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


LIGHT = (
    "train",
    "finetune",
    "evaluate",
    "bench",
    "chat",
    "config",
    "convert",
    "data",
    "generate",
    "launch",
    "plan",
    "report",
    "scale",
)


def test_help_loads_no_jax():
    """Help answers in half a second."""
    code = f"""
import sys
from tlx import cli
for verb in {LIGHT}:
    try:
        cli.main([verb, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
    heavy = {{"jax", "flax", "numpy", "ml_collections", "matplotlib"}} & set(sys.modules)
    assert not heavy, (verb, heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_log_messages_are_printed_as_they_are_and_a_start_loads_what_it_needs():
    code = """
import logging
import sys
from tlx import cli
assert cli.main(["train", "--config=nowhere"]) == 64
import tlx.trainer.pretrain
# A start that draws and compares nothing waits for neither: together they cost as much as half of the others.
assert not {"scipy", "matplotlib"} & set(sys.modules)
logging.getLogger("tlx").warning("a message")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "a message"
