"""Beam search against exhaustive search, against a plain Python reading of its rules, and what it refuses."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, SOURCES, VOCAB, built, full_logits
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.text import Vocabulary

KINDS = ("decoder", "encoder_decoder")
WIDTH = 32


def log_probs(lm, params, tokens, source=None) -> np.ndarray:
    """[V] of the token after `tokens`, from one full forward pass."""

    def row(tokens, prefix):
        real = np.arange(WIDTH) < len(tokens)
        return {
            prefix + "tokens": np.pad(tokens, (0, WIDTH - len(tokens)))[None].astype(np.int32),
            prefix + "positions": np.where(real, np.arange(WIDTH), 0)[None].astype(np.int32),
            prefix + "segments": real[None].astype(np.int32),
        }

    batch = row(tokens, "") if source is None else row(tokens, "decoder_") | row(source, "encoder_")
    logits = full_logits(lm, params, batch)[0, len(tokens) - 1]
    return np.asarray(jax.nn.log_softmax(logits))


def search_by_hand(next_log_probs, eos, num_beams, max_tokens, penalty):
    """The rules with lists: [(score, tokens)] of the finished, best first."""
    running, finished = [(0.0, ())], []
    for length in range(1, max_tokens + 1):
        grown = [
            (total + float(value), (*text, token))
            for total, text in running
            for token, value in enumerate(next_log_probs(text))
        ]
        grown = sorted(grown, reverse=True)[: 2 * num_beams]
        ends = [text[-1] == eos or length == max_tokens for _, text in grown]
        finished += [
            (total / length**penalty, text)
            for (total, text), end in zip(grown[:num_beams], ends, strict=False)
            if end
        ]
        finished = sorted(finished, reverse=True)[:num_beams]
        running = [item for item, end in zip(grown, ends, strict=True) if not end][:num_beams]
        full = len(finished) == num_beams
        if not running or (full and running[0][0] / length**penalty <= finished[-1][0]):
            break
    return finished


def without_eos(text, eos):
    return list(text[:-1]) if text[-1] == eos else list(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, penalty", tiers([(k, p) for k in KINDS for p in (0.0, 1.0, 2.5)], quick=[(KINDS[0], 1.0)])
)
def test_finds_what_its_rules_say(kind, penalty):
    lm, params = built(kind)
    sources = SOURCES if kind == "encoder_decoder" else None
    # An end that is likely enough to be met at different lengths.
    first = generate(lm, params, PROMPTS, VOCAB, max_tokens=6, sampling=Sampling(0.0), sources=sources)
    vocab = Vocabulary(61, eos=max(set(sum(first, [])), key=sum(first, []).count), num_sentinels=4)
    found = beam_search(
        lm, params, PROMPTS, vocab, num_beams=3, max_tokens=7, length_penalty=penalty, sources=sources
    )
    lengths = set()
    for row, prompt in enumerate(PROMPTS):
        source = None if sources is None else SOURCES[row]

        @functools.cache
        def after(text, prompt=prompt, source=source):
            return log_probs(lm, params, [*prompt, *text], source)

        wanted = search_by_hand(after, vocab.eos, 3, 7, penalty)
        assert [hypothesis.tokens for hypothesis in found[row]] == [
            without_eos(text, vocab.eos) for _, text in wanted
        ]
        scores = [hypothesis.score for hypothesis in found[row]]
        np.testing.assert_allclose(scores, [score for score, _ in wanted], rtol=1e-5)
        lengths |= {len(hypothesis.tokens) for hypothesis in found[row]}
    assert len(lengths) > 1, "some end early, some do not"


def test_wide_enough_is_exhaustive():
    lm, params = built(vocab_size=8, vocab_multiple=1)
    vocab, prompt, most = Vocabulary(8, num_sentinels=0), [5, 4], 3
    (found,) = beam_search(lm, params, [prompt], vocab, num_beams=64, max_tokens=most, length_penalty=1.0)
    after = functools.cache(lambda text: log_probs(lm, params, [*prompt, *text]))
    every = []
    for length in range(1, most + 1):
        for text in itertools.product(range(8), repeat=length):
            ended = text[-1] == vocab.eos
            if vocab.eos in text[:-1] or not (ended or length == most):
                continue
            total = math.fsum(float(after(text[:place])[token]) for place, token in enumerate(text))
            every.append((total / length, text))
    best = max(every)
    assert found[0].tokens == without_eos(best[1], vocab.eos)
    np.testing.assert_allclose(found[0].score, best[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiers(["decoder", "encoder_decoder"], quick=["decoder"]))
def test_one_beam_is_greedy_and_company_changes_nothing(kind):
    lm, params = built(kind)
    sources = SOURCES if kind == "encoder_decoder" else None
    greedy = generate(lm, params, PROMPTS, VOCAB, max_tokens=9, sampling=Sampling(0.0), sources=sources)
    one = beam_search(lm, params, PROMPTS, VOCAB, num_beams=1, max_tokens=9, sources=sources)
    assert [row[0].tokens for row in one] == greedy
    together = beam_search(lm, params, PROMPTS, VOCAB, num_beams=4, max_tokens=9, sources=sources)
    apart = beam_search(lm, params, PROMPTS, VOCAB, num_beams=4, max_tokens=9, sources=sources, batch_size=1)
    assert [[h.tokens for h in row] for row in together] == [[h.tokens for h in row] for row in apart]


def test_refusals():
    lm, params = built()
    with pytest.raises(ConfigError, match="num_beams = 0 must be at least 1"):
        beam_search(lm, params, PROMPTS, VOCAB, num_beams=0, max_tokens=3)
    with pytest.raises(ConfigError, match="prompt 2 has 17 tokens"):
        beam_search(lm, params, PROMPTS, VOCAB, num_beams=2, max_tokens=3, max_length=18)
