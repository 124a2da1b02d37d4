"""The run in tests/format_1 was written by the first version of tlx: every later one must load it.

It is never written again. A change that breaks this test needs a new format number and a reader for this
one. Made by `tlx train` with the config of tests/cli/tiny.py at width 16, one layer, 200 steps.
"""

import pathlib
import shutil

import pytest

import tlx
from tlx.train import directory

FOLDER = pathlib.Path(__file__).parent / "format_1"


def test_the_first_format_still_loads(tmp_path):
    lm = tlx.load(shutil.copytree(FOLDER, tmp_path / "run"))
    assert (lm.step, lm.kind, lm.config.model.width) == (200, "decoder", 16)
    score = lm.score("the model reads tokens and predicts")
    assert score.log_likelihood == pytest.approx(-70.17451, rel=1e-4)
    assert directory.read_run(FOLDER)["format"] == 1
