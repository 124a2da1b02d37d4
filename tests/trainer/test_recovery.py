"""The end of a run that diverges where its disk is full: what ended it is the divergence."""

import errno
import types

import pytest

from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.trainer.recovery import Recovery
from tlx.training.divergence import Divergence, Rollbacks


@pytest.mark.parametrize("good, more", [(4, "--step=N"), (-1, "optimizer.learning_rate)")])
def test_a_bundle_that_cannot_be_written_hides_no_divergence(tmp_path, monkeypatch, good, more):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = types.SimpleNamespace(config=resolve(base_config("clm")))
    checkpoints = types.SimpleNamespace(folder=tmp_path / "checkpoints")
    recovery = Recovery(run, checkpoints, None, None, Rollbacks())
    monkeypatch.setattr(Recovery, "_write_bundle", full)
    error = recovery._give_up(Divergence(step=7, in_a_row=3), None, good)
    assert error.code == 76
    assert "steps 5 to 7 were skipped" in str(error) and more in str(error)
    assert f"{tmp_path}/diverged/step-5 could not be written (No space left on device). Go on" in str(error)
    assert ("--step=N" in str(error)) == (good >= 0)
