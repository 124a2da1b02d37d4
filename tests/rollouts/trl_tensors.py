"""Tensors on which the losses of trl and of tlx are compared; by numpy alone, the same in every environment."""

import numpy as np

PAIRS, LENGTH = 4, 9
GROUPS, ANSWERS, TOKENS = 3, 4, 6
VOCAB = 11


def _f32(values):
    return np.asarray(values, np.float32)


def pairs():
    """Log-probabilities of the tokens of chosen and rejected answers, which end at different tokens."""
    rng = np.random.default_rng(1)
    lengths = np.array([5, 9, 2, 7, 6, 1, 4, 8])  # of the chosen ones, then of the rejected ones
    mask = np.arange(LENGTH) < lengths[:, None]
    log_probs = _f32(-rng.gamma(2.0, 0.8, (2 * PAIRS, LENGTH)) * mask)
    reference = _f32((log_probs + rng.normal(0, 0.4, log_probs.shape)) * mask)
    return {
        "log_probs": log_probs,
        "mask": mask,
        "reference": _f32(reference.sum(-1)),
        "liked": np.array([1, 0, 1, 1, 0, 0, 1, 0]) > 0,
        "mismatched": _f32(rng.normal(0.6, 0.5, 2 * PAIRS)),
        "rewards": _f32(rng.normal(0, 1.5, 2 * PAIRS)),
        "margins": _f32(rng.uniform(0, 1, PAIRS)),
    }


def answers(full=False):
    """Log-probabilities of groups of answers by the policy, by the one that sampled, and by the reference."""
    rng = np.random.default_rng(2)
    count = GROUPS * ANSWERS
    lengths = rng.integers(1, TOKENS + 1, count)
    if full:
        lengths[:] = TOKENS
    mask = np.arange(TOKENS) < lengths[:, None]
    log_probs = _f32(-rng.gamma(2.0, 0.7, (count, TOKENS)))
    return {
        "mask": mask,
        "log_probs": log_probs,
        "old": _f32(log_probs + rng.normal(0, 0.25, log_probs.shape)),
        "reference": _f32(log_probs + rng.normal(0, 0.3, log_probs.shape)),
        "advantages": _f32(rng.normal(0, 1, count)),
    }


def policy(full=True):
    """Logits and values of a policy before and after some updates, its answers and their scores."""
    rng = np.random.default_rng(3)
    count = 5
    tokens = rng.integers(3, VOCAB, (count, TOKENS))  # 0 pads, 2 ends
    lengths = np.full(count, TOKENS) if full else np.array([6, 2, 4, 5, 3])
    mask = np.arange(TOKENS) < lengths[:, None]
    if not full:
        tokens[np.arange(count), lengths - 1] = np.where(lengths < TOKENS, 2, tokens[:, -1])
        tokens = np.where(mask, tokens, 0)
    old = _f32(rng.normal(0, 1, (count, TOKENS, VOCAB)))
    values = _f32(rng.normal(0, 0.5, (count, TOKENS)))
    return {
        "tokens": tokens,
        "mask": mask,
        "old_logits": old,
        "reference_logits": _f32(old + rng.normal(0, 0.4, old.shape)),
        "logits": _f32(old + rng.normal(0, 0.3, old.shape)),
        "old_values": values,
        "values": _f32(values + rng.normal(0, 0.3, values.shape)),
        "scores": _f32(rng.normal(0, 1, count)),
    }


PPO = {"kl_coef": 0.05, "gamma": 0.98, "lam": 0.95, "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1}
TEMPERATURE = 0.7
