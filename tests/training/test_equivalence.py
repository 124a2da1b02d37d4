"""Loss and gradients do not depend on devices, mesh, microbatches or how the layers are run."""

import functools

import jax
import numpy as np
import pytest

from tests.tiers import tiers
from tests.training import shapes
from tlx import parallel
from tlx.base import tree
from tlx.parallel import MeshConfig
from tlx.training import step as steps
from tlx.training.state import State

MESHES = {
    "dp of 2": (MeshConfig(data=2, rules="dp"), 2),
    "dp of 4": (MeshConfig(data=4, rules="dp"), 4),
    "dp of 8": (MeshConfig(data=8, rules="dp"), 8),
    "fsdp": (MeshConfig(data=1, fsdp=8, rules="fsdp"), 8),
    "tp": (MeshConfig(data=1, tensor=4, rules="tp"), 4),
    "fsdp x tp": (MeshConfig(data=1, fsdp=4, tensor=2, rules="fsdp_tp"), 8),
    "cp": (MeshConfig(data=1, context=2, rules="fsdp_tp_cp"), 2),
    "fsdp x tp x cp": (MeshConfig(data=1, fsdp=2, tensor=2, context=2, rules="fsdp_tp_cp"), 8),
}


@functools.cache
def reference(objective):
    return shapes.gradients(objective, MeshConfig(), 1)


ON_MESHES = [(objective, mesh) for objective in shapes.OBJECTIVES for mesh in MESHES]
# Each shape on all three axes, each kind of sharding with one shape.
ON_MESHES_SLOW = [
    ("mlm", "fsdp x tp x cp"),
    ("span_corruption", "fsdp x tp x cp"),
    ("plm", "fsdp x tp x cp"),
    ("clm", "dp of 8"),
    ("mlm", "fsdp"),
    ("span_corruption", "fsdp x tp"),
    ("plm", "cp"),
]


@pytest.mark.parametrize(
    "objective, mesh", tiers(ON_MESHES, quick=[("clm", "fsdp x tp x cp")], slow=ON_MESHES_SLOW)
)
def test_devices_and_meshes(objective, mesh):
    shapes.assert_equal(reference(objective), shapes.gradients(objective, *MESHES[mesh]))


# Objectives whose examples or parameters are sharded in a way of their own.
OTHERS_SLOW = ("bilm", "recurrent_lm", "rtd")


@pytest.mark.parametrize("objective", tiers(shapes.OTHERS, slow=OTHERS_SLOW))
def test_every_other_objective_on_eight_devices(objective):
    mesh = MeshConfig(data=2, fsdp=2, tensor=2, rules="fsdp_tp")
    shapes.assert_equal(reference(objective), shapes.gradients(objective, mesh, 8))


MICROBATCHES = [(objective, number) for objective in shapes.OBJECTIVES for number in (2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective, microbatches",
    tiers(MICROBATCHES, quick=[("plm", 4)], slow=[("clm", 2), ("span_corruption", 4)]),
)
def test_microbatches(objective, microbatches):
    shapes.assert_equal(reference(objective), shapes.gradients(objective, MeshConfig(), 1, microbatches))


@pytest.mark.parametrize("objective", tiers(shapes.OBJECTIVES, slow=["mlm", "plm"]))
def test_microbatches_on_a_mesh(objective):
    shapes.assert_equal(reference(objective), shapes.gradients(objective, *MESHES["dp of 4"], 2))


REMAT = [(name, remat) for name in shapes.OBJECTIVES for remat in ("none", "full", "dots", "query+hidden")]
REMAT_SLOW = [
    ("clm", "query+hidden"),
    ("mlm", "dots"),
    ("span_corruption", "full"),
    ("plm", "none"),
    ("plm", "full"),
]


@pytest.mark.parametrize("objective, remat", tiers(REMAT, slow=REMAT_SLOW))
def test_unrolled_and_remat(objective, remat):
    other = shapes.gradients(objective, MeshConfig(), 1, unroll=2, remat=remat)
    shapes.assert_equal(reference(objective), other)


@pytest.mark.parametrize(
    "objective", tiers(shapes.OBJECTIVES, quick=["clm"], slow=["span_corruption", "plm"])
)
def test_packed_and_unpacked(objective):
    """Two documents in one row, or each in a row of its own with padding behind it."""
    module, spec = shapes.make(objective, length=16)
    batch = shapes.examples(objective, spec, 0, documents=1)
    first, second = ({name: x[half] for name, x in batch.items()} for half in (slice(0, 4), slice(4, 8)))
    packed = {name: np.concatenate([x, _behind(name, second[name], 16)], axis=1) for name, x in first.items()}
    unpacked = {name: np.concatenate([x, np.zeros_like(x)], axis=1) for name, x in batch.items()}
    params = jax.jit(module.init)(jax.random.key(0), packed, module.initial_carry(4), None)["params"]
    params = parallel.unbox(params)
    one, other = (_gradients(module, params, rows) for rows in (packed, unpacked))
    shapes.assert_equal(one, other)


def _behind(name, x, length):
    """The arrays of a document that stands behind one of `length` tokens in the same row."""
    if name.endswith("segments"):
        return np.where(x > 0, x + 1, 0)
    return x + length if name == "target_positions" else x


def _gradients(module, params, batch):
    carry = module.initial_carry(len(batch["weights"]))
    state = State(params, {}, None, carry, *np.zeros(4, np.int32))
    result = jax.jit(functools.partial(steps.gradients, module, keys=None))(state, batch)
    return float(result.loss), tree.flatten(jax.device_get(result.grads)), None
