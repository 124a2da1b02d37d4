"""Rows that are continued in chunks and from stored prefixes, against the continuation in one call."""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, SOURCES, VOCAB, built
from tests.tiers import tiers
from tlx.decode import cached
from tlx.decode.generate import generate
from tlx.decode.prefixes import PrefixStore
from tlx.decode.rows import RowDecoder, RowRequest, stream
from tlx.decode.sampling import Sampling
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.nn.config import AttentionConfig, PositionConfig
from tlx.parallel import unbox
from tlx.text import Vocabulary
from tlx.text.generation_rules import GenerationRules

SAMPLING = Sampling(temperature=1.5, top_k=40, top_p=0.95)
NEVER = Vocabulary(62, eos=61, num_sentinels=4)


def decoder(store=None, **changes):
    lm, params = built(**changes)
    return RowDecoder(lm, params, VOCAB, 64, store)


def one(prompt, max_tokens=18, sampling=SAMPLING, seed=3, **more):
    return RowRequest(prompt, max_tokens, sampling, seed, **more)


def run(rows, model):
    """The tokens of rows of one shape, in one batch."""
    (shape,) = {model.shape(row) for row in rows}
    decoding = model.begin(rows, shape)
    chunk = decoding.advance(max(row.max_tokens for row in rows))
    return [chunk.tokens_BT[index, : chunk.counts_B[index]].tolist() for index in range(len(rows))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiers(["decoder", "encoder_decoder"], quick=["decoder"]))
def test_a_stream_is_the_same_text(kind):
    lm, params = built(kind, "relative_bias") if kind == "encoder_decoder" else built()
    source = SOURCES[0] if kind == "encoder_decoder" else None
    whole = generate(
        lm,
        params,
        [PROMPTS[2]],
        VOCAB,
        max_tokens=18,
        sampling=SAMPLING,
        seed=3,
        sources=source and [source],
    )
    chunks = list(stream(RowDecoder(lm, params, VOCAB, 64), one(PROMPTS[2], source=source)))
    assert sum(chunks, []) == whole[0] and len(chunks) > 3


@pytest.mark.slow
@pytest.mark.parametrize("chunk", tiers([1, 5], quick=[5]))
def test_a_cache_that_grows_changes_nothing(monkeypatch, chunk):
    """From 32 entries to 64 to 96; windows and relative positions count entries."""
    lm, params = built(position="relative_bias", window=7)
    model = RowDecoder(lm, params, NEVER, None)
    row = one(PROMPTS[2], max_tokens=60)
    expected = run([row], model)
    monkeypatch.setattr(cached, "SMALLEST_CAPACITY", 16)
    decoding = model.begin([row], model.shape(row))
    capacities = []
    while True:
        new = decoding.advance(chunk)
        capacities.append(decoding._state.memory.segments.shape[1])
        if new.done_B[0]:
            break
    assert [new.tokens_BT[0, :60].tolist()] == expected
    assert sorted(set(capacities)) == [64, 96] and capacities == sorted(capacities)


@pytest.mark.slow
def test_rows_have_lengths_and_sampling_of_their_own():
    lm, params = built()
    model = RowDecoder(lm, params, NEVER, 64)
    rows = [
        one(PROMPTS[0], 9),
        one(PROMPTS[1], 14, Sampling(0.7, top_p=0.5), seed=8, number=2),
        one(PROMPTS[3], 3, Sampling(2.0, min_p=0.1)),
    ]
    alone = [run([row], model)[0] for row in rows]
    assert run(rows, model) == alone and [len(new) for new in alone] == [9, 14, 3]
    same = generate(
        lm, params, [[1]] * 2 + [PROMPTS[1]], NEVER, max_tokens=14, sampling=rows[1].sampling, seed=8
    )
    assert same[2] == alone[1]


def test_a_row_that_the_caller_ends_stops_and_the_others_go_on():
    model = decoder()
    rows = [one(PROMPTS[0]), one(PROMPTS[1])]
    expected = run(rows, model)
    decoding = model.begin(rows, model.shape(rows[0]))
    first = decoding.advance(4)
    chunk = decoding.advance(4, np.array([True, False]))
    assert chunk.done_B.tolist() == [True, False] and chunk.counts_B.tolist() == [5, 9]
    chunk = decoding.advance(50)
    assert chunk.counts_B.tolist() == [5, 18] and chunk.tokens_BT[1, :18].tolist() == expected[1]
    assert first.counts_B.tolist() == [5, 5]
    chunk = decoding.advance(50, np.array([True, True]))
    assert chunk.counts_B.tolist() == [5, 18]


LONG = [5 + (7 * index) % 50 for index in range(40)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    tiers(
        [{}, {"position": "relative_bias", "window": 20}, {"position": "learned"}],
        quick=[{"position": "relative_bias", "window": 20}],
        slow=(),
    ),
    ids=str,
)
@pytest.mark.parametrize(
    "sampling",
    [pytest.param(Sampling(0), marks=pytest.mark.slow), Sampling(1.2, repetition_penalty=1.5)],
    ids=["greedy", "penalty"],
)
def test_a_stored_prefix_changes_nothing(changes, sampling):
    store = PrefixStore()
    rules = GenerationRules(no_repeat_ngram=3)
    first = one(LONG[:33], 8, sampling, rules=rules)
    model = decoder(store, **changes)
    answer = sum(stream(model, first), [])
    rows = [
        one([*LONG[:33], *answer, 9], 9, sampling, rules=rules),
        one([*LONG[:30], 7, 8, 9, 10], 9, sampling, seed=4, rules=rules),
    ]
    whole = [run([row], decoder(**changes))[0] for row in rows]
    assert run(rows[:1], model) == whole[:1] and store.reused_tokens == 33 + len(answer) + 1 - 16
    assert run(rows[1:], model) == whole[1:]
    assert run([rows[1], rows[1]._replace(seed=3)], model)[0] == whole[1]
    assert sum(stream(model, rows[1]), []) == whole[1]


@pytest.mark.slow
def test_a_store_keeps_what_was_used_last():
    store = PrefixStore()
    model = decoder(store)
    texts = [[start, *LONG[:32]] for start in (1, 2, 3)]
    list(stream(model, one(texts[0], 2)))
    size = store.num_bytes
    store._max_bytes = 2 * size
    list(stream(model, one(texts[1], 2)))
    assert store.num_bytes == 2 * size
    assert store.split([*texts[0], 4]).length == 34 - 16
    list(stream(model, one(texts[2], 2)))
    assert [store.split([*text, 4]).length for text in texts] == [18, 0, 18]
    list(stream(model, one([*texts[2], 9, 9, 9], 2)))
    assert store.num_bytes <= 2 * size and len(store._texts) == 2
    assert store.split(texts[2]).stored is not None and store.split(texts[2][:9]).length == 0


@pytest.mark.long
def test_time_of_a_cache_that_grows(monkeypatch, capsys):
    """CPU seconds of 4 rows of 1,000 new tokens, with a cache that grows and with one of its full size."""
    cfg = ModelConfig(
        kind="decoder",
        vocab_size=1000,
        width=128,
        num_layers=2,
        attention=AttentionConfig(num_heads=4),
        position=PositionConfig(kind="rotary", max_length=1024),
    )
    lm = Transformer(cfg)
    row = {name: jnp.ones((1, 4), jnp.int32) for name in ("tokens", "positions", "segments")}
    init = functools.partial(lm.init, method=lambda lm, batch: lm.logits(lm(batch)))
    params = unbox(init(jax.random.key(0), row)["params"])
    vocab = Vocabulary(1001, eos=1000, num_sentinels=4)
    prompts = [[5 + number] for number in range(4)]
    seconds = {256: [], 4096: []}
    texts = {}
    for turn in range(3):
        for capacity, times in seconds.items():
            monkeypatch.setattr(cached, "SMALLEST_CAPACITY", capacity)
            began = time.process_time()
            new = generate(
                lm, params, prompts, vocab, max_tokens=1000, sampling=Sampling(1.0), max_length=1024
            )
            if turn:
                times.append(time.process_time() - began)
            texts[capacity] = new
    assert texts[256] == texts[4096] and all(len(new) == 1000 for new in texts[256])
    grown, full = (statistics.median(times) for times in seconds.values())
    with capsys.disabled():
        print(
            f"\n1,000 tokens of 4 rows: {grown:.2f} CPU seconds with a cache that grows, {full:.2f} of full size"
        )
    assert grown < full
