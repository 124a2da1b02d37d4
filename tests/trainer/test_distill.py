"""Students of fine-tuned teachers: TinyBERT's stages of a task, stored log-probabilities, and runs that resume."""

import json

import jax
import numpy as np
import pytest

import tlx
from tests.run_directory import write_run
from tlx.base.errors import ConfigError
from tlx.run.config import finetune_config
from tlx.trainer import teacher_log_probs


def records(folder, name, lines):
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return (str(path),)


def config_of(task, folder, lines, **values):
    config = finetune_config(task)
    files = records(folder, task, lines)
    config.data.records.train = config.data.records.validation = files
    config.data.records.epochs = 0.0
    config.data.sequence_length = 32
    config.train.batch_size = 8
    config.optimizer.learning_rate = 1e-2
    config.optimizer.schedule.name = "constant"
    config.optimizer.schedule.warmup = 0
    config.log.tensorboard = False
    config.log.every = 1
    for key, value in values.items():
        group, name = key.split("__")
        config[group][name] = value
    return config


CLASSES = [{"text": "ab" * (number % 7 + 1), "label": "ab"[number % 2]} for number in range(24)]
PAIRS = [{"source": f"{number}+1=", "target": str(number + 1)} for number in range(24)]


def fresh(config, kind, width=16):
    model = config.model
    model.kind, model.width, model.num_layers = kind, width, 2
    model.attention.num_heads = 2
    model.position.kind = "rotary"
    model.execution.unroll = 1
    config.tokenizer.kind = "bytes"
    return config


def lines_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def assert_same(one, other):
    for leaf, again in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(leaf, again)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A classifier that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("teacher")
    config = fresh(config_of("classification", folder, CLASSES, train__steps=30), "encoder", width=24)
    tlx.finetune(config, workdir=folder / "run")
    return folder / "run"


@pytest.mark.long
def test_tinyberts_two_stages_of_a_task(tmp_path, teacher):
    """Layers first, then the distribution; interrupted, the result is the same, and it is a run like any other."""

    def student(workdir, steps, base=None, **distill):
        config = config_of("classification", tmp_path, CLASSES, train__steps=steps, checkpoint__every=6)
        if base is None:
            fresh(config, "encoder")
        for name, value in ({"teacher": str(teacher)} | distill).items():
            config.distill[name] = value
        return tlx.finetune(config, base=base, workdir=tmp_path / workdir)

    layers = {"soft_weight": 0.0, "attention_weight": 1.0, "hidden_weight": 1.0, "embedding_weight": 1.0}
    whole = student("layers", 12, **layers)
    first, *_, last = lines_of(tmp_path / "layers")
    names = ("attention_loss", "hidden_loss", "embedding_loss")
    assert sum(last[name] for name in names) < 0.9 * sum(first[name] for name in names)
    assert student("resumed", 6, **layers).model.step == 6
    assert_same(whole.model, student("resumed", 12, **layers).model)
    student("soft", 30, base=tmp_path / "layers")
    first, *_, last = lines_of(tmp_path / "soft")
    assert last["soft_loss"] < 0.5 * first["soft_loss"]
    loaded = tlx.load(tmp_path / "layers")
    assert loaded.predict("abab")["label"] in ("a", "b")
    texts = [line["text"] for line in CLASSES[:14]]
    ours, theirs = (tlx.load(run).predict(texts) for run in (tmp_path / "soft", teacher))
    assert np.mean([a["label"] == b["label"] for a, b in zip(ours, theirs, strict=True)]) > 0.7


@pytest.mark.long
def test_stored_log_probabilities_teach_as_the_teacher_does(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    teacher = write_run(tmp_path / "teacher", "clm", steps=(5,))
    base = write_run(tmp_path / "base", "clm", steps=(3,))

    def student(workdir, steps, **distill):
        config = config_of("generation", tmp_path, PAIRS, train__steps=steps, checkpoint__every=4)
        config.objective.target_length = 6
        for name, value in ({"teacher": str(teacher), "temperature": 2.0} | distill).items():
            config.distill[name] = value
        return tlx.finetune(config, base=base, workdir=tmp_path / workdir)

    student("live", 8)
    everything = student("all", 8, top_k=363)
    for live, stored in zip(lines_of(tmp_path / "live"), lines_of(tmp_path / "all"), strict=True):
        assert stored["soft_loss"] == pytest.approx(live["soft_loss"], rel=1e-3)
    assert lines_of(tmp_path / "live")[-1]["soft_loss"] < 0.8 * lines_of(tmp_path / "live")[0]["soft_loss"]
    few = student("few", 8, top_k=4)
    assert student("half", 4, top_k=4).model.step == 4
    monkeypatch.setattr(teacher_log_probs, "_compute", None)  # it would be called: what is stored is read
    assert_same(few.model, student("half", 8, top_k=4).model)
    assert lines_of(tmp_path / "few")[0]["soft_loss"] < lines_of(tmp_path / "live")[0]["soft_loss"]
    assert isinstance(tlx.load(tmp_path / "all").predict({"source": "1+1="})["answer"], str)
    assert everything.metrics["validation"]["loss"] > 0


@pytest.mark.slow
def test_what_cannot_be_distilled_is_said_before_anything_is_compiled(tmp_path, teacher):
    config = fresh(config_of("classification", tmp_path, CLASSES, train__steps=1), "encoder")
    config.distill.teacher = str(teacher)
    for changes, message in (
        ({"top_k": 4}, "few outcomes"),
        ({"hidden_weight": 1.0, "layer_map": (3, 1)}, "distill.layer_map = .3, 1. must name"),
        ({"teacher": str(tmp_path)}, "distill.teacher = .* is neither a run directory"),
    ):
        values = {f"distill.{name}": value for name, value in changes.items()}
        with pytest.raises((ConfigError, tlx.UserError), match=message):
            tlx.finetune(config, workdir=tmp_path / "run", overrides=values)
    assert not (tmp_path / "run").exists()
