"""The step with the best evaluation is saved when it is found, named in best.json, and never deleted."""

import json

import numpy as np
import pytest

from tlx.base.errors import CheckpointError
from tlx.checkpoint import CheckpointConfig, Checkpoints, load_params, saving
from tlx.checkpoint.best import BestStep, read_best, write_best


def save(checkpoints, step):
    assert checkpoints.save(step, {"params": {"w": np.full(3, step)}})
    assert checkpoints.wait()


def test_the_best_step_outlives_newer_ones_until_a_better_one_is_sealed(tmp_path):
    events = []
    config = CheckpointConfig(every=10, keep=1)
    folder = tmp_path / "checkpoints"
    with Checkpoints(
        folder, config, on_event=lambda kind, **f: events.append((kind, f["step"]))
    ) as checkpoints:
        checkpoints.prepare()
        for step in (10, 15, 20, 30, 33, 40, 50):
            if step in (15, 33):
                checkpoints.mark_best(BestStep(step, "loss", 1 / step))
            assert checkpoints.due(step), "whatever `every` says"
            save(checkpoints, step)
        assert not checkpoints.due(35)
        assert checkpoints.complete_steps() == [33, 50]
        assert read_best(folder) == BestStep(33, "loss", 1 / 33)
    assert [step for kind, step in events if kind == "checkpoint_best"] == [15, 33]
    assert [step for kind, step in events if kind == "checkpoint_deleted"] == [10, 20, 15, 30, 40]
    np.testing.assert_array_equal(load_params(tmp_path, "best").tree["w"], np.full(3, 33))
    assert load_params(tmp_path).step == 50 and load_params(folder, "best").step == 33


def test_a_better_step_that_is_found_during_a_save_takes_nothing_from_it(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, CheckpointConfig(keep=1)) as checkpoints:
        checkpoints.prepare()
        checkpoints.mark_best(BestStep(1, "loss", 2.0))
        assert checkpoints.save(1, {"params": {"w": np.zeros(3)}})
        checkpoints.mark_best(BestStep(2, "loss", 1.0))  # before step 1 is sealed
        assert checkpoints.wait() and read_best(folder) == BestStep(1, "loss", 2.0)
        save(checkpoints, 2)
        assert read_best(folder) == BestStep(2, "loss", 1.0)


def test_a_failed_save_leaves_the_best_one_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, CheckpointConfig(keep=1)) as checkpoints:
        checkpoints.prepare()
        checkpoints.mark_best(BestStep(1, "loss", 2.0))
        save(checkpoints, 1)
        with monkeypatch.context() as patch:

            def full(*_):
                raise OSError("disk full")

            patch.setattr(saving.store, "start_save", full)
            checkpoints.mark_best(BestStep(2, "loss", 1.0))
            checkpoints.save(2, {"params": {"w": np.zeros(3)}})
            assert not checkpoints.wait()
        save(checkpoints, 3)
    assert read_best(folder).step == 1 and checkpoints.complete_steps() == [1, 3]


def test_a_resumed_run_protects_the_best_step_of_earlier_starts(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep=1)) as checkpoints:
        checkpoints.prepare()
        save(checkpoints, 1)
        checkpoints.set_best(BestStep(1, "loss", 2.0))
        for step in (2, 3):
            save(checkpoints, step)
        assert checkpoints.complete_steps() == [1, 3]


def test_what_step_best_cannot_mean_is_told(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.prepare()
        save(checkpoints, 1)
    with pytest.raises(CheckpointError, match="has no best.json, which a training with checkpoint.keep_best"):
        load_params(tmp_path, "best")
    with pytest.raises(CheckpointError, match="step = 'newest' is neither a number nor 'best'"):
        load_params(tmp_path, "newest")
    write_best(folder, BestStep(7, "loss", 1.0))
    with pytest.raises(CheckpointError, match="no complete checkpoint at step 7 in .*; complete: 1"):
        load_params(tmp_path, "best")
    (tmp_path / "best.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(CheckpointError, match="best.json cannot be read: KeyError"):
        load_params(tmp_path, "best")
    for damaged, error in (
        ('{"step": 1e400, "metric": "loss", "value": 1}', "OverflowError"),
        ("[" * 100_000, "Rec"),
    ):
        (tmp_path / "best.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=f"best.json cannot be read: {error}"):
            load_params(tmp_path, "best")
