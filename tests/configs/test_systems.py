"""Whole systems learn at the size of a laptop: MobileBERT, tasks on a frozen ELMo, Q8BERT."""

import jax
import numpy as np
import pytest

import tlx
from tests.cli.test_finetune import finetune, folder  # noqa: F401
from tests.configs.test_learning import one_device, tiny_config, trained  # noqa: F401
from tests.run_directory import write_run
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


SYSTEMS = {"mobilebert": mobilebert, "elmo": elmo, "q8bert": q8bert}


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_learns(system, folder, tmp_path):  # noqa: F811
    SYSTEMS[system](folder, tmp_path)
