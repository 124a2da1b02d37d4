"""Groups that are clipped apart are updated as by an optimizer for each."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx.base.errors import ConfigError
from tlx.base.term import Term
from tlx.optim import OptimizerConfig, make_optimizer
from tlx.optim.leaves import describe
from tlx.training.clipping import clip, group_indices
from tlx.training.config import TrainConfig
from tlx.training.state import init_state
from tlx.training.step import make_step

RATE = 1e-2
# The loss of each half of the parameters, and its weight.
LOSSES = {"generator": ("loss", 1.0), "detector": ("rtd_loss", 50.0)}


class TwoModels(nn.Module):
    """Two regressions, each with a table and a kernel that the other's loss does not depend on."""

    def initial_carry(self, batch_size):
        return None

    @nn.compact
    def __call__(self, batch, carry=None, keys=None):
        terms = {}
        for model, (name, weight) in LOSSES.items():
            table, kernel = (
                self.param(f"{model}_{part}", nn.initializers.normal(0.5), (4, 4))
                for part in ("table", "kernel")
            )
            error = jnp.tanh(batch["x"] @ table) @ kernel - batch[name]
            terms[name] = Term(jnp.sum(error**2), jnp.float32(len(error)), weight)
        return terms, carry


def batch_at(k):
    rng = np.random.default_rng(k)
    return {name: rng.normal(size=(6, 4)).astype(np.float32) for name in ("x", "loss", "rtd_loss")}


def two_optimizers(params, steps):
    """The parameters after updates by optax, of each half on its own loss."""
    updated = {}
    for model, (name, weight) in LOSSES.items():
        others = {path: leaf for path, leaf in params.items() if not path.startswith(model)}
        part = {path: leaf for path, leaf in params.items() if path.startswith(model)}
        adamw = optax.adamw(RATE, 0.9, 0.95, 1e-8, weight_decay=0.1)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)

        def loss(part, batch, others=others, name=name, weight=weight):
            term = TwoModels().apply({"params": {**others, **part}}, batch)[0][name]
            return weight * term.sum / term.weight

        state = optimizer.init(part)
        for k in range(steps):
            updates, state = optimizer.update(jax.grad(loss)(part, batch_at(k)), state, part)
            part = optax.apply_updates(part, updates)
        updated |= part
    return updated


@pytest.mark.parametrize("groups", [("^generator_",), ()])
def test_groups_are_updated_as_by_an_optimizer_for_each(groups):
    """The norms differ by far more than the loss weights; clipped together, the updates are others."""
    module = TwoModels()
    params = module.init(jax.random.key(0), batch_at(0))["params"]
    schedule = optax.constant_schedule(RATE)
    optimizer = make_optimizer(OptimizerConfig(beta2=0.95), schedule, params)
    state = init_state(module, optimizer, batch_at(0), 6, seed=0)._replace(params=params)
    step = jax.jit(make_step(module, optimizer, schedule, TrainConfig(batch_size=6, clip_groups=groups)))
    for k in range(4):
        state, _ = step(state, batch_at(k))
    expected = two_optimizers(params, 4)
    gaps = [np.abs(state.params[path] - leaf).max() for path, leaf in expected.items()]
    if groups:
        assert max(gaps) < 1e-6
    else:
        assert max(gaps) > 1e-4


def test_layers_of_a_stack_may_be_in_different_groups():
    rng = np.random.default_rng(0)
    kernel, table = rng.normal(size=(3, 4, 5)), rng.normal(size=(6, 4))
    grads = jax.tree.map(jnp.asarray, {"blocks": {"kernel": kernel}, "table": table})
    config = TrainConfig(clip_norm=0.5, clip_groups=("blocks[1:]/", "blocks"))
    clipped = clip(grads, optax.tree.norm(grads), config)
    for ours, theirs in (
        (clipped["blocks"]["kernel"][1:], kernel[1:]),
        (clipped["blocks"]["kernel"][:1], kernel[:1]),
        (clipped["table"], table),
    ):
        np.testing.assert_allclose(ours, 0.5 * theirs / np.linalg.norm(theirs), rtol=1e-5)


def test_a_group_without_parameters_is_an_error():
    leaves = describe({"generator": {"kernel": jnp.zeros((2, 2))}})
    with pytest.raises(
        ConfigError, match=r"train.clip_groups: '\^generater/' matches no parameter; near: generator/"
    ):
        group_indices(TrainConfig(clip_groups=("^generater/",)), leaves)
    with pytest.raises(ConfigError, match="train.clip_norm = None clips none"):
        TrainConfig(clip_groups=("a",), clip_norm=None).validate()
