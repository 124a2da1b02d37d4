"""Adapters over a base in 8 and 4 bits: they train, resume, load and merge."""

import json

import jax
import numpy as np
import pytest

import tlx
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx import cli
from tlx.adapt.config import AdaptConfig
from tlx.base import tree
from tlx.base.errors import CheckpointError, ConfigError
from tlx.base.tree import is_quantized
from tlx.checkpoint import load_params
from tlx.run import finetune_config
from tlx.trainer.base_model import load_base
from tlx.training.journal import read_lines

pytest.importorskip("qwix")
TEXTS = ["aei", "bcd", "a", "b", "oooo"]


def task(folder, **adapt):
    """The config of a small classification: vowels or consonants."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(64):
        letters, label = (("aeiou", "vowels"), ("bcdfg", "consonants"))[number % 2]
        rows.append({"text": "".join(rng.choice(list(letters), 6)), "label": label})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = finetune_config("classification")
    config.data.records.train = (str(folder / "rows.jsonl"),)
    config.data.records.epochs = 0
    config.data.sequence_length = 16
    config.train.batch_size = 8
    config.train.steps = 120
    config.log.every = 1
    config.eval.final = False
    config.log.tensorboard = False
    config.optimizer.learning_rate = 2e-2
    config.optimizer.schedule.name = "constant"
    config.optimizer.schedule.warmup = 1
    config.adapt.update({"method": "lora", "size": 8, "base_weights": "nf4", **adapt})
    return config


def losses(run):
    return [
        line["loss"] for line in read_lines(run / "metrics.jsonl") if line.get("kind", "train") == "train"
    ]


def leaves(params):
    return {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, the model of a run over a base in NF4)."""
    folder = tmp_path_factory.mktemp("qlora")
    write_run(folder / "base", "clm")
    model, _ = tlx.finetune(task(folder), base=folder / "base", workdir=folder / "run")
    return folder, model


@pytest.mark.slow
def test_it_trains_over_matrices_that_stay(trained):
    folder, model = trained
    values = losses(folder / "run")
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])
    saved = tree.flatten(load_params(folder / "run").tree)
    assert saved and all(path.startswith("heads/") or "lora_" in path for path in saved)
    stored = {
        path: leaf for path, leaf in tree.flatten(model.params, is_quantized).items() if is_quantized(leaf)
    }
    assert {str(leaf.qtype) for leaf in stored.values()} == {"nf4", "int8"}
    base = load_base(folder / "base", adapt=AdaptConfig("lora", base_weights="nf4"))
    for path, leaf in leaves({"model": base.params["model"]}).items():
        np.testing.assert_array_equal(leaves(model.params)[path], leaf)
    # The hash is that of the base in full.
    assert base.record.hash == load_base(folder / "base").record.hash


@pytest.mark.slow
def test_it_resumes_bit_for_bit(trained):
    folder, model = trained
    config = task(folder)
    config.train.steps = 50
    tlx.finetune(config, base=folder / "base", workdir=folder / "resumed")
    again, _ = tlx.finetune(
        task(folder), base=folder / "base", workdir=folder / "resumed", allow_change=("train.steps",)
    )
    found = leaves(again.params)
    for path, leaf in leaves(model.params).items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.slow
def test_it_is_loaded_and_merged(trained):
    folder, model = trained
    expected = model.predict(TEXTS)
    loaded = tlx.load(folder / "run")
    assert loaded.predict(TEXTS) == expected
    for path, leaf in leaves(model.params).items():
        np.testing.assert_array_equal(leaves(loaded.params)[path], leaf)
    assert cli.main(["convert", "merge", str(folder / "run"), str(folder / "merged")]) == 0
    merged = tlx.load(folder / "merged")
    assert not any(is_quantized(leaf) for leaf in tree.flatten(merged.params, is_quantized).values())
    for one, other in zip(expected, merged.predict(TEXTS), strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-4)
    with pytest.raises(ConfigError, match="weights = 'int8': the run was trained on a base in nf4"):
        tlx.load(folder / "run", weights="int8")
    write_run(folder / "other", "clm", steps=(5,))
    with pytest.raises(CheckpointError, match="whose parameters were others"):
        tlx.load(folder / "run", base=folder / "other")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "weights"),
    tiers(
        [("bitfit", "int4"), ("houlsby", "nf4"), ("prefix", "int8"), ("prompt", "int4"), ("fl", "nf4")],
        slow=[("houlsby", "nf4"), ("prompt", "int4")],
    ),
)
def test_every_method_trains_over_stored_matrices(tmp_path, method, weights):
    write_run(tmp_path / "base", "clm")
    config = task(tmp_path, method=method, size=2, base_weights=weights)
    config.train.steps = 6
    model, _ = tlx.finetune(config, base=tmp_path / "base", workdir=tmp_path / "run")
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert tlx.load(tmp_path / "run").predict(TEXTS) == model.predict(TEXTS)


@pytest.mark.slow
def test_what_is_trained_is_not_stored_in_bits(tmp_path):
    write_run(tmp_path / "base", "clm")
    adapt = AdaptConfig("lora", base_weights="int4", also_train=("embedding/table$",))
    base = tree.flatten(load_base(tmp_path / "base", adapt=adapt).params, is_quantized)
    assert not is_quantized(base["model/embedding/table"])
    assert is_quantized(base["model/decoder/blocks/feedforward/in/kernel"])
    assert isinstance(base["model/embedding/table"], np.ndarray)
    assert jax.devices("cpu")[0] in base["model/decoder/blocks/feedforward/in/kernel"].qvalue.devices()


def test_mistakes():
    with pytest.raises(ConfigError, match="method 'full' trains all matrices"):
        AdaptConfig("full", base_weights="int4").validate()
    AdaptConfig("lora", base_weights="int4").validate()
