"""Log-probabilities of texts against plain forward passes, for every shape of model, long texts included."""

import functools

import jax
import numpy as np
import pytest

from tlx.base.errors import ConfigError
from tlx.evaluation import scoring
from tlx.models.config import ModelConfig
from tlx.nn.config import AttentionConfig, ExecutionConfig, InitConfig, PositionConfig
from tlx.objectives import TABLE
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.parallel import unbox
from tlx.text import Vocabulary

VOCAB = Vocabulary(61, num_sentinels=4)
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(7, 57, size=n).tolist() for n in (5, 0, 5, 12, 29)]
SOURCES = [RNG.integers(7, 57, size=n).tolist() for n in (3, 8, 3, 1, 20)]
LENGTH = 12


@functools.cache
def built(objective: str, position: str = "rotary"):
    parts = TABLE.load(objective)
    model = ModelConfig(
        kind=parts.kinds[0],
        vocab_size=61,
        width=16,
        num_layers=1,
        block_layout="post" if objective == "plm" else "pre",
        attention=AttentionConfig(num_heads=2),
        position=PositionConfig(
            kind="relative_sinusoidal" if objective == "plm" else position, max_length=32
        ),
        init=InitConfig(stddev=0.4, embedding_stddev=0.4),
        execution=ExecutionConfig(unroll=1),
    )
    config = parts.config_class(**({"mem_len": 4} if objective == "plm" else {}))
    module = parts.module(config, model)
    params = unbox(
        jax.jit(module.init)(jax.random.key(0), example(objective, TEXTS[0], SOURCES[0]))["params"]
    )
    return module, params


@functools.partial(jax.jit, static_argnums=0)
def forward(objective, batch):
    module, params = built(objective)
    return jax.nn.log_softmax(module.apply({"params": params}, batch, method="logits")[0])


def arrays(tokens, prefix=""):
    ones = np.ones((1, len(tokens)), np.int32)
    order = np.arange(len(tokens))[None]
    return {prefix + "tokens": np.array([tokens]), prefix + "positions": order, prefix + "segments": ones}


def example(objective, text, source):
    """A batch of one row whose targets are all of `text`, the one of mlm with its first token masked."""
    targets = {"targets": np.array([text]), "weights": np.ones((1, len(text)), np.float32)}
    if objective == "clm":
        return arrays([VOCAB.bos, *text[:-1]]) | targets
    if objective == "span_corruption":
        return arrays(source, "encoder_") | arrays([VOCAB.bos, *text[:-1]], "decoder_") | targets
    if objective == "plm":
        order = np.arange(len(text) + 1)[None]
        ranks = {"rank": order, "query_rank": order, "target_positions": order[:, 1:]}
        return arrays([VOCAB.eos, *text]) | ranks | targets
    shown = [VOCAB.cls, VOCAB.mask, *text[1:], VOCAB.sep]
    return (
        arrays(shown)
        | {name: value[:, :1] for name, value in targets.items()}
        | {"target_positions": np.array([[1]])}
    )


def expected(objective, text, source=None):
    """Natural log-probabilities of the targets of `example`, one forward pass of one unpadded row."""
    batch = example(objective, text, source)
    log_probs = np.asarray(forward(objective, batch))
    return log_probs[np.arange(len(log_probs)), batch["targets"][0]]


def scored(objective, texts, sources=None, length=LENGTH):
    frame = TABLE.load(objective).frame(ObjectiveSpec(built(objective)[0].config, length, VOCAB))
    return scoring.log_probs(*built(objective), texts, VOCAB, length, frame, sources)


@pytest.mark.parametrize("objective", ["clm", pytest.param("plm", marks=pytest.mark.slow)])
def test_texts_that_fit_are_read_from_left_to_right(objective):
    texts = TEXTS[:4] if objective == "clm" else TEXTS[:3]
    for text, found in zip(texts, scored(objective, texts), strict=True):
        assert len(found) == len(text)
        if text:
            np.testing.assert_allclose(found, expected(objective, text), atol=2e-5)


def test_long_texts_are_read_in_windows_that_overlap():
    text = TEXTS[4]
    (found,) = scored("clm", [text])
    given = [VOCAB.bos, *text]
    for place in (0, 6, 11, 12, 17, 18, 23, 24, 28):
        (window,) = [w for w in scoring.windows(len(text), LENGTH) if w[2] <= place < w[1]]
        shown = given[window[0] : place + 1]
        log_probs = forward("clm", arrays(shown + [0] * (LENGTH - len(shown))))
        assert found[place] == pytest.approx(float(log_probs[len(shown) - 1, text[place]]), abs=2e-5)
        assert window[0] == 0 or len(shown) > LENGTH // 2
    assert [len(row) for row in scored("plm", [text])] == [len(text)]


@pytest.mark.parametrize(("length", "size"), [(1, 4), (4, 4), (5, 4), (29, 12), (30, 7), (9, 1), (0, 3)])
def test_windows_score_every_token_once(length, size):
    found = []
    for begin, end, first in scoring.windows(length, size):
        assert 0 <= begin <= first < end <= length and end - begin <= size
        found += range(first, end)
    assert found == list(range(length))


@pytest.mark.slow
def test_a_masked_model_masks_each_token_alone():
    text = TEXTS[0]
    (found,) = scored("mlm", [text])
    assert found[0] == pytest.approx(expected("mlm", text)[0], abs=2e-5)
    shown = [VOCAB.cls, *text[:3], VOCAB.mask, *text[4:], VOCAB.sep]
    log_probs = forward("mlm", arrays(shown) | {"target_positions": np.array([[4]])})
    assert found[3] == pytest.approx(float(log_probs[0, text[3]]), abs=2e-5)
    assert [len(row) for row in scored("mlm", TEXTS[:4])] == [5, 0, 5, 12]


@pytest.mark.slow
def test_an_encoder_decoder_scores_given_a_source():
    found = scored("span_corruption", TEXTS, SOURCES)
    for text, source, row in zip(TEXTS, SOURCES, found, strict=True):
        if text:
            np.testing.assert_allclose(row, expected("span_corruption", text, source), atol=2e-5)
    with pytest.raises(ConfigError, match="one prompt for each text"):
        scored("span_corruption", TEXTS)
    with pytest.raises(ConfigError, match="without prompts"):
        scored("clm", TEXTS, SOURCES)
    with pytest.raises(ConfigError, match="2 prompts were given for 5 texts"):
        scored("span_corruption", TEXTS, SOURCES[:2])
