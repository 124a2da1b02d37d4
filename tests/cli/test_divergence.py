"""A run whose loss is not finite: it goes back to the last good checkpoint, or ends with one and a bundle (F27)."""

import dataclasses
import json

import numpy as np
import pytest

from tests.cli import tiny
from tests.cli.tiny import digests
from tlx import cli
from tlx.base import tree
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.reading import load_params
from tlx.data.pipeline import Pipeline
from tlx.run import assemble
from tlx.trainer import banner, driver
from tlx.training.journal import read_lines
from tlx.training.peak import Peak

SHORT = ("--config.train.steps=24", "--config.eval.every=0", "--config.train.max_skipped=3")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny.write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """All runs of this file train one program; to trace and compile it anew is most of a run's time."""
    programs = {}
    build = assemble.build_program

    def remembered(config, spec, mesh):
        key = dataclasses.replace(config.train, max_rollbacks=0)
        if key not in programs:
            programs[key] = build(config, spec, mesh)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "build_program", remembered)
        patch.setattr(driver, "check_devices", lambda config, num_devices: None)
        patch.setattr(banner, "matmul_peak", lambda: Peak(1e9, "not measured"))
        yield


@pytest.fixture
def rows(monkeypatch):
    """Makes batches not finite, or others than they are: rows(bad batch numbers, number -> number)."""
    whole = Pipeline._row

    def patch(bad=(), moved=lambda k: k):
        def row(self, k, b, in_order=False):
            example = whole(self, moved(k), b, in_order)
            return (
                example | {"weights": example["weights"] * np.inf} if k in bad and not in_order else example
            )

        monkeypatch.setattr(Pipeline, "_row", row)

    return patch


def train(config_file, workdir, *words):
    return cli.main(["train", f"--config={config_file}", f"--workdir={workdir}", *SHORT, *words])


def events(workdir, *names):
    return [line for line in read_lines(workdir / "events.jsonl") if line["event"] in names]


def complete(workdir):
    return Checkpoints(workdir / "checkpoints").complete_steps()


@pytest.mark.slow
def test_a_run_that_diverges_goes_back_and_leaves_the_data_out(config_file, tmp_path, rows, monkeypatch):
    """It is the run on the text without that stretch, bit for bit; killed after the rollback too."""
    rows(bad=(11, 12, 13, 14, 15))
    assert train(config_file, tmp_path / "one") == 0
    (rollback,) = events(tmp_path / "one", "rollback")
    assert (rollback["step"], rollback["to"], rollback["batches"]) == (14, 10, [10, 13])
    # Batches 14 and 15 are skipped one by one, as before: steps 11 and 12, which read them.
    assert [(event["step"], event["new"]) for event in events(tmp_path / "one", "skip")] == [(12, 2)]
    rows(bad=(10, 11), moved=lambda k: k if k < 10 else k + 4)
    assert train(config_file, tmp_path / "judge") == 0
    assert digests(tmp_path / "one", 24) == digests(tmp_path / "judge", 24)
    lines = [line for line in tiny.metrics(tmp_path / "one") if line["kind"] == "train"]
    assert lines == [line for line in tiny.metrics(tmp_path / "judge") if line["kind"] == "train"]

    rows(bad=(11, 12, 13, 14, 15))
    saves = Checkpoints.save

    def killed(self, step, state, extra=None):
        if step == deadly:
            raise KeyboardInterrupt
        return saves(self, step, state, extra)

    monkeypatch.setattr(Checkpoints, "save", killed)
    for deadly in (15, 20):  # after the rollback and before the next save, and after that one
        assert train(config_file, tmp_path / "two") == 130
    monkeypatch.setattr(Checkpoints, "save", saves)
    assert train(config_file, tmp_path / "two") == 0
    assert [event["to"] for event in events(tmp_path / "two", "rollback")] == [10, 10]
    assert digests(tmp_path / "one", 24) == digests(tmp_path / "two", 24)


@pytest.mark.slow
def test_a_budget_that_is_spent_leaves_a_good_step_and_a_bundle(config_file, tmp_path, rows, capsys):
    rows(bad=range(11, 1000))
    run = tmp_path / "run"
    words = ("--config.train.max_rollbacks=2", "--config.checkpoint.keep=2", "--config.checkpoint.every=2")
    assert train(config_file, run, *words) == 76
    err = capsys.readouterr().err
    assert "after 2 of 2 rollbacks" in err and "the last good checkpoint is step 8" in err
    # The second time from the one before: the newest may hold the update that ruined it.
    found = [(event["step"], event["to"]) for event in events(run, "rollback")]
    assert found == [(14, 10), (13, 8)]
    assert complete(run) == [8]
    bundle = json.loads((run / "diverged/step-9/bundle.json").read_text())
    assert (bundle["step"], bundle["last_step"], bundle["batch"], bundle["last_good_step"]) == (9, 11, 17, 8)
    assert bundle["norms"]["loss"]["loss"] == "nan"
    parameters = tree.flatten(load_params(run, 8).tree)
    for path, leaf in parameters.items():
        stacked = "blocks" in path.split("/")[:-1]
        expected = np.sqrt(np.square(leaf).sum(axis=tuple(range(int(stacked), leaf.ndim))))
        np.testing.assert_allclose(bundle["norms"]["parameter"][path], expected, rtol=1e-5, err_msg=path)
    kernel = next(path for path in parameters if path.endswith("attention/query/kernel"))
    assert bundle["norms"]["gradient"][kernel] == ["nan", "nan"]
    batch = np.load(run / "diverged/step-9/batch.npz")
    assert batch["tokens"].shape == (8, 32) and np.isinf(batch["weights"]).any()
    # The remedies of the message: the same command, once the cause is gone.
    rows()
    assert train(config_file, run, *words) == 0
    assert complete(run)[-1] == 24


@pytest.mark.slow
def test_nothing_is_saved_while_steps_are_skipped(config_file, tmp_path, rows, monkeypatch, capsys):
    """A request to stop waits for the end of the streak; --step goes on from an older step."""
    rows(bad=(9, 10))
    run = tmp_path / "run"
    assert train(config_file, run, "--config.checkpoint.keep=9") == 0
    assert complete(run) == [5, 12, 15, 20, 24]
    stop_hook = driver._Loop._stop_hook

    def asked(self, step, state, metrics):
        if step == 10:
            self._services.preemption.request("test")
        return stop_hook(self, step, state, metrics)

    monkeypatch.setattr(driver._Loop, "_stop_hook", asked)
    assert train(config_file, run, "--step=5") == 42
    captured = capsys.readouterr()
    assert "from checkpoints/5: 19 of 24 steps to go" in captured.out
    assert "preempted at step 12, saved" in captured.err
    assert complete(run) == [5, 12]
    assert sorted(path.name.split("-")[0] for path in (run / "checkpoints").glob("*.replaced-*")) == [
        "12.replaced",
        "15.replaced",
        "20.replaced",
        "24.replaced",
    ]
    assert train(config_file, run, "--step=6") == 74
    assert "no complete checkpoint at step 6" in capsys.readouterr().err
