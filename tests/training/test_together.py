"""Several runs in one program are the runs alone."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.training.toy import Toy, batch_at
from tlx.training.config import TrainConfig
from tlx.training.state import init_state
from tlx.training.step import make_step
from tlx.training.together import together

SEEDS, STEPS = (3, 4, 9), 5
MODULE, SCHEDULE = Toy(), optax.constant_schedule(1e-2)
OPTIMIZER = optax.adamw(SCHEDULE)


@pytest.fixture(scope="module")
def layout():
    """Of matrices over eight devices, and of all else on each of them."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    return {2: NamedSharding(mesh, PartitionSpec("all"))}, NamedSharding(mesh, PartitionSpec())


@pytest.fixture(scope="module")
def step():
    config = TrainConfig(batch_size=8)
    return jax.jit(make_step(MODULE, OPTIMIZER, SCHEDULE, config), donate_argnums=0)


def start(seed, kernel, layout):
    """The state of a seed; the kernel may be frozen: the same for all, or each seed's own."""

    def make(seed, other):
        state = init_state(MODULE, OPTIMIZER, batch_at(0), 8, seed)
        if kernel == "trained":
            return state
        frozen = {
            "kernel": (
                state if kernel == "own" else init_state(MODULE, OPTIMIZER, batch_at(0), 8, other)
            ).params["kernel"]
        }
        params = {"out": state.params["out"]}
        return state._replace(params=params, frozen=frozen, opt_state=OPTIMIZER.init(params))

    split, whole = layout
    shapes = jax.eval_shape(make, np.uint32(0), np.uint32(0))
    places = jax.tree.map(lambda leaf: split.get(leaf.ndim, whole), shapes)
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )
    return jax.jit(make, out_shardings=places)(np.uint32(seed), np.uint32(99)), like


def batch_of(seed, k):
    """A seed's own; the second's second is not finite."""
    batch = batch_at(100 * seed + k)
    if (seed, k) == (SEEDS[1], 1):
        batch["tokens"][0, 0] = 99
    return batch


@pytest.mark.parametrize("kernel", ["trained", "the same", "own"])
def test_each_run_is_as_it_is_alone(kernel, layout, step):
    found = [start(seed, kernel, layout) for seed in SEEDS]
    if kernel == "the same":
        base = found[0][0].frozen["kernel"]
    made = together((state for state, _ in found), len(SEEDS), found[0][1], step)
    if kernel == "the same":
        assert made.state.frozen["kernel"] is base
    state, seen = made.state, []
    for k in range(STEPS):
        state, metrics = made.step(state, tuple(batch_of(seed, k) for seed in SEEDS))
        seen.append(jax.device_get(metrics))
    for place, seed in enumerate(SEEDS):
        own, _ = start(seed, kernel, layout)
        for k in range(STEPS):
            own, metrics = step(own, batch_of(seed, k))
            for name, value in jax.device_get(metrics).items():
                np.testing.assert_allclose(seen[k][place][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        view = made.view(state, place)
        assert int(view.skipped) == (place == 1)
        jax.tree.map(
            lambda mine, other: np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6),
            *jax.device_get((view, own)),
        )
        assert view.params["out"].sharding.spec[0] == "all"
