"""`tlx.train` in this process: the command line's run bit for bit, stopped and resumed."""

import itertools
import json
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

import tlx
from tests.cli import tiny
from tlx import cli
from tlx.base import tree
from tlx.base.config_files import load_config
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.saving import SaveJob
from tlx.run.checks import resolve
from tlx.trainer import driver, pretrain
from tlx.training.journal import read_lines
from tlx.training.preemption import SIGNALS, Preemption

STEPS = {"train.steps": 6, "eval.every": 0, "eval.final_batches": 2}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return f"{tiny.write_config(tmp_path_factory.mktemp('config'))}:clm"


@pytest.fixture(scope="module")
def of_command_line(config_file, tmp_path_factory):
    """The run directory of `tlx train`."""
    workdir = tmp_path_factory.mktemp("runs") / "cli"
    words = [f"--config.{key}={value}" for key, value in STEPS.items()]
    assert cli.main(["train", f"--config={config_file}", f"--workdir={workdir}", *words]) == 0
    return workdir


@pytest.fixture
def nothing_left_behind():
    """Checks that signal handlers are as before, and that no thread of the trainer lives on."""
    before = [signal.getsignal(number) for number in SIGNALS]
    others = set(threading.enumerate())
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before
    names = {thread.name for thread in threading.enumerate() if thread not in others}
    assert not names & {"preemption", "watchdog", "lease", "trackers"}


def assert_same(model, workdir):
    """Whether the model's parameters are those saved in a run directory, bit for bit."""
    expected = tree.flatten(tlx.load(workdir).params)
    params = tree.flatten(model.params)
    assert params.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(params[path], leaf, err_msg=path)


@pytest.mark.slow
def test_it_is_the_run_of_the_command_line(config_file, of_command_line, tmp_path, nothing_left_behind):
    """Of a RunConfig, and of a path; each with the config that the command line has saved."""
    saved = json.loads((of_command_line / "run.json").read_text())
    config = load_config(config_file)
    config.name = "tiny-clm"
    for key, value in STEPS.items():
        group, name = key.split(".")
        config[group][name] = value
    model, metrics = tlx.train(resolve(config), workdir=tmp_path / "of_run_config")
    assert_same(model, of_command_line)
    lines = read_lines(of_command_line / "metrics.jsonl")
    assert metrics["loss"] == lines[-1]["loss"] and lines[-1]["step"] == 6
    assert json.loads((tmp_path / "of_run_config/run.json").read_text())["config"] == saved["config"]
    # The command line's own run, resumed at its end from a path: the same config, or it would be refused.
    result = tlx.train(config_file, overrides=STEPS, workdir=of_command_line)
    assert_same(result.model, of_command_line)


@pytest.mark.slow
def test_the_model_shares_the_trained_arrays(config_file, of_command_line, tmp_path, monkeypatch, capsys):
    """Samples and the returned model are of the arrays in memory; nothing is read from disk or copied."""
    states = []
    trained_model = driver.trained_model

    def noting(run, state, workdir):
        states.append(state.params)
        return trained_model(run, state, workdir)

    monkeypatch.setattr(driver, "trained_model", noting)
    monkeypatch.setattr("tlx.api.load.load", None)
    result = tlx.train(config_file, overrides=STEPS | {"eval.final": True}, workdir=tmp_path / "run")
    for leaf, trained in zip(jax.tree.leaves(result.model.params), jax.tree.leaves(states), strict=True):
        assert leaf.unsafe_buffer_pointer() == trained.addressable_data(0).unsafe_buffer_pointer()
    out = capsys.readouterr().out
    assert "this model" in out and out.count("--- the model") == 2 and "next:" not in out
    monkeypatch.undo()
    loaded = tlx.load(tmp_path / "run")
    assert (result.model.config, result.model.step) == (loaded.config, loaded.step)
    assert result.model.generate("the model", max_tokens=4, temperature=0) == loaded.generate(
        "the model", max_tokens=4, temperature=0
    )
    (final,) = [line for line in read_lines(tmp_path / "run/metrics.jsonl") if line["kind"] == "final"]
    assert result.metrics.items() <= final.items()
    shown = str(result)
    assert f"{tmp_path / 'run'} at step 6: clm, decoder" in shown and f"{final['loss']:.4f}" in shown


@pytest.mark.slow
def test_an_interrupt_saves_and_the_next_call_resumes(
    config_file, of_command_line, tmp_path, monkeypatch, nothing_left_behind
):
    """The signal of ^C, and of a notebook that interrupts its kernel, during the third step."""
    calls = itertools.count(1)
    agreed = Preemption.agreed

    def interrupted(preemption):
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            while preemption.why is None:
                time.sleep(0.01)
        return agreed(preemption)

    monkeypatch.setattr(Preemption, "agreed", interrupted)
    with pytest.raises(tlx.Preempted, match="preempted at step 3, saved, rerun to resume"):
        tlx.train(config_file, overrides=STEPS, workdir=tmp_path / "run")
    assert not (tmp_path / "run/lease.json").exists()
    model, _ = tlx.train(config_file, overrides=STEPS, workdir=tmp_path / "run")
    assert_same(model, of_command_line)
    events = [line["event"] for line in read_lines(tmp_path / "run/events.jsonl")]
    assert [event for event in events if "checkpoint" not in event] == ["start", "preempt", "resume", "end"]


@pytest.mark.slow
def test_a_request_in_the_final_evaluation_is_honoured(
    config_file, of_command_line, tmp_path, monkeypatch, nothing_left_behind
):
    """Every step is saved, and the next call evaluates."""
    evaluate = pretrain.evaluate

    def interrupted(scorer, params, batches, memory, to_devices):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # its thread notes it
        return evaluate(scorer, params, batches, memory, to_devices)

    final = STEPS | {"eval.final": True}
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "evaluate", interrupted)
        with pytest.raises(
            tlx.Preempted, match="in the final evaluation, step 6 is saved, rerun to evaluate"
        ):
            tlx.train(config_file, overrides=final, workdir=tmp_path / "run")
    lines = read_lines(tmp_path / "run/events.jsonl")
    assert [line["during"] for line in lines if line["event"] == "preempt"] == ["final evaluation"]
    model, metrics = tlx.train(config_file, overrides=final, workdir=tmp_path / "run")
    assert_same(model, of_command_line)
    assert [line["kind"] for line in read_lines(tmp_path / "run/metrics.jsonl")][-1] == "final" and metrics[
        "loss"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["save in flight", "compile", "evaluation"])
def test_a_request_at_any_moment_saves_once_and_loses_nothing(
    config_file, of_command_line, tmp_path, monkeypatch, nothing_left_behind, moment
):
    """During the save of step 2, the first step's compilation, and the evaluation at step 2."""
    overrides = STEPS | {"checkpoint.every": 2, "eval.every": 2, "eval.batches": 1}
    owners = {
        "save in flight": (SaveJob, "_seal"),
        "compile": (driver, "train"),
        "evaluation": (pretrain, "evaluate"),
    }
    owner, name = owners[moment]
    whole = getattr(owner, name)
    asked = []

    def interrupted(*args, **kwargs):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
            time.sleep(0.2)  # the watching thread notes it
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(tlx.Preempted, match="preempted at step [1-4], saved"):
            tlx.train(config_file, overrides=overrides, workdir=tmp_path / "run")
    lines = read_lines(tmp_path / "run/events.jsonl")
    saves = [line["step"] for line in lines if line["event"] == "checkpoint_saved"]
    assert len(saves) == len(set(saves))
    model, _ = tlx.train(config_file, overrides=overrides, workdir=tmp_path / "run")
    assert_same(model, of_command_line)
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4, 6]


@pytest.mark.slow
def test_an_interrupt_in_the_middle_gives_everything_back(
    config_file, tmp_path, monkeypatch, nothing_left_behind
):
    """Of a user who will not wait for the save."""

    def interrupted(checkpoints, step, tree, extra):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tlx.train(config_file, overrides=STEPS, workdir=tmp_path / "run")
    assert not (tmp_path / "run/lease.json").exists()


@pytest.mark.slow
def test_it_works_on_another_thread(config_file, of_command_line, tmp_path, nothing_left_behind):
    """Where Python allows no signal handlers."""
    results = []
    thread = threading.Thread(
        target=lambda: results.append(tlx.train(config_file, overrides=STEPS, workdir=tmp_path / "run"))
    )
    thread.start()
    thread.join()
    assert_same(results[0].model, of_command_line)


def test_a_task_is_for_finetune(tmp_path):
    with pytest.raises(tlx.UserError, match="use: tlx finetune"):
        tlx.train("finetune/quickstart:tiny", workdir=tmp_path / "run")
