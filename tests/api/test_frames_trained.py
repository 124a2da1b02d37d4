"""A trained BART is scored and read in its own frame; in T5's it is a worse model.

pytest -m slow -s tests/api/test_frames_trained.py
"""

import dataclasses

import numpy as np
import pytest

import tlx
from tests.cli import tiny
from tests.configs.test_learning import one_device  # noqa: F401
from tlx.nn.losses import token_losses
from tlx.objectives import TABLE
from tlx.run.spec import spec_of

LENGTH = 28
OVERRIDES = {
    "train.steps": 600,
    "train.batch_size": 16,
    "model.dropout": 0.0,
    "eval.every": 0,
    "checkpoint.every": 600,
    "log.every": 100,
    "log.print_every": 100,
}


def nats_per_token(lm, texts):
    """Loss of the texts that are written after they were read, by the text call."""
    scores = lm.score(texts, texts)
    return -sum(s.log_likelihood for s in scores) / sum(s.num_tokens for s in scores)


@pytest.mark.long
def test_a_trained_bart_is_scored_in_its_own_frame(tmp_path):
    """Its score is the loss of clean examples; in T5's frame, in which it was scored once, it is clearly worse."""
    config = tiny.write_config(tmp_path)
    lm = tlx.train(f"{config}:bart", workdir=str(tmp_path / "run"), overrides=OVERRIDES).model
    vocab = lm.tokenizer.vocab
    words = tiny._WORDS
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 10))[:LENGTH] for _ in range(40)]
    spec = spec_of(lm.config, lm.tokenizer)
    bart = TABLE.load("bart")
    rows = [bart.clean_example((np.array(lm.tokenizer.encode(text), np.int32),), spec) for text in texts]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    (hidden, unembedding), _ = lm.module.apply({"params": lm.params}, batch, None, None, method="predictions")
    losses = np.asarray(token_losses(hidden, unembedding, batch["targets"])[0])
    is_text = (batch["weights"] > 0) & ~np.isin(batch["targets"], (vocab.bos, vocab.eos))
    assert is_text.sum() == len(texts) * LENGTH
    own = nats_per_token(lm, texts)
    assert own == pytest.approx(losses[is_text].mean(), rel=1e-4)
    t5 = dataclasses.replace(lm.frame, before=(), start=(vocab.bos,), begin=())
    wrong = dataclasses.replace(lm, config=dataclasses.replace(lm.config, frame=t5))
    print(f"\n{own:.3f} nats a token, in T5's frame {nats_per_token(wrong, texts):.3f}")
    assert nats_per_token(wrong, texts) > 2 * own
