"""Every objective learns: the tiny configs of configs/pretrain beside the unigram of their own targets.

By hand, with the figures of configs/pretrain/README.md: pytest -m long -s tests/configs/test_learning.py
"""

import runpy
from typing import NamedTuple

import jax
import numpy as np
import pytest

from tests.cli.tiny import ROOT, finish, tlx
from tests.tiers import tiers
from tlx import parallel
from tlx.evaluation import ngram
from tlx.run.assemble import assemble
from tlx.run.checks import resolve

# One config for each objective that needs no teacher, and Meena's for the Evolved Transformer.
CONFIGS = {
    "bart": "bart",
    "bilm": "elmo",
    "clm": "gpt2",
    "ctrl": "ctrl",
    "denoising": "t5:spans",
    "evolved": "meena",
    "deshuffling": "t5:deshuffling",
    "dialogue": "lamda",
    "mass": "mass",
    "mbart": "mbart",
    "mixture": "mixture",
    "mlm": "roberta",
    "multi_token": "multi_token",
    "nsp": "bert",
    "plm": "xlnet",
    "prefix_lm": "prefix_lm",
    "recurrent_lm": "transformer_xl",
    "rtd": "electra",
    "seq2seq_dialogue": "blenderbot",
    "sop": "albert",
    "span_boundary": "spanbert",
    "span_corruption": "t5",
    "text_to_text": "marian",
    "ul2": "ul2",
    "xlm": "xlm",
}

# And those that need one: which of their losses fall from what they are at first.
TAUGHT = {
    "distilbert": ("soft_loss", "cosine_loss"),
    "tinybert": ("attention_loss", "hidden_loss", "embedding_loss"),
}

# Whose beginnings CI sees.
IN_CI = ("clm",)

SPARSE = ("nsp", "plm", "rtd", "sop", "span_boundary")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Of the eight: what is asked here is not how they work together."""
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of BERT's tiny config, which has begun to learn."""
    folder = tmp_path_factory.mktemp("teacher")
    words = ("train.steps=200", "eval.every=0", "eval.final=False", "log.tensorboard=False")
    words = [f"--config.{word}" for word in words]
    finish(tlx("train", f"--config={ROOT}/configs/pretrain/bert.py:tiny", f"--workdir={folder}", *words))
    return folder


@pytest.mark.parametrize("objective", tiers(CONFIGS, slow=IN_CI))
def test_starts_to_learn(objective):
    """Below the unigram after 100 steps, about 10 seconds; where few tokens have a loss, after 200."""
    found = trained(tiny_config(CONFIGS[objective], 200 if objective in SPARSE else 100))
    assert found.loss < 0.98 * found.unigram, found
    for name, value in found.last.items():
        assert np.isfinite(value), name


@pytest.mark.parametrize("name", tiers(TAUGHT, slow=()))
def test_starts_to_learn_from_a_teacher(name, teacher):
    """A quarter of what they were after 60 steps: the losses of what the teacher says."""
    config = tiny_config(name, 60)
    config.objective.teacher = str(teacher)
    found = trained(config)
    for loss in TAUGHT[name]:
        assert found.last[loss] < 0.25 * found.first[loss], (loss, found)
    if name == "distilbert":
        assert found.loss < 0.98 * found.unigram, found


@pytest.mark.long
@pytest.mark.parametrize("objective", CONFIGS)
def test_learns(objective):
    """1,500 steps, two minutes: far below."""
    found = trained(tiny_config(CONFIGS[objective], 1500))
    others = ", ".join(f"{name} {value:.3f}" for name, value in sorted(found.last.items()))
    share = found.loss / found.unigram
    print(f"\n{objective}: {found.loss:.3f} of {found.unigram:.3f} ({share:.0%}); {others}")
    assert all(np.isfinite(value) for value in found.last.values())
    assert found.loss < 0.9 * found.unigram, found


class Outcome(NamedTuple):
    """Mean loss of the last 20 steps, the unigram's of their targets; other losses, first and last."""

    loss: float
    unigram: float
    first: dict[str, float]
    last: dict[str, float]


def tiny_config(config, steps):
    """The tiny variant of "NAME" or "NAME:VARIANT" of configs/pretrain."""
    name, _, variant = config.partition(":")
    arg = ":".join(filter(None, [variant, "tiny"]))
    config = runpy.run_path(str(ROOT / "configs/pretrain" / f"{name}.py"))["get_config"](arg)
    config.train.steps, config.loss.label_smoothing = steps, 0.0  # nats, not those of smoothed labels
    config.model.execution.unroll = 1
    return config


def trained(config):
    """Outcome of all its steps."""
    run = assemble(resolve(config))
    seen, found = [], []
    with run.use():
        state = run.init()
        for k in range(config.train.steps):
            batch = run.train.batch(k)
            seen.append(batch["targets"][batch["weights"] > 0])
            state, metrics = run.step(state, run.to_devices(batch))
            found.append(metrics)
    unigram = ngram.fit_unigram(np.concatenate(seen), run.tokenizer.vocab.size)
    means = {key: float(np.mean([metrics[key] for metrics in found[-20:]])) for key in found[-1]}
    return Outcome(
        means["loss"],
        -unigram.log_probs(np.concatenate(seen[-20:])).mean(),
        chosen({key: float(value) for key, value in found[0].items()}),
        chosen(means),
    )


def chosen(metrics):
    """Losses and rates but the first."""
    wanted = ("_loss", "_accuracy", "_precision", "_recall", "/loss", "/accuracy", "accuracy")
    return {key: value for key, value in metrics.items() if key.endswith(wanted) and key != "total_loss"}
