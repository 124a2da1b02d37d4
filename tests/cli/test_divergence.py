"""Runs that diverge go back to the last good checkpoint, or end with one and a bundle; loss spikes are skipped."""

import dataclasses
import json

import numpy as np
import pytest

from tests.cli import tiny
from tests.cli.tiny import digests
from tlx import cli
from tlx.base import tree
from tlx.checkpoint.best import read_best
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.reading import load_params
from tlx.data.pipeline import Pipeline
from tlx.run import assemble
from tlx.trainer import banner, driver
from tlx.trainer.evaluations import Evaluations
from tlx.trainer.recovery import Recovery
from tlx.training.journal import read_lines
from tlx.training.peak import Peak

SHORT = (
    "--config.train.steps=18",
    "--config.eval.every=0",
    "--config.train.max_skipped=3",
    "--config.checkpoint.every=8",
)


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
        patch.setattr(banner, "matmul_peak", lambda: Peak(1e12, "not measured"))
        patch.setattr(banner, "training_flops", lambda *args: 1_000_000)
        yield


@pytest.fixture
def rows(monkeypatch):
    """Makes batches not finite, or others than they are: rows(bad batch numbers, number -> number)."""
    whole = Pipeline._row

    def patch(bad=(), moved=lambda k: k, spikes=()):
        def row(self, k, b, in_order=False):
            example = whole(self, moved(k), b, in_order)
            if k in bad and not in_order:
                return example | {"weights": example["weights"] * np.inf}
            if k in spikes and not in_order:
                return example | {"targets": np.full_like(example["targets"], 250)}
            return example

        monkeypatch.setattr(Pipeline, "_row", row)

    return patch


def train(config_file, workdir, *words):
    return cli.main(["train", f"--config={config_file}", f"--workdir={workdir}", *SHORT, *words])


def killed_at(deadly, patch):
    """Ends the run when it is about to save a step."""
    saves = Checkpoints.save

    def save(self, step, state, extra=None):
        if step == deadly:
            raise KeyboardInterrupt
        return saves(self, step, state, extra)

    patch.setattr(Checkpoints, "save", save)


def events(workdir, *names):
    return [line for line in read_lines(workdir / "events.jsonl") if line["event"] in names]


def complete(workdir):
    return Checkpoints(workdir / "checkpoints").complete_steps()


@pytest.mark.slow
def test_a_run_that_diverges_goes_back_and_leaves_the_data_out(config_file, tmp_path, rows, monkeypatch):
    """It is the run on the text without that stretch, bit for bit; killed after the rollback too."""
    rows(bad=(9, 10, 11, 12, 13))
    assert train(config_file, tmp_path / "one") == 0
    (rollback,) = events(tmp_path / "one", "rollback")
    assert (rollback["step"], rollback["to"], rollback["batches"]) == (12, 8, [8, 11])
    # Batches 12 and 13 are skipped one by one, as before: by steps 9 and 10, which read them.
    assert [(event["step"], event["new"]) for event in events(tmp_path / "one", "skip")] == [(10, 2)]
    rows(bad=(8, 9), moved=lambda k: k if k < 8 else k + 4)
    assert train(config_file, tmp_path / "judge") == 0
    assert digests(tmp_path / "one", 18) == digests(tmp_path / "judge", 18)
    lines = [line for line in tiny.metrics(tmp_path / "one") if line["kind"] == "train"]
    assert lines == [line for line in tiny.metrics(tmp_path / "judge") if line["kind"] == "train"]

    rows(bad=(9, 10, 11, 12, 13))
    for step in (16, 18):  # after the rollback and before the next save, and after that one
        with monkeypatch.context() as patch:
            killed_at(step, patch)
            assert train(config_file, tmp_path / "two") == 130
    assert train(config_file, tmp_path / "two") == 0
    assert [event["to"] for event in events(tmp_path / "two", "rollback")] == [8, 8]
    assert digests(tmp_path / "one", 18) == digests(tmp_path / "two", 18)


@pytest.mark.long
def test_a_damaged_checkpoint_is_passed_over_by_a_rollback(config_file, tmp_path, rows, monkeypatch, capsys):
    """Damage between its save and the rollback: the next older good one is taken, or the run ends with 74."""
    words = ("--config.checkpoint.every=4",)
    choose = Recovery.choose
    doomed = []

    def damage(self, divergence, state):
        good = choose(self, divergence, state)
        for step in doomed:
            file = max(
                (run / f"checkpoints/{step}/params").rglob("d/*"), key=lambda path: path.stat().st_size
            )
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        return good

    monkeypatch.setattr(Recovery, "choose", damage)
    rows(bad=(9, 10, 11))
    run = tmp_path / "one"
    doomed.append(8)
    assert train(config_file, run, *words) == 0
    (rollback,) = events(run, "rollback")
    assert (rollback["step"], rollback["to"], rollback["batches"]) == (12, 4, [4, 11])
    (skipped,) = events(run, "checkpoint_skipped")
    assert skipped["step"] == 8 and "sha256 differs" in skipped["reason"]
    assert "back to step 4 (step 8 cannot be used" in capsys.readouterr().out
    assert [path.name.partition("-")[0] for path in (run / "checkpoints").glob("*-*")] == ["8.corrupt"]
    rows(moved=lambda k: k if k < 4 else k + 8)
    assert train(config_file, tmp_path / "judge", *words) == 0
    assert digests(run, 18) == digests(tmp_path / "judge", 18)

    rows(bad=(9, 10, 11))
    run = tmp_path / "two"
    doomed.append(4)
    assert train(config_file, run, *words) == 74
    err = capsys.readouterr().err
    assert "step 8: params" in err and "step 4: params" in err and "sha256 differs" in err


@pytest.mark.slow
def test_a_budget_that_is_spent_leaves_a_good_step_and_a_bundle(config_file, tmp_path, rows, capsys):
    rows(bad=range(9, 1000))
    run = tmp_path / "run"
    words = ("--config.train.max_rollbacks=2", "--config.checkpoint.keep=2", "--config.checkpoint.every=4")
    assert train(config_file, run, *words) == 76
    err = capsys.readouterr().err
    assert "after 2 of 2 rollbacks" in err and "the last good checkpoint is step 4" in err
    # The second time from the one before: the newest may hold the update that ruined it.
    assert [(event["step"], event["to"]) for event in events(run, "rollback")] == [(12, 8), (11, 4)]
    assert complete(run) == [4]
    bundle = json.loads((run / "diverged/step-5/bundle.json").read_text())
    assert (bundle["step"], bundle["last_step"], bundle["batch"], bundle["last_good_step"]) == (5, 7, 15, 4)
    assert bundle["norms"]["loss"]["loss"] == "nan"
    parameters = tree.flatten(load_params(run, 4).tree)
    for path, leaf in parameters.items():
        stacked = "blocks" in path.split("/")[:-1]
        expected = np.sqrt(np.square(leaf).sum(axis=tuple(range(int(stacked), leaf.ndim))))
        np.testing.assert_allclose(bundle["norms"]["parameter"][path], expected, rtol=1e-5, err_msg=path)
    kernel = next(path for path in parameters if path.endswith("attention/query/kernel"))
    assert bundle["norms"]["gradient"][kernel] == ["nan", "nan"]
    batch = np.load(run / "diverged/step-5/batch.npz")
    assert batch["tokens"].shape == (8, 32) and np.isinf(batch["weights"]).any()
    # The same command, once the cause is gone.
    rows()
    assert train(config_file, run, *words) == 0
    assert complete(run)[-1] == 18


@pytest.mark.long
def test_the_best_step_is_one_that_is_there(config_file, tmp_path, rows, monkeypatch, capsys):
    """Two rollbacks, the second of which sets the best step aside, and a best step that is evaluated but skipped."""
    rows(bad=range(9, 15))
    run = tmp_path / "run"
    named = []
    resume = Evaluations.resume

    def recorded(self, state, begin):
        resume(self, state, begin)
        best = read_best(run / "checkpoints")
        named.append((begin, best and best.step))

    monkeypatch.setattr(Evaluations, "resume", recorded)
    words = ("--config.eval.every=2", "--config.eval.batches=1", "--config.checkpoint.keep_best=True")
    words = (*words, "--config.checkpoint.keep=3", "--config.checkpoint.keep_at=(5, 7)")
    assert train(config_file, run, *words) == 0
    assert [(event["step"], event["to"]) for event in events(run, "rollback")] == [(12, 8), (11, 7)]
    # Before the first step, and after each rollback: step 8, the best of all, is set aside by the second one.
    assert named == [(0, None), (8, 8), (7, 6)]
    best = read_best(run / "checkpoints")
    assert best is not None and {5, 7, best.step} <= set(complete(run))
    assert f"best: step {best.step}, " in capsys.readouterr().out
    lines = tiny.metrics(run)
    for kind, numbers in (("train", range(1, 19)), ("validation", range(2, 19, 2))):
        assert [line["step"] for line in lines if line["kind"] == kind] == list(numbers)
    times = [line["time"] for line in read_lines(run / "events.jsonl")]
    assert times == sorted(times)


@pytest.mark.slow
def test_nothing_is_saved_while_steps_are_skipped(config_file, tmp_path, rows, monkeypatch, capsys):
    """A request to stop waits for the end of the streak; --step goes on from an older step."""
    rows(bad=(7, 8, 12, 13))
    run = tmp_path / "run"
    assert train(config_file, run) == 0
    assert complete(run) == [10, 16, 18]
    stop_hook = driver._Loop._stop_hook

    def asked(self, step, state, metrics):
        if step == 13:
            self._services.preemption.request("test")
        return stop_hook(self, step, state, metrics)

    monkeypatch.setattr(driver._Loop, "_stop_hook", asked)
    assert train(config_file, run, "--step=10") == 42
    captured = capsys.readouterr()
    assert "from checkpoints/10: 8 of 18 steps to go" in captured.out
    assert "preempted at step 15, saved, rerun without --step to resume" in captured.err
    assert complete(run) == [10, 15]
    aside = sorted(path.name.partition("-")[0] for path in (run / "checkpoints").glob("*-*"))
    assert aside == ["16.replaced", "18.replaced"]
    assert train(config_file, run, "--step=6") == 74
    assert "no complete checkpoint at step 6" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_spikes_are_skipped_and_a_resume_repeats_it(config_file, tmp_path, rows, monkeypatch, capsys):
    """The window is part of the state; a run that began without it may look for spikes later."""
    rows(spikes=(11, 14))
    spike = {
        "window": 8,
        "warmup_cap": 50,
        "threshold": 0.5,
    }  # low: the losses of so young a model differ much
    words = [f"--config.train.spike.{name}={value}" for name, value in spike.items()]
    assert train(config_file, tmp_path / "one", *words) == 0
    assert [(event["step"], event["new"]) for event in events(tmp_path / "one", "skip")] == [(12, 1), (15, 1)]
    assert "update(s) skipped: loss or gradient not finite, or a loss spike" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        killed_at(16, patch)
        assert train(config_file, tmp_path / "two", *words) == 130
    assert train(config_file, tmp_path / "two", *words) == 0
    assert digests(tmp_path / "one", 18) == digests(tmp_path / "two", 18)
    assert tiny.metrics(tmp_path / "one") == tiny.metrics(tmp_path / "two")
    # Off from step 8 on, whose checkpoint has a window; on from step 16, whose checkpoint has none.
    assert train(config_file, tmp_path / "one", "--step=8", "--allow-change=train.spike") == 0
    assert train(config_file, tmp_path / "one", "--step=16", "--allow-change=train.spike", *words) == 0
    lines = [line for line in tiny.metrics(tmp_path / "one") if line["kind"] == "train"]
    assert lines[7]["loss_limit"] == 50 and "loss_limit" not in lines[8]
    assert [line["loss_limit"] for line in lines[16:]] == [50.0, 50.0]
