"""Every objective learns: the tiny configs of configs/pretrain beside the unigram of their own targets.

By hand, with the figures of configs/pretrain/README.md: pytest -m long -s tests/configs/test_learning.py
"""

import runpy

import jax
import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tlx import parallel
from tlx.evaluate import ngram
from tlx.run import assemble, resolve

# One config for each objective that needs no teacher.
CONFIGS = {
    "bart": "bart",
    "bilm": "elmo",
    "clm": "gpt2",
    "ctrl": "ctrl",
    "denoising": "t5:spans",
    "deshuffling": "t5:deshuffling",
    "dialogue": "lamda",
    "mass": "mass",
    "mbart": "mbart",
    "mixture": "mixture",
    "mlm": "roberta",
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


SPARSE = ("nsp", "plm", "rtd", "sop", "span_boundary")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Of the eight: what is asked here is not how they work together."""
    make_mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("objective", CONFIGS)
def test_starts_to_learn(objective):
    """Below the unigram after 100 steps, about 10 seconds; where few tokens have a loss, after 200."""
    loss, unigram, means = trained(objective, 200 if objective in SPARSE else 100)
    assert loss < 0.98 * unigram, (loss, unigram)
    for name, value in means.items():
        assert np.isfinite(value), name


@pytest.mark.long
@pytest.mark.parametrize("objective", CONFIGS)
def test_learns(objective):
    """1,500 steps, two minutes: far below."""
    loss, unigram, means = trained(objective, 1500)
    others = ", ".join(f"{name} {value:.3f}" for name, value in sorted(means.items()))
    print(f"\n{objective}: {loss:.3f} of {unigram:.3f} ({loss / unigram:.0%}); {others}")
    assert loss < 0.9 * unigram, (loss, unigram)


def trained(objective, steps):
    """(mean loss of the last 20 steps, the unigram's on their targets, means of their other terms)."""
    name, _, variant = CONFIGS[objective].partition(":")
    arg = ":".join(filter(None, [variant, "tiny"]))
    config = runpy.run_path(str(ROOT / "configs/pretrain" / f"{name}.py"))["get_config"](arg)
    config.train.steps, config.loss.label_smoothing = steps, 0.0  # nats, not those of smoothed labels
    config.model.execution.unroll = 1
    run = assemble(resolve(config))
    seen, found = [], []
    with run.use():
        state = run.init()
        for k in range(steps):
            batch = run.train.batch(k)
            seen.append(batch["targets"][batch["weights"] > 0])
            state, metrics = run.step(state, run.place(batch))
            found = [*found[-19:], metrics]
    means = {key: float(np.mean([metrics[key] for metrics in found])) for key in found[-1]}
    unigram = ngram.fit_unigram(np.concatenate(seen), run.tokenizer.vocab.size)
    wanted = ("_loss", "_accuracy", "_precision", "_recall", "/loss", "/accuracy", "accuracy")
    others = {key: value for key, value in means.items() if key.endswith(wanted) and key != "total_loss"}
    return means["loss"], -unigram.log_probs(np.concatenate(seen[-20:])).mean(), others
