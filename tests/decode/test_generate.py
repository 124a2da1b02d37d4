"""Cached generation against the full forward pass, token by token, and what must not change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, SOURCES, VOCAB, built, full_logits
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.decode import cached
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.two_stream import TwoStream, empty_memory
from tlx.nn.config import AttentionConfig, ExecutionConfig, InitConfig, PositionConfig
from tlx.parallel import unbox
from tlx.text import Vocabulary

pytestmark = pytest.mark.jax_versions


def one_by_one(lm, params, prompt, max_tokens, source=None):
    """Greedy continuation from full forward passes over the whole sequence, unpadded rows of one width."""

    def row(tokens, prefix, width):
        real = np.arange(width) < len(tokens)
        filled = np.pad(tokens, (0, width - len(tokens)))
        return {
            prefix + "tokens": filled[None].astype(np.int32),
            prefix + "positions": np.where(real, np.arange(width), 0)[None].astype(np.int32),
            prefix + "segments": real[None].astype(np.int32),
        }

    tokens, prefix = list(prompt), "" if source is None else "decoder_"
    given = {} if source is None else row(source, "encoder_", 20)
    while len(tokens) - len(prompt) < max_tokens:
        logits = full_logits(lm, params, {**given, **row(tokens, prefix, 40)})
        token = int(logits[0, len(tokens) - 1].argmax())
        if token == VOCAB.eos:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


DECODERS = [
    {"position": "learned"},
    {"position": "rotary", "norm": "rmsnorm", "window": 6},
    {"position": "relative_bias", "block_layout": "parallel"},
    {"position": "none", "share_layers": True},
]


@pytest.mark.parametrize(
    "changes", tiers(DECODERS, quick=DECODERS[1:2]), ids=lambda changes: changes["position"]
)
def test_greedy_equals_the_full_pass_of_a_decoder(changes):
    lm, params = built(**changes)
    got = generate(lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=Sampling(temperature=0))
    expected = [one_by_one(lm, params, prompt, 18) for prompt in PROMPTS]
    assert got == expected
    assert len({tuple(tokens) for tokens in got}) == len(PROMPTS)
    assert len({token for tokens in got for token in tokens}) > 10


@pytest.mark.slow
@pytest.mark.parametrize("position", tiers(["learned", "relative_bias"], quick=["relative_bias"]))
def test_greedy_equals_the_full_pass_of_an_encoder_decoder(position):
    lm, params = built("encoder_decoder", position, num_decoder_layers=1)
    got = generate(
        lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=Sampling(temperature=0), sources=SOURCES
    )
    pairs = zip(PROMPTS, SOURCES, strict=True)
    assert got == [one_by_one(lm, params, prompt, 18, source) for prompt, source in pairs]
    other = generate(
        lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=Sampling(temperature=0), sources=SOURCES[::-1]
    )
    assert other != got


@pytest.mark.slow
def test_a_sample_depends_on_its_prompt_its_number_and_the_seed_only():
    lm, params = built()
    sampling = Sampling(temperature=1.5, top_k=40, top_p=0.95)
    draw = functools.partial(generate, lm, params, vocab=VOCAB, max_tokens=10, sampling=sampling)
    together = draw(PROMPTS, seed=3)
    assert draw(PROMPTS[:3], seed=3, batch_size=2) == together[:3]
    assert draw(PROMPTS, seed=4) != together
    same = draw([PROMPTS[0]] * 3, seed=3)
    assert same[0] == together[0] and same[1] != same[0]


def test_generation_stops_at_eos():
    lm, params = built()
    longest = generate(lm, params, PROMPTS, VOCAB, max_tokens=18, sampling=Sampling(temperature=0))
    stop = next(token for i, token in enumerate(longest[3]) if i > 2 and token not in longest[3][:i])
    cut = generate(
        lm,
        params,
        PROMPTS,
        Vocabulary(61, eos=stop, num_sentinels=4),
        max_tokens=18,
        sampling=Sampling(temperature=0),
    )
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in longest]
    assert cut == expected and 2 < len(cut[3]) < 18


def test_one_program_per_bucket():
    lm, params = built()
    cached._go_on_cached.clear_cache()
    for prompts, max_tokens, temperature in [
        (PROMPTS, 18, 1.0),
        (PROMPTS[2:], 20, 1.1),
        (PROMPTS[:3], 31, 1.2),
    ]:
        generate(
            lm, params, prompts, VOCAB, max_tokens=max_tokens, sampling=Sampling(temperature), seed=max_tokens
        )
    assert cached._go_on_cached._cache_size() == 2  # batches of 4 and of 2


@pytest.mark.parametrize(
    ("prompts", "max_tokens", "match"),
    [
        ([[1], []], 4, "prompt 1 has no tokens"),
        ([[1]], 0, "max_tokens = 0"),
        ([[1] * 60], 5, "60 tokens; with max_tokens = 5 .* 64 positions .* at most 4"),
    ],
)
def test_what_cannot_be_generated_is_refused(prompts, max_tokens, match):
    lm, params = built(position="learned")
    with pytest.raises(ConfigError, match=match):
        generate(lm, params, prompts, VOCAB, max_tokens=max_tokens, sampling=Sampling(), max_length=64)


@pytest.mark.slow
def test_two_streams_continue_from_left_to_right():
    """Against a query at every place of the finished row: each token is the likeliest given those before."""
    cfg = ModelConfig(
        kind="two_stream",
        vocab_size=61,
        width=32,
        num_layers=2,
        block_layout="post",
        attention=AttentionConfig(num_heads=4),
        position=PositionConfig(kind="relative_sinusoidal"),
        head=HeadConfig(tied=False),
        init=InitConfig(stddev=0.3, embedding_stddev=0.3),
        execution=ExecutionConfig(unroll=1),
    )

    def features(rows):
        order = jnp.broadcast_to(jnp.arange(32), (len(rows), 32))
        names = ("positions", "rank", "query_rank", "target_positions")
        tokens = jnp.array([row + [0] * (32 - len(row)) for row in rows])
        return {"tokens": tokens, "segments": jnp.ones_like(order)} | dict.fromkeys(names, order)

    def logits(lm, batch):
        return lm.logits(lm(batch, empty_memory(cfg, len(PROMPTS), 0), 0).query)

    lm, batch = TwoStream(cfg), features(PROMPTS)
    init = jax.jit(functools.partial(lm.init, method=logits))
    params = unbox(init(jax.random.key(0), batch)["params"])
    got = generate(lm, params, PROMPTS, VOCAB, max_tokens=9, sampling=Sampling(temperature=0))
    finished = [prompt + new for prompt, new in zip(PROMPTS, got, strict=True)]
    best = jax.jit(functools.partial(lm.apply, method=logits))({"params": params}, features(finished)).argmax(
        -1
    )
    for row, (prompt, new) in enumerate(zip(PROMPTS, got, strict=True)):
        assert best[row, len(prompt) : len(prompt) + len(new)].tolist() == new
    assert len({tuple(new) for new in got}) == len(PROMPTS)
