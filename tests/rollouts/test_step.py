"""Rollouts: samples are those of the full forward pass, losses are numpy's, microbatches change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rollouts.tiny import (
    COUNT,
    LENGTH,
    RECORDS,
    SIZE,
    TEMPERATURE,
    V,
    module_of,
    params_of,
    prompts_of,
    sampled,
    spec_of,
    state_of,
)
from tests.tasks import small
from tests.tiers import tiers
from tlx.base.errors import ConfigError, DataError
from tlx.evaluation.writing import cached
from tlx.nn.losses import LossConfig
from tlx.optim import make_schedule
from tlx.optim.config import OptimizerConfig
from tlx.rollouts import TABLE
from tlx.rollouts.rewards import SampledAnswer, exact_match, number, rewards_of
from tlx.rollouts.step import RolloutStep, make_sample, make_updates, minibatch_indices
from tlx.training.config import TrainConfig
from tlx.training.step import make_step, row_keys


@functools.cache
def full_logits(kind="decoder"):
    """Logits of the full forward pass over the sampled rows, [B, K, A, V], at the sampling temperature."""
    batch, _ = sampled(kind=kind)
    logits = jax.jit(functools.partial(module_of("grpo", kind).apply, method="logits"))(
        {"params": params_of(kind=kind)}, batch
    )
    return np.asarray(logits[:, :, -SIZE - 1 : -1], np.float64) / TEMPERATURE


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def numpy_log_probs(batch):
    targets = np.asarray(batch["tokens"])[:, :, -SIZE:]
    return np.take_along_axis(log_softmax(full_logits()), targets[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("kind", tiers(("decoder", "encoder_decoder"), quick=("decoder",)))
def test_answers_are_what_the_full_forward_pass_draws(kind):
    """Every token, from the keys of (seed, step, row) and the logits without a cache."""
    _, seen = sampled(kind=kind)
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(row_keys(jnp.uint32(7), 0, 4 * COUNT), 1 << 31)
    logits = full_logits(kind).reshape(4 * COUNT, SIZE, -1)
    tokens = np.asarray(seen.tokens_BKA).reshape(4 * COUNT, SIZE)
    lengths = np.asarray(seen.lengths_BK).ravel()
    draw = jax.jit(jax.vmap(lambda key, t, row: jax.random.categorical(jax.random.fold_in(key, t), row)))
    for t in range(SIZE):
        drawn = draw(keys, jnp.full(4 * COUNT, t), jnp.float32(logits[:, t]))
        real = lengths > t
        np.testing.assert_array_equal(np.asarray(drawn)[real], tokens[real, t])
    if kind == "decoder":
        assert 0 < np.sum(lengths < SIZE) < len(lengths)
    assert len(set(map(tuple, tokens[:COUNT].tolist()))) == COUNT  # answers to one prompt differ


def test_log_probabilities_are_those_that_the_cached_decoder_has():
    """Prefill and one token at a time through the cache, against the module's pass and numpy."""
    batch, _ = sampled()
    weights = np.asarray(batch["weights"])
    params = params_of()
    lm, _ = cached(module_of("grpo").model)
    call = jax.jit(
        functools.partial(lm.apply, {"params": params["model"]}), static_argnames="method", static_argnums=()
    )
    rows = {key: batch[key].reshape(4 * COUNT, LENGTH) for key in ("tokens", "positions", "segments")}
    parts = [slice(0, LENGTH - SIZE), *(slice(t, t + 1) for t in range(LENGTH - SIZE, LENGTH - 1))]
    cache = lm.apply({"params": params["model"]}, 4 * COUNT, LENGTH, method="init_cache")
    logits = []
    for part in parts:
        pieces = [rows[key][:, part] for key in ("tokens", "positions", "segments")]
        hidden, cache = call(*pieces, cache, method="decode")
        logits.append(call(hidden[:, -1:], method="logits")[:, 0])
    drawn = log_softmax(np.stack(logits, axis=1).astype(np.float64) / TEMPERATURE)
    targets = np.asarray(rows["tokens"])[:, -SIZE:]
    drawn = np.take_along_axis(drawn, targets[..., None], axis=-1)[..., 0].reshape(weights.shape)
    score = jax.jit(functools.partial(module_of("grpo").apply, method="log_probs"))
    ours, entropies = score({"params": params}, batch)
    np.testing.assert_allclose(ours * weights, drawn * weights, atol=2e-5)
    np.testing.assert_allclose(ours * weights, numpy_log_probs(batch) * weights, atol=2e-5)
    log_p = log_softmax(full_logits())
    np.testing.assert_allclose(
        entropies * weights, -(np.exp(log_p) * log_p).sum(-1) * weights, rtol=1e-4, atol=1e-5
    )


def test_a_rollout_depends_on_its_step_alone():
    _, first = sampled()
    _, other = sampled(step=1)
    sampled.cache_clear()
    _, again = sampled()
    np.testing.assert_array_equal(first.tokens_BKA, again.tokens_BKA)
    assert (np.asarray(first.tokens_BKA) != np.asarray(other.tokens_BKA)).any()


def test_rows_by_hand():
    """A prompt on the left, an answer with its end, nothing behind it."""
    batch, seen = sampled()
    source = [V.bos, *small.TOKENIZER.encode("hello"), V.sep]
    width = LENGTH - SIZE
    for k in range(COUNT):
        length = int(seen.lengths_BK[1, k])
        row = np.asarray(batch["tokens"])[1, k]
        assert row[width - len(source) : width].tolist() == source
        assert row[: width - len(source)].tolist() == [V.pad] * (width - len(source))
        answer = np.asarray(seen.tokens_BKA)[1, k, :length].tolist()
        assert row[width:].tolist() == answer + [V.pad] * (SIZE - length)
        assert bool(seen.ended_BK[1, k]) == (answer[-1] == V.eos)
        segments = [0] * (width - len(source)) + [1] * (len(source) + length) + [0] * (SIZE - length)
        assert np.asarray(batch["segments"])[1, k].tolist() == segments
        positions = np.asarray(batch["positions"])[1, k][np.array(segments) > 0]
        assert positions.tolist() == list(range(len(source) + length))
        assert np.asarray(batch["weights"])[1, k].tolist() == [1] * length + [0] * (SIZE - length)


def scored(name, **config):
    """A batch with sampled answers, rewards and advantages, and old log-probabilities that are another policy's."""
    # Sampled once for all choices of the loss.
    batch, _ = sampled(name, **{key: value for key, value in config.items() if key in ("epochs", "beta")})
    rng = np.random.default_rng(3)
    batch = batch | {"reward": jnp.array(rng.normal(size=(4, COUNT)), jnp.float32)}
    batch["advantages"] = TABLE.load(name).advantages(spec_of(name, **config).config, batch)
    noise = rng.normal(size=batch["weights"].shape) * 0.3
    batch["old_log_probs"] = batch["old_log_probs"] + jnp.array(noise, jnp.float32) * batch["weights"]
    # Not the first update of a step, in which the ratio would be 1 whatever the old log-probabilities are.
    return batch | {"first_update": jnp.zeros(4)}


@functools.partial(jax.jit, static_argnums=0)
def loss_terms(module, params, batch):
    return module.apply({"params": params}, batch)[0]


def terms_of(name, batch, **config):
    module = module_of(name, **config)
    params = state_of(reference=bool(config.get("beta")))
    terms = loss_terms(module, params.params | params.frozen, batch)
    return {key: float(term.sum / term.weight) for key, term in terms.items()}


@pytest.mark.parametrize(
    ("average", "importance"),
    tiers(
        [("answer", "token"), ("token", "sequence"), ("constant", "token"), ("answer", "sequence")],
        quick=[("token", "sequence")],
    ),
)
def test_the_loss_of_grpo_is_numpys(average, importance):
    clip = {"token": 0.2, "sequence": 0.05}[importance]
    config = {"epochs": 2, "beta": 0.1, "average": average, "importance": importance}
    config |= {"clip": clip, "clip_high": 1.4 * clip}
    batch = {key: np.asarray(value, np.float64) for key, value in scored("grpo", **config).items()}
    terms = terms_of("grpo", scored("grpo", **config), **config)
    weights, log_p = batch["weights"], numpy_log_probs(batch | {"tokens": np.int64(batch["tokens"])})
    log_ratio = (log_p - batch["old_log_probs"]) * weights
    if importance == "sequence":
        log_ratio = np.repeat(
            log_ratio.sum(-1, keepdims=True) / weights.sum(-1, keepdims=True), SIZE, axis=-1
        )
    ratio, advantages = np.exp(log_ratio), batch["advantages"][..., None]
    losses = -np.minimum(ratio * advantages, np.clip(ratio, 1 - clip, 1 + 1.4 * clip) * advantages)
    difference = batch["reference_log_probs"] - log_p
    kl = np.exp(difference) - difference - 1

    def mean(values):
        if average == "answer":
            return ((values * weights).sum(-1) / weights.sum(-1)).mean()
        return (values * weights).sum() / (weights.sum() if average == "token" else weights.size)

    assert terms["loss"] == pytest.approx(mean(losses), rel=2e-4)
    assert terms["kl"] == pytest.approx(mean(kl), rel=2e-4)
    clipped = (losses > -ratio * advantages) * weights
    assert terms["clip_fraction"] == pytest.approx(clipped.sum() / weights.sum(), abs=1e-6)
    assert 0 < terms["clip_fraction"] < 1


@pytest.mark.slow
def test_the_loss_of_rloo_is_numpys():
    config = {"epochs": 2, "beta": 0.05}
    batch = {key: np.asarray(value, np.float64) for key, value in scored("rloo", **config).items()}
    sums = (
        (sampled("rloo", **config)[0]["old_log_probs"] - batch["reference_log_probs"]) * batch["weights"]
    ).sum(-1)
    rewards = batch["reward"] - 0.05 * sums
    others = (rewards.sum(1, keepdims=True) - rewards) / (COUNT - 1)
    np.testing.assert_allclose(batch["advantages"], rewards - others, atol=2e-5)
    log_p = numpy_log_probs(batch | {"tokens": np.int64(batch["tokens"])})
    ratio = np.exp(((log_p - batch["old_log_probs"]) * batch["weights"]).sum(-1))
    losses = -np.minimum(ratio * batch["advantages"], np.clip(ratio, 0.8, 1.2) * batch["advantages"])
    terms = terms_of("rloo", scored("rloo", **config), **config)
    assert terms["loss"] == pytest.approx(losses.mean(), rel=5e-4)


def test_what_stands_behind_an_answer_changes_nothing():
    batch = scored("grpo", epochs=2)
    empty = batch["weights"] == 0
    assert bool(empty.any())
    other = batch | {"old_log_probs": jnp.where(empty, 1e9, batch["old_log_probs"])}
    tokens = batch["tokens"].at[:, :, -SIZE:].set(jnp.where(empty, 5, batch["tokens"][:, :, -SIZE:]))
    assert terms_of("grpo", batch, epochs=2) == terms_of("grpo", other | {"tokens": tokens}, epochs=2)


def letters(answers):
    """Reward of the tests: the share of characters below 128, unlike for every answer."""
    return [float(np.mean([ord(c) < 128 for c in answer.text] or [0])) for answer in answers]


def rollout_step(train, **config):
    """The whole step on one device, by plain gradient descent."""
    import optax

    spec = spec_of("grpo", reward="tests.rollouts.test_step:letters", **config)
    optimizer = optax.sgd(0.1)
    module = module_of("grpo", reward="tests.rollouts.test_step:letters", **config)
    schedule = make_schedule(OptimizerConfig(), 100)
    updates = make_updates(
        TABLE.load("grpo"), spec.config, train, lambda part: make_step(module, optimizer, schedule, part)
    )
    step = RolloutStep(jax.jit(make_sample(module, spec)), jax.jit(updates), spec, RECORDS, jnp.asarray)
    return step, optimizer


@pytest.mark.slow
def test_microbatches_change_nothing_and_minibatches_see_the_whole_steps_advantages():
    results = {}
    for name, microbatches, config in (
        ("whole", 1, {}),
        ("micro", 2, {}),
        ("mini", 1, {"minibatches": 2, "epochs": 2}),
    ):
        train = TrainConfig(steps=10, batch_size=4, microbatches=microbatches, clip_norm=None)
        step, optimizer = rollout_step(train, **config)
        results[name] = step(state_of(3, optimizer=optimizer), prompts_of("grpo", **config))
    (whole, metrics), (micro, others) = results["whole"], results["micro"]
    for leaf, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(micro.params), strict=True):
        np.testing.assert_allclose(leaf, other, atol=2e-6)
    for name in ("reward", "length", "loss", "entropy", "ended", "equal_rewards"):
        assert float(metrics[name]) == pytest.approx(float(others[name]), abs=1e-5)
    assert float(metrics["clip_fraction"]) == 0 and 0 < float(metrics["reward"]) < 1
    # A ratio of 1: the loss is minus the mean advantage, which is 0 in every group.
    assert float(metrics["loss"]) == pytest.approx(0, abs=1e-5)
    mini, several = results["mini"]
    assert int(mini.step) == int(whole.step) == 4
    assert float(several["reward"]) == float(metrics["reward"])
    changed = [
        float(jnp.max(jnp.abs(leaf - other)))
        for leaf, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(mini.params), strict=True)
    ]
    assert max(changed) > 1e-4


def test_every_pass_reads_every_prompt_once_in_its_own_order():
    order = np.asarray(minibatch_indices(jnp.uint32(1), jnp.int32(2), 8, 3, 2))
    assert order.shape == (6, 4)
    passes = order.reshape(3, 8)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(8), (3, 1)))
    assert len(set(map(tuple, passes.tolist()))) == 3
    other = np.asarray(minibatch_indices(jnp.uint32(1), jnp.int32(3), 8, 3, 2))
    assert (order != other).any()


def answer(text, *references, ended=True):
    return SampledAnswer("", text, references, ended, {})


def test_checkable_answers():
    assert exact_match([answer(" 4 ", "4"), answer("5", "4"), answer("4", "4", ended=False)]) == [1, 0, 0]
    answers = [
        answer("2 + 2 is 4.", "#### 4"),
        answer("1,204", "1204"),
        answer("-3", "3"),
        answer("no", "no"),
    ]
    assert number(answers) == [1, 1, 0, 0]


def test_wrong_rewards_and_configs_are_named():
    with pytest.raises(DataError, match=r"'pkg:f' returned an array of shape \(1,\) for 2 answers"):
        rewards_of(lambda answers: [1.0], "pkg:f", [answer("a"), answer("b")])
    with pytest.raises(DataError, match="not finite for 'b'"):
        rewards_of(lambda answers: [1.0, np.nan], "pkg:f", [answer("a"), answer("b")])
    for wrong, message in (
        ({"num_answers": 1}, "objective.num_answers = 1 must be 2 or more"),
        ({"temperature": 0.0}, "objective.temperature = 0.0 must be above 0"),
        ({"clip": 1.0}, "objective.clip = 1.0 must be"),
        ({"beta": -1.0}, "objective.beta = -1.0 must be 0 or more"),
        ({"reference": "x"}, "is for objective.beta above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            spec_of("grpo", **wrong)
    with pytest.raises(ConfigError, match="objective.minibatches = 3"):
        config = spec_of("grpo", minibatches=3).config
        make_updates(TABLE.load("grpo"), config, TrainConfig(batch_size=4), lambda part: None)
    with pytest.raises(ConfigError, match="give its base by --from"):
        TABLE.load("grpo").module(
            spec_of("grpo", beta=0.1).config, small.model_of("decoder"), LossConfig()
        ).frozen()
