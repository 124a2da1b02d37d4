"""A run that keeps its best step, writes samples and stops early, on eight devices and resumed."""

import json

import numpy as np
import pytest

import tlx
from tests.cli import tiny
from tlx.base.config_files import set_value
from tlx.base.errors import CheckpointError, ConfigError
from tlx.checkpoint import Checkpoints
from tlx.checkpoint.best import BestStep, read_best, resolve_step, write_best
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.scaling.planning import plan
from tlx.trainer.evaluations import Evaluations
from tlx.trainer.samples import check_samples
from tlx.training.improvement import EarlyStop
from tlx.training.journal import Journal, read_lines

# The parameters do not move, so that no evaluation improves on the first.
STOPS = {
    "optimizer.learning_rate": 1e-30,
    "eval.patience": 2,
    "checkpoint.keep_best": True,
    "checkpoint.keep": 1,
    "log.samples": 3,
    "log.sample_prompts": ("the model",),
    "log.sample_tokens": 8,
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return str(tiny.write_config(tmp_path_factory.mktemp("config")))


def events(workdir, kind):
    return [line for line in read_lines(workdir / "events.jsonl") if line["event"] == kind]


@pytest.mark.slow
def test_a_run_stops_early_keeps_its_best_and_shows_samples(config_file, tmp_path, capsys):
    workdir = tmp_path / "run"
    result = tlx.train(config_file, workdir=workdir, overrides={**STOPS, "mesh.fsdp": 2, "mesh.data": 4})
    out = capsys.readouterr().out
    assert result.model.step == 30 and "stopped early at step 30: validation loss has not improved" in out
    (stop,) = events(workdir, "early_stop")
    assert stop["step"] == 30 and "2 evaluations (eval.patience = 2)" in stop["why"]
    assert events(workdir, "end")[-1]["step"] == 30
    best = json.loads((workdir / "best.json").read_text())
    losses = {
        line["step"]: line["loss"]
        for line in read_lines(workdir / "metrics.jsonl")
        if line["kind"] == "validation"
    }
    assert best == {"step": 10, "metric": "loss", "value": losses[10]} and list(losses) == [10, 20, 30]
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [10, 30], "the best one, and the newest"
    assert tlx.load(workdir, step="best").step == 10 and tlx.load(workdir).step == 30

    samples = read_lines(workdir / "samples.jsonl")
    assert [line["step"] for line in samples] == [step for step in (0, 10, 20, 30) for _ in range(4)]
    text = "".join(path.read_text() for path in (tmp_path.parent).rglob("*.txt")) or None
    # Two documents of the tiny text may begin alike.
    assert samples[0]["prompt"] == "the model" and len({line["prompt"] for line in samples}) >= 3
    assert text is None or all(line["prompt"].strip() in text for line in samples[1:4])
    model = tlx.load(workdir)
    prompts = [line["prompt"] for line in samples[:4]]
    written = model.generate(prompts, 8, temperature=0.7, seed=0)
    assert [line["text"] for line in samples[-4:]] == written, "sharded or not"

    # Without patience it goes on, and nothing of the past is lost.
    onwards = {**STOPS, "mesh.fsdp": 2, "mesh.data": 4, "eval.patience": 0}
    assert tlx.train(config_file, workdir=workdir, overrides=onwards).model.step == 40
    assert json.loads((workdir / "best.json").read_text()) == best
    assert [line["step"] for line in read_lines(workdir / "samples.jsonl")][-4:] == [40] * 4


class Trained(str):
    """A state that samples and evaluations take for one; not skipped unless it is said to be."""

    skipped_in_a_row = 0


def evaluations(folder, overrides, evaluator, sampler=None, steps=()):
    """Evaluations of a run whose checkpoints of `steps` are there, and the events of its journal."""
    config = base_config("clm")
    config.eval.every = 10
    config.checkpoint.keep_best = True
    for key, value in overrides.items():
        set_value(config, key, value)
    journal = Journal(folder)
    checkpoints = Checkpoints(folder / "checkpoints", on_event=journal.event)
    checkpoints.prepare()
    for step in steps:
        checkpoints.save(step, {"params": {"w": np.zeros(1)}})
        checkpoints.wait()
    return Evaluations(resolve(config), journal, checkpoints, evaluator, sampler, (journal,))


def test_a_wrong_metric_is_told_before_the_first_step(tmp_path):
    asked = []

    def evaluator(state, num_batches):
        asked.append(num_batches)
        return {"loss": 1.0, "accuracy": 0.5}

    with pytest.raises(ConfigError, match="'acuracy' is not one of: loss, accuracy; did you mean 'accuracy'"):
        evaluations(tmp_path, {"eval.metric": "acuracy"}, evaluator).resume(None, 0)
    evaluations(tmp_path, {"eval.metric": "accuracy"}, evaluator).resume(None, 0)
    assert asked == [1, 1], "one batch each"
    evaluations(tmp_path, {"checkpoint.keep_best": False}, evaluator).resume(None, 0)
    assert asked == [1, 1], "nothing is compared"


def test_a_run_that_has_stopped_stays_stopped_and_names_its_best_again(tmp_path):
    journal = Journal(tmp_path)
    for step, loss in ((10, 2.0), (20, 3.0), (30, 3.5)):
        journal.metrics(step, {"loss": loss}, kind="validation")

    def evaluator(state, num_batches):
        raise AssertionError("the metric is known")

    stopped = evaluations(tmp_path, {"eval.patience": 2}, evaluator, steps=(10, 30))
    stopped.resume(None, 30)
    assert stopped.stopped and "since step 10, where it was 2.0000" in stopped.reason
    assert read_best(tmp_path / "checkpoints") == BestStep(10, "loss", 2.0), "a kill before it was written"
    with pytest.raises(EarlyStop, match="eval.patience = 2") as stop:
        stopped.stop_hook(30, "state", {})
    assert (stop.value.step, stop.value.state) == (30, "state")
    patient = evaluations(tmp_path, {"eval.patience": 3}, evaluator)
    patient.resume(None, 30)
    assert not patient.stopped
    patient.observe(40, Trained(), {"loss": 4.0})
    assert patient.stopped


def test_a_best_step_that_was_set_aside_is_named_no_more(tmp_path):
    """The best of those that are left is named in its place, or none."""
    folder = tmp_path / "checkpoints"
    journal = Journal(tmp_path)
    for step, loss in ((10, 2.0), (20, 1.0)):
        journal.metrics(step, {"loss": loss}, kind="validation")
    write_best(folder, BestStep(20, "loss", 1.0))
    evaluations(tmp_path, {}, None, steps=(10,)).resume(None, 10)
    assert read_best(folder) == BestStep(10, "loss", 2.0)
    # A start that keeps no best step finds that of an earlier one set aside.
    for off in (True, False):
        write_best(folder, BestStep(20, "loss", 1.0))
        evaluations(tmp_path, {"checkpoint.keep_best": not off}, None).resume(None, 10)
        assert (read_best(folder) is None) == off
    write_best(folder, BestStep(10, "loss", 2.0))
    evaluations(tmp_path, {"checkpoint.keep_best": False}, None).resume(None, 10)
    assert read_best(folder) == BestStep(10, "loss", 2.0), "its step is there"
    write_best(folder, BestStep(30, "loss", 2.0))
    evaluations(tmp_path, {"checkpoint.keep_best": False}, None).resume(None, 10)
    with pytest.raises(CheckpointError, match="no step of .* is known to be the best"):
        resolve_step(folder, "best")


def test_an_evaluation_of_a_skipped_step_is_never_the_best(tmp_path):
    """Skipped steps are not saved: best.json would wait for them for ever."""
    watched = evaluations(tmp_path, {}, lambda *_: {"loss": 3.0})
    watched.resume(None, 0)
    skipped = Trained()
    skipped.skipped_in_a_row = 1
    watched.observe(10, skipped, {"loss": 1.0})
    assert watched.best is None and not watched._checkpoints.due(10)
    watched.observe(20, Trained(), {"loss": 2.0})
    assert watched.best == BestStep(20, "loss", 2.0) and watched._checkpoints.due(20)


def test_samples_are_tried_before_the_first_step_and_written_at_evaluations(tmp_path):
    def sampler(state):
        return [{"prompt": "a", "text": state}]

    watched = evaluations(tmp_path, {"log.samples": 1}, lambda *_: {"loss": 1.0}, sampler)
    watched.resume("untrained", 0)
    watched.observe(10, Trained("trained"), {"loss": 1.0})
    Journal(tmp_path).resume(10)
    watched.resume("trained", 10)
    assert [(line["step"], line["text"]) for line in read_lines(tmp_path / "samples.jsonl")] == [
        (0, "untrained"),
        (10, "trained"),
    ]
    Journal(tmp_path).resume(5)
    assert len(read_lines(tmp_path / "samples.jsonl")) == 1, "those of later steps come again"


def test_samples_that_a_run_cannot_write_are_refused():
    config = base_config("mlm")
    config.log.samples = 2
    with pytest.raises(
        ConfigError, match="log.samples = 2: samples are written at evaluations, but eval.every = 0"
    ):
        check_samples(resolve(config))
    config.eval.every = 10
    check_samples(resolve(config))
    config.log.sample_prompts = ("the [MASK] sat", "the cat")
    with pytest.raises(ConfigError, match=r"log.sample_prompts\[1\] = 'the cat' has no \[MASK\]"):
        check_samples(resolve(config))
    config = base_config("bilm")
    config.log.samples = 1
    config.eval.every = 10
    with pytest.raises(ConfigError, match="a bilstm is there to be read by tasks"):
        check_samples(resolve(config))


def test_a_task_has_no_prompts_of_ones_own():
    config = base_config("classification")
    config.objective.labels = ("a", "b")
    config.data.records.train = ("x.csv",)
    config.eval.every = 10
    config.log.samples = 2
    check_samples(resolve(config))
    config.log.sample_prompts = ("the",)
    with pytest.raises(ConfigError, match="log.sample_prompts = .* is for pretraining"):
        check_samples(resolve(config))


def test_the_best_of_no_evaluations_is_refused():
    config = base_config("clm")
    config.checkpoint.keep_best = True
    with pytest.raises(ConfigError, match="checkpoint.keep_best = True .* eval.every = 0 makes none"):
        resolve(config)
    config.eval.every = 10
    assert resolve(config).checkpoint.keep_best


def test_a_ladder_refuses_runs_that_may_end_early():
    config = base_config("clm")
    config.eval.every = 10
    config.eval.patience = 3
    with pytest.raises(ConfigError, match="eval.patience = 3 would end runs of a ladder"):
        plan({"budget": 1e15}, config)


def test_defaults_ask_for_nothing():
    config = resolve(base_config("clm"))
    assert not config.checkpoint.keep_best and not config.eval.patience and not config.log.samples_wanted
    assert np.isfinite(config.eval.min_delta) and config.eval.metric == "loss"
