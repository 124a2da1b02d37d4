"""Speculative decoding: the text of plain greedy decoding, and the distribution of plain sampling."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, VOCAB, built, full_logits
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.decode.drafters import OwnHeads, SmallModel
from tlx.decode.generate import generate, settings_of
from tlx.decode.padding import pad
from tlx.decode.sampling import Sampling, sampling_arrays
from tlx.decode.speculative import _continue, _Inputs, _probabilities, generate_speculative, judge
from tlx.objectives import multi_token
from tlx.parallel import unbox
from tlx.text import Vocabulary
from tlx.text.generation_rules import GenerationRules

GREEDY = Sampling(temperature=0)


class Models(NamedTuple):
    """A model, its parameters and what drafts for it."""

    lm: Any
    params: Any
    drafter: Any


def pair(noise=0.0, position="learned"):
    """A model, and one with other parameters as the one that drafts; without noise it is the same."""
    lm, params = built(position=position)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    other = jax.tree.map(lambda leaf: leaf + noise * jax.random.normal(next(keys), leaf.shape), params)
    return Models(lm, params, SmallModel(lm, other))


def with_heads(noise, position="learned"):
    """The same model with heads of its own, whose parameters are drawn: with little noise they repeat the model."""
    lm, params = built(position=position)
    module = multi_token.MultiTokenModule(multi_token.MultiToken(num_heads=3), lm.cfg)
    ones = jnp.ones((1, 4), jnp.int32)
    batch = {name: ones for name in ("tokens", "positions", "segments", "targets", "weights")}
    heads = unbox(jax.eval_shape(module.init, jax.random.key(0), batch)["params"])["heads"]
    leaves, tree = jax.tree.flatten(heads)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [noise * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    own = {"model": params, "heads": jax.tree.unflatten(tree, leaves)}
    return Models(lm, params, OwnHeads(module, own))


@pytest.mark.parametrize("noise", tiers((0.0, 0.02, 1.0), quick=(0.02,)))
def test_greedy_is_the_text_of_plain_greedy(noise):
    """Up to the model's last position: drafts beyond it are read at it, and are not kept."""
    models = pair(noise)
    prompts = [*PROMPTS, [5] * 44]
    plain = generate(models.lm, models.params, prompts, VOCAB, max_tokens=20, sampling=GREEDY, max_length=64)
    texts = generate_speculative(*models, prompts, VOCAB, max_tokens=20, sampling=GREEDY, max_length=64)
    assert [text.tokens for text in texts] == plain
    passes = [text.num_passes for text in texts if len(text.tokens) == 20]
    assert passes and (max(passes) == 4 if noise == 0 else min(passes) > 4)


@pytest.mark.slow
def test_own_heads_give_the_text_of_plain_greedy():
    """In as many passes as a count in Python says, which takes hidden states of the whole text."""
    models = with_heads(0.02)
    never = Vocabulary(62, eos=61, num_sentinels=4)
    prompts = [*PROMPTS, [5] * 44]  # up to the model's last position
    arguments = {"max_tokens": 20, "sampling": GREEDY, "max_length": 64}
    texts = generate_speculative(*models, prompts, never, **arguments)
    plain = generate(models.lm, models.params, prompts, never, **arguments)
    assert [text.tokens for text in texts] == plain
    module, params = models.drafter.module, models.drafter.params
    for prompt, (tokens, num_passes) in zip(prompts, texts, strict=True):
        row = np.array([[*prompt, *tokens]])
        batch = {"tokens": row, "positions": np.arange(row.size)[None], "segments": np.ones_like(row)}
        hidden = models.lm.apply({"params": models.params}, batch)
        drafts_TK = np.asarray(module.apply({"params": params}, hidden[0], method="future_logits")).argmax(-1)
        count = 1
        expected = 0
        while count < len(tokens):
            right = drafts_TK[len(prompt) + count - 2][: len(tokens) - count] == tokens[count : count + 3]
            count += 1 + int(np.cumprod(right).sum())
            expected += 1
        assert num_passes == expected < len(tokens) - 2


@pytest.mark.slow
def test_ends_and_stop_strings_end_a_row():
    models = pair(0.02)
    never = Vocabulary(62, eos=61, num_sentinels=4)
    run = functools.partial(generate_speculative, *models, PROMPTS, max_tokens=18, sampling=GREEDY)
    longest = [text.tokens for text in run(never)]
    end = longest[0][4]
    of_end = run(Vocabulary(61, eos=end, num_sentinels=4))
    assert [text.tokens for text in of_end] == [t[: t.index(end)] if end in t else t for t in longest]
    stops_AV = np.zeros((16, 61), np.int32)
    stops_AV[:, end] = 1
    stopped = [text.tokens for text in run(never, stops_AV=stops_AV)]
    assert stopped == [t[: t.index(end) + 1] if end in t else t for t in longest]


def distributions(models, sampling, first=None):
    """Probabilities of the next token after PROMPTS[0] and `first`, by numpy from a full pass."""
    tokens = [*PROMPTS[0], *([] if first is None else [first])]
    row = np.array([tokens])
    batch = {"tokens": row, "positions": np.arange(len(tokens))[None], "segments": np.ones_like(row)}
    logits = (
        np.asarray(full_logits(models.lm, models.params, batch), np.float64)[0, -1] / sampling.temperature
    )
    if sampling.top_k:
        logits[logits < np.sort(logits)[-sampling.top_k]] = -np.inf
    probs = np.exp(logits - logits.max())
    return probs / probs.sum()


@pytest.mark.parametrize(
    "drafter, sampling",
    [
        pytest.param("model", Sampling(1.0), marks=pytest.mark.slow, id="all"),
        pytest.param("model", Sampling(1.5, top_k=5), marks=pytest.mark.long, id="top_k"),
        pytest.param("heads", Sampling(1.0), marks=pytest.mark.slow, id="heads"),
    ],
)
def test_samples_have_the_distribution_of_the_model(drafter, sampling):
    """Second and third tokens, which drafts have made or replaced, of 4,000 texts."""
    models = pair(0.15, "rotary") if drafter == "model" else with_heads(0.1, "rotary")
    never = Vocabulary(62, eos=61, num_sentinels=4)
    prompt = pad([PROMPTS[0]], 0, left=True)
    settings = settings_of(sampling, 4, never, None)
    keys = jax.random.split(jax.random.key(0), 4000)

    def one(key):
        inputs = _Inputs(key, jnp.int32(4), sampling_arrays(sampling), None)
        return _continue(models.lm, settings, models.params, models.drafter, prompt, inputs)

    new, counts, passes = map(np.asarray, jax.jit(jax.vmap(one))(keys))
    assert (counts == 4).all() and 1 < passes.mean() < 2.9  # both kept and replaced
    expected = distributions(models, sampling)
    observed = np.bincount(new[:, 0], minlength=61) / 4000
    assert np.abs(observed - expected).max() < 4 * np.sqrt(0.25 / 4000)
    second = np.zeros(61)
    for token in np.flatnonzero(expected > 1e-3):
        second += expected[token] * distributions(models, sampling, token)
    observed = np.bincount(new[:, 1], minlength=61) / 4000
    deviation = np.sqrt(np.maximum(second * (1 - second), 1e-4) / 4000)
    assert (np.abs(observed - second) < 4.5 * deviation + 2e-3).all()


def test_a_judged_draft_has_the_distribution_of_the_model():
    """200,000 judgements of two drafts: the first token has p of the first place, whatever q is."""
    rng = np.random.default_rng(0)
    q_KV, p_TV = rng.dirichlet(np.ones(5) * 0.5, 2), rng.dirichlet(np.ones(5) * 0.5, 3)
    count = 200_000

    def one(key):
        draft_key, judge_key = jax.random.split(key)
        drafts_K = jax.random.categorical(draft_key, jnp.log(q_KV))
        kept, after = judge(drafts_K, jnp.asarray(q_KV), jnp.asarray(p_TV), judge_key, False)
        tokens_T = jnp.where(jnp.arange(3) == kept, after, jnp.append(drafts_K, 0))
        return kept, tokens_T

    kept, tokens = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)))
    for place in range(3):
        there = tokens[kept >= place, place]
        observed = np.bincount(there, minlength=5) / len(there)
        np.testing.assert_allclose(observed, p_TV[place], atol=4.5 * np.sqrt(0.25 / len(there)))
    np.testing.assert_allclose((kept >= 1).mean(), np.minimum(p_TV[0], q_KV[0]).sum(), atol=0.005)


def test_probabilities_are_those_that_are_drawn_from():
    logits = jnp.array([[1.0, 3.0, 2.0, -1.0, 2.5]])
    sampling = Sampling(0.5, top_k=3, top_p=0.8)
    settings = settings_of(sampling, 1, VOCAB, None)
    probs = np.exp(np.array([6.0, 5.0]))
    got = np.asarray(_probabilities(logits, sampling_arrays(sampling), settings))[0]
    np.testing.assert_allclose(
        got, [0, *(probs[:1] / probs.sum()), 0, 0, *(probs[1:] / probs.sum())], rtol=1e-5
    )


def test_what_drafts_cannot_follow_is_refused():
    run = functools.partial(generate_speculative, *pair(), PROMPTS, VOCAB, max_tokens=4)
    with pytest.raises(ConfigError, match="repetition_penalty"):
        run(sampling=Sampling(repetition_penalty=2.0))
    with pytest.raises(ConfigError, match="generation_config.json"):
        run(sampling=GREEDY, rules=GenerationRules(no_repeat_ngram=2))
