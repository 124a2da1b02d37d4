"""Losses and gradients equal to trl's on the same tensors, as record_trl.py has recorded them (trl.json).

What trl defines otherwise is compared where the two meet, and said beside it:

- PPO puts the score of an answer that ended at the position behind its end, with a value of its own there: an answer
  has one token more. Its losses of such answers are taken from its own advantages and returns.
- PPO and the samplers divide logits by the temperature plus 1e-7.
- ORPO's cross-entropy is of prompt and answer, tlx's of the answer: the odds ratio alone is compared.
- DPO's label smoothing is trl's `robust` alone; conservative DPO is in no trainer of 1.16.0.
- The term "sft" is averaged over the tokens of all chosen answers, as tlx's is.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rollouts import trl_tensors as tensors
from tlx.rollouts.clipped import (
    clipped_policy_losses,
    clipped_value_losses,
    generalized_advantages,
    token_rewards,
)
from tlx.rollouts.grpo import average_over, sequence_log_ratios
from tlx.rollouts.kl import k3
from tlx.rollouts.whitening import whiten
from tlx.tasks.reward import comparison_terms
from tlx.tasks.shared.preference_losses import LOSSES, LossSettings, PairLogProbs, kto, odds_ratio

RECORDED = json.loads(pathlib.Path(__file__).with_name("trl.json").read_text())
NEWEST = next(entries for name, entries in RECORDED.items() if name.startswith("trl 1.16.0"))
WITH_PPO = next(entries for name, entries in RECORDED.items() if name.startswith("trl 1.12.0"))


def compare(entry, function, *arrays):
    """The loss to 1e-6, the gradient to 1e-5 of its largest entry."""
    arguments = tuple(range(len(arrays)))
    loss, gradients = jax.value_and_grad(function, arguments)(*map(jnp.asarray, arrays))
    assert float(loss) == pytest.approx(entry["loss"], rel=1e-6, abs=1e-7)
    ours = np.concatenate([np.asarray(gradient).ravel() for gradient in gradients])
    theirs = np.array(entry["gradient"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def pair_of(log_probs):
    values = tensors.pairs()
    sums = jnp.sum(log_probs * values["mask"], axis=-1)
    chosen, rejected = jnp.split(sums, 2)
    lengths = jnp.split(jnp.asarray(values["mask"].sum(-1), jnp.float32), 2)
    return PairLogProbs(chosen, rejected, *jnp.split(values["reference"], 2), *lengths)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dpo", {}),
        ("robust", {"label_smoothing": 0.1}),
        ("ipo", {}),
        ("hinge", {"beta": 1.0}),
        ("simpo", {"beta": 2.0}),
    ],
)
def test_losses_of_pairs(name, settings):
    loss = LOSSES[name].formula
    settings = LossSettings(loss=name, **settings)
    compare(
        NEWEST[name],
        lambda log_probs: jnp.mean(loss(pair_of(log_probs), settings)),
        tensors.pairs()["log_probs"],
    )


def test_the_odds_ratio_and_the_sft_term():
    log_probs = tensors.pairs()["log_probs"]
    compare(NEWEST["orpo"], lambda values: 0.1 * jnp.mean(odds_ratio(pair_of(values))), log_probs)

    def with_sft(log_probs):
        pair = pair_of(log_probs)
        tokens = jnp.sum(pair.chosen_tokens)
        return jnp.mean(LOSSES["dpo"].formula(pair, LossSettings())) - 0.3 * jnp.sum(pair.chosen) / tokens

    compare(NEWEST["dpo and sft"], with_sft, log_probs)


def test_kto():
    values = tensors.pairs()

    def loss(log_probs):
        ratio = jnp.sum(log_probs * values["mask"], axis=-1) - values["reference"]
        settings = LossSettings(loss="kto", disliked_weight=1.3)
        ones = jnp.ones(len(ratio))
        return jnp.mean(kto(ratio, jnp.asarray(values["mismatched"]), values["liked"], ones, settings)[0])

    compare(NEWEST["kto"], loss, values["log_probs"])


@pytest.mark.parametrize(
    ("name", "margin", "centring"),
    [("reward", 0, 0.0), ("reward margin", 1, 0.0), ("reward centring", 0, 0.01)],
)
def test_reward_models(name, margin, centring):
    values = tensors.pairs()
    ones = jnp.ones(tensors.PAIRS)

    def loss(rewards):
        ranks = jnp.tile(jnp.arange(2), (tensors.PAIRS, 1))
        terms = comparison_terms(
            jnp.stack(jnp.split(rewards, 2), axis=1), ranks, margin * values["margins"], ones, centring
        )
        return sum(term.sum / term.weight * term.loss_weight for term in terms.values())

    compare(NEWEST[name], loss, values["rewards"])


@pytest.mark.parametrize(
    ("name", "average"), [("grpo", "answer"), ("bnpo", "token"), ("dapo", "token"), ("dr_grpo", "constant")]
)
def test_grpo(name, average):
    values = tensors.answers()
    weights = jnp.asarray(values["mask"], jnp.float32)[None]

    def loss(log_probs):
        ratio = (log_probs - values["old"]) * values["mask"]
        losses, _ = clipped_policy_losses(values["advantages"][:, None], ratio, 0.2, 0.28)
        losses = losses + 0.04 * k3(log_probs - values["reference"])
        total, weight = average_over(losses[None], weights, average)
        return total / weight

    compare(NEWEST[name], loss, values["log_probs"])


def test_gspo_and_rloo():
    values = tensors.answers()

    def gspo(log_probs):
        ratio = sequence_log_ratios(log_probs - values["old"], values["mask"])
        return jnp.mean(clipped_policy_losses(values["advantages"], ratio, 0.05, 0.08)[0])

    def rloo(log_probs):
        ratio = jnp.sum((log_probs - values["old"]) * values["mask"], axis=-1)
        return jnp.mean(clipped_policy_losses(values["advantages"], ratio, 0.2)[0])

    compare(NEWEST["gspo"], gspo, values["log_probs"])
    compare(NEWEST["rloo"], rloo, values["log_probs"])


def token_log_probs(logits, tokens):
    log_p = jax.nn.log_softmax(logits / tensors.TEMPERATURE)
    return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]


def ppo_loss(values, advantages, returns, value_mask):
    """The loss of an update as a function of the new logits and values."""
    mask = values["mask"]
    old = token_log_probs(values["old_logits"], values["tokens"])

    def loss(logits, new_values):
        ratio = jnp.where(mask, token_log_probs(logits, values["tokens"]) - old, 0.0)
        policy, _ = clipped_policy_losses(advantages, ratio, tensors.PPO["cliprange"])
        value = clipped_value_losses(
            jnp.where(value_mask, new_values, 0.0),
            jnp.where(value_mask, values["old_values"], 0.0),
            returns,
            tensors.PPO["cliprange_value"],
        )
        policy_loss = jnp.sum(policy * mask) / jnp.sum(mask)
        value_loss = jnp.sum(value * value_mask) / jnp.sum(value_mask)
        return policy_loss + tensors.PPO["vf_coef"] * value_loss

    return loss


@pytest.mark.slow
@pytest.mark.parametrize("whitened", [False, True])
def test_a_whole_step_of_ppo(whitened):
    """From logits, values and scores to the loss of an update, of answers that fill their room."""
    values = tensors.policy()
    entry = WITH_PPO["ppo whitened rewards" if whitened else "ppo"]
    mask = jnp.asarray(values["mask"])
    log_ratio = token_log_probs(values["old_logits"], values["tokens"]) - token_log_probs(
        values["reference_logits"], values["tokens"]
    )
    rewards = token_rewards(jnp.asarray(values["scores"]), log_ratio, mask, tensors.PPO["kl_coef"])
    if whitened:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = generalized_advantages(
        rewards, jnp.asarray(values["old_values"]), mask, tensors.PPO["gamma"], tensors.PPO["lam"]
    )
    np.testing.assert_allclose(np.ravel(advantages), entry["unwhitened"], rtol=1e-5, atol=1e-5)
    advantages = whiten(advantages, mask)
    np.testing.assert_allclose(np.ravel(advantages), entry["advantages"], rtol=1e-5, atol=1e-5)
    assert float(jnp.mean(jnp.sum(log_ratio, axis=1))) == pytest.approx(
        entry["metrics"]["objective/kl"], rel=2e-6
    )
    compare(entry, ppo_loss(values, advantages, returns, mask), values["logits"], values["values"])


def test_an_update_of_ppo_with_answers_that_end():
    """From trl's own advantages: it gives an answer that ends one position more, which holds the score."""
    values = tensors.policy(full=False)
    entry = WITH_PPO["ppo short answers"]
    value_mask = np.arange(tensors.TOKENS) <= values["mask"].sum(-1, keepdims=True)
    unwhitened = jnp.asarray(entry["unwhitened"], jnp.float32).reshape(value_mask.shape)
    advantages = whiten(unwhitened, jnp.asarray(values["mask"]))
    np.testing.assert_allclose(np.ravel(advantages), entry["advantages"], rtol=1e-5, atol=1e-5)
    # With the score one position behind the end, the estimates are ours of answers that are one token longer.
    log_ratio = token_log_probs(values["old_logits"], values["tokens"]) - token_log_probs(
        values["reference_logits"], values["tokens"]
    )
    log_ratio = jnp.where(values["mask"], log_ratio, 0.0)
    rewards = token_rewards(jnp.asarray(values["scores"]), log_ratio, value_mask, tensors.PPO["kl_coef"])
    longer, returns = generalized_advantages(
        rewards, jnp.asarray(values["old_values"]), value_mask, tensors.PPO["gamma"], tensors.PPO["lam"]
    )
    np.testing.assert_allclose(
        np.where(value_mask, longer, 0), np.where(value_mask, unwhitened, 0), rtol=1e-5, atol=1e-5
    )
    compare(entry, ppo_loss(values, advantages, returns, value_mask), values["logits"], values["values"])
