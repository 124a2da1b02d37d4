"""Whole systems learn at the size of a laptop: MobileBERT, tasks on a frozen ELMo, Q8BERT."""

import runpy

import jax
import numpy as np
import pytest

import tlx
from tests.cli.test_finetune import finetune, folder  # noqa: F401
from tests.cli.tiny import ROOT
from tests.configs.test_learning import one_device, tiny_config, trained  # noqa: F401
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx import cli
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import read_json


def mobilebert(records, tmp_path):
    """Below the unigram of its masked tokens after 200 steps, as the other objectives."""
    outcome = trained(tiny_config("mobilebert", 200))
    assert outcome.loss < 0.98 * outcome.unigram, outcome


def elmo(records, tmp_path):
    """A mix of the layers of a bilm of random parameters, which stay as they are, under an LSTM that learns."""
    base = write_run(tmp_path / "base", "bilm")
    words = ("--config.adapt.method=head", "--config.objective.head.lstm_width=16")
    assert finetune(records, tmp_path / "run", *words, base=base) == 0
    assert read_json(tmp_path / "run/scores.json")["test"]["accuracy"] > 0.9  # chance: one half
    lm = tlx.load(tmp_path / "run")
    assert lm.config.model.recurrent.characters.max_characters == 6
    before = tree.flatten(tlx.load(base).params)
    for path, leaf in tree.flatten(lm.params["model"]).items():
        np.testing.assert_array_equal(leaf, before[f"model/{path}"], err_msg=path)
    mix = lm.params["heads"]["classification_reader"]["mix"]
    assert np.abs(np.asarray(mix["weights"])).max() > 1e-3 and float(mix["gamma"]) != 1.0
    assert [answer["label"] for answer in lm.predict(["aeia", "bcdf"])] == ["yes", "no"]


def q8bert(records, tmp_path):
    """Fine-tuned with 8 bits; products of integers give the same classes, and nearly the same probabilities."""
    base = write_run(tmp_path / "base", "mlm")
    words = ("--config.model.quantization.bits=8", "--config.model.quantization.decay=0.9")
    assert finetune(records, tmp_path / "run", *words, base=base) == 0
    assert read_json(tmp_path / "run/scores.json")["test"]["accuracy"] > 0.9
    lm = tlx.load(tmp_path / "run")
    texts = ["aeia", "bcdf", "uuo", "ggc", "o", "dbfcgbfdc"]
    simulated = lm.predict(texts)
    integers = lm.with_integers().predict(texts)
    assert [answer["label"] for answer in integers] == [answer["label"] for answer in simulated]
    pairs = zip(integers, simulated, strict=True)
    assert max(abs(a["probability"] - b["probability"]) for a, b in pairs) < 0.02
    ranges = {path: leaf for path, leaf in tree.flatten(lm.params).items() if path.endswith("_range")}
    assert ranges and all(np.all(np.asarray(leaf)[..., 1] > 10) for leaf in jax.device_get(ranges).values())
    with pytest.raises(ConfigError, match="was not trained to be quantised"):
        tlx.load(base).with_integers()


def bart_with_a_new_encoder(records, tmp_path):
    """First the new encoder and the input projections of the old one's first layer learn, then everything."""
    base = write_run(tmp_path / "base", "bart")
    (records / "words.py").write_text((records / "task.py").read_text().replace("arg or", '"generation" or'))
    words = ["source={text}", "target={label}", "target_length=8", "num_beams=0", "metrics=('exact_match',)"]
    words = [f"--config.objective.{word}" for word in words]

    def run(name, source, *changes):
        start = [f"--config={records / 'words.py'}", f"--workdir={tmp_path / name}", f"--from={source}"]
        assert cli.main(["finetune", *start, *words, *changes]) == 0
        return tree.flatten(jax.device_get(tlx.load(tmp_path / name).params))

    get_config = runpy.run_path(str(ROOT / "configs/finetune/translation.py"))["get_config"]
    # The base has one layer, and no table of positions.
    patterns = tuple(rule for rule in get_config("new_encoder").optimizer.freeze if "[1:]" not in rule)
    first = run(
        "first",
        base,
        f"--config.optimizer.freeze={patterns!r}",
        "--config.model.source_encoder_layers=1",
        "--config.data.records.epochs=1",
    )
    before = tree.flatten(jax.device_get(tlx.load(base).params))
    old = {path for path in before if path.startswith("model/")}
    moved = {path for path in old if not np.array_equal(before[path], first[path])}
    assert {path.split("/")[-2] for path in moved} == {"query", "key", "value"}, moved
    assert all(path.startswith("model/encoder/blocks/attention/") for path in moved)
    assert any(path.startswith("model/source_encoder/blocks/") for path in first)
    run("second", tmp_path / "first")
    assert read_json(tmp_path / "second/scores.json")["test"]["exact_match"] > 0.9


SYSTEMS = {
    "mobilebert": mobilebert,
    "elmo": elmo,
    "q8bert": q8bert,
    "bart_with_a_new_encoder": bart_with_a_new_encoder,
}


@pytest.mark.parametrize("system", tiers(SYSTEMS, slow=["elmo"]))
def test_a_system_learns(system, folder, tmp_path):  # noqa: F811
    SYSTEMS[system](folder, tmp_path)
