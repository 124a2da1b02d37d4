"""Logical names become shardings, constraints reach the compiler, and what does not divide is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.parallel import (
    AXES,
    PARTITION_NAME,
    PRESETS,
    Logical,
    constrain,
    logical,
    logical_names,
    param_shardings,
    spec,
    unbox,
    use,
)

pytestmark = pytest.mark.jax_versions


def mesh_of(**sizes):
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x_BD, _):
        init = nn.initializers.lecun_normal()
        w_DF = self.param("in", logical(init, ("embed", "mlp")), (16, 32))
        w_FD = self.param("out", logical(init, ("mlp", "embed")), (32, 16))
        scale_D = self.param("scale", logical(nn.initializers.ones, ("embed",)), (16,))
        h_BF = constrain(jax.nn.relu(x_BD @ w_DF), ("batch", "mlp"))
        return constrain(x_BD + scale_D * (h_BF @ w_FD), ("batch", "activation_embed")), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x_BD):
        scan = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=4,
            metadata_params={PARTITION_NAME: "layers"},
        )
        return scan(name="blocks")(x_BD, None)[0]


@pytest.fixture(scope="module")
def abstract():
    return jax.eval_shape(Stack().init, jax.random.key(0), jnp.zeros((8, 16)))["params"]


def test_scanned_parameters_carry_the_layers_name(abstract):
    assert logical_names(abstract)["blocks"] == {
        "in": ("layers", "embed", "mlp"),
        "out": ("layers", "mlp", "embed"),
        "scale": ("layers", "embed"),
    }


@pytest.mark.parametrize(
    "preset, sizes, expected",
    [
        ("dp", {"data": 8}, (None, None, None)),
        ("fsdp", {"fsdp": 8}, (None, "fsdp", None)),
        ("tp", {"tensor": 8}, (None, None, "tensor")),
        ("fsdp_tp", {"fsdp": 4, "tensor": 2}, (None, "fsdp", "tensor")),
        ("fsdp_tp_cp", {"fsdp": 2, "tensor": 2, "context": 2}, (None, "fsdp", "tensor")),
    ],
)
def test_param_shardings_follow_the_preset(abstract, preset, sizes, expected):
    shardings = param_shardings(abstract, mesh_of(**sizes), PRESETS[preset])
    assert shardings["blocks"]["in"].spec == PartitionSpec(*expected)


def test_norms_and_biases_are_split_where_they_can_be():
    shapes = {"norm": ((4, 16), ("layers", "norm")), "bias": ((4, 2, 8), ("layers", "heads", "head_dim"))}
    shapes |= {"odd": ((4, 6), ("layers", "mlp")), "plain": ((16,), (None,))}
    boxed = {
        name: Logical(jax.ShapeDtypeStruct(shape, jnp.float32), names)
        for name, (shape, names) in shapes.items()
    }
    specs = jax.tree.map(
        lambda sharding: sharding.spec, param_shardings(boxed, mesh_of(fsdp=4, tensor=2), PRESETS["fsdp_tp"])
    )
    assert specs == {
        "norm": PartitionSpec(None, "fsdp"),
        "bias": PartitionSpec(None, "tensor", "fsdp"),
        "odd": PartitionSpec(None, "tensor"),
        "plain": PartitionSpec("fsdp"),
    }
    whole = param_shardings(boxed, mesh_of(data=4, tensor=2), PRESETS["tp"])
    assert whole["norm"].spec == PartitionSpec(None, None)


def test_parameters_are_born_sharded_and_equal_those_of_one_device(abstract):
    mesh = mesh_of(fsdp=4, tensor=2)
    shardings = param_shardings(abstract, mesh, PRESETS["fsdp_tp"])

    def init(key):
        return unbox(Stack().init(key, jnp.zeros((8, 16))))["params"]

    whole = jax.jit(init)(jax.random.key(0))
    sharded = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
    # The same random bits: what is computed from them may be rounded differently for other shapes.
    for path, leaf in tree.flatten(sharded).items():
        of_one = np.asarray(tree.flatten(whole)[path])
        np.testing.assert_allclose(leaf, of_one, rtol=0, atol=2e-7 * np.abs(of_one).max())
    kernel = sharded["blocks"]["in"]
    assert kernel.addressable_shards[0].data.shape == (4, 4, 16)


def test_initialising_and_applying_under_use_gives_the_same_result(abstract):
    mesh = mesh_of(fsdp=4, tensor=2)
    x_BD = jax.random.normal(jax.random.key(1), (8, 16))
    params = unbox(Stack().init(jax.random.key(0), x_BD))
    with use(mesh, PRESETS["fsdp_tp"]):
        inside = unbox(jax.jit(Stack().init)(jax.random.key(0), x_BD))
        y_BD = jax.jit(Stack().apply)(inside, x_BD)
    np.testing.assert_allclose(y_BD, Stack().apply(params, x_BD), atol=1e-5)


def test_constrain_is_nothing_without_a_mesh():
    x_BD = jnp.ones((3, 5))
    assert constrain(x_BD, ("batch", "embed")) is x_BD


def test_constrain_lays_out_the_result():
    @jax.jit
    def double(x_BTD):
        return constrain(2 * x_BTD, ("batch", "sequence", "embed"))

    with use(mesh_of(data=2, fsdp=2, context=2), PRESETS["fsdp_tp_cp"]):
        y_BTD = double(jnp.ones((8, 4, 6)))
    assert y_BTD.sharding.spec == PartitionSpec(("data", "fsdp"), "context")


def test_a_jitted_function_is_traced_again_under_other_rules():
    double = jax.jit(lambda x_BT: constrain(2 * x_BT, ("batch", "sequence")))
    mesh = mesh_of(data=4, context=2)
    layouts = []
    for preset in ("dp", "fsdp_tp_cp"):
        with use(mesh, PRESETS[preset]):
            layouts.append(double(jnp.ones((8, 4))).sharding.spec)
    assert layouts == [PartitionSpec("data"), PartitionSpec("data", "context")]


def test_a_mesh_without_devices_serves_for_tracing():
    mesh = AbstractMesh((1, 256, 1, 1, 2), AXES, axis_types=(AxisType.Auto,) * 5)
    with use(mesh, PRESETS["fsdp_tp"]):
        out = jax.eval_shape(
            lambda x: constrain(x, ("batch", "mlp")), jax.ShapeDtypeStruct((512, 8), "float32")
        )
    assert out.shape == (512, 8)


def test_a_dim_of_size_one_stays_whole():
    mesh = mesh_of(fsdp=4, context=2)
    assert spec(("batch", "sequence"), (8, 1), mesh, PRESETS["fsdp_tp_cp"], "x") == PartitionSpec(
        "fsdp", None
    )


def test_indivisible_parameter_is_refused_with_the_legal_values(abstract):
    mesh = AbstractMesh((1, 3, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 5)
    with pytest.raises(ConfigError) as caught:
        param_shardings(abstract, mesh, PRESETS["fsdp"])
    message = str(caught.value)
    for part in ("parameter blocks/in", "'embed'", "size 16", "fsdp=3", "multiple of 3", "1, 2, 4, 8, 16"):
        assert part in message


def test_unknown_logical_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'heads'"):
        spec(("headz",), (8,), mesh_of(fsdp=8), PRESETS["fsdp"], "x")


def test_wrong_number_of_names_is_refused():
    with pytest.raises(ValueError, match="2 logical names"):
        logical(nn.initializers.zeros, ("embed", "mlp"))(jax.random.key(0), (4,))
