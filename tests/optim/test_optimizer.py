"""Each optimizer is optax's on the layers one by one, whatever is stacked, frozen or named by a rule."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim import trees
from tests.tiers import tiers
from tlx.base import tree
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.optim import AdafactorConfig, MuonConfig, OptimizerConfig, frozen_paths, make_optimizer
from tlx.optim.leaves import describe

pytestmark = pytest.mark.jax_versions


def rate(count):
    return 0.01 / (1 + count)


def config_of(name, **changes):
    small = {"adafactor": AdafactorConfig(min_dim_size_to_factor=8), "muon": MuonConfig(ns_steps=2)}
    return OptimizerConfig(name=name, **small | changes)


def first_update(optimizer, params, grads):
    return tree.flatten(jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0])


def updates_of(optimizer, params, arrange=lambda values: values, steps=2):
    """The updates of some steps down the same slopes, each {path: update}; `arrange`: as params' tree."""
    params, found = arrange(params), []
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        grads = arrange(trees.values(trees.abstract(), seed=step + 1))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append(tree.flatten(updates))
    return found


def assert_close(ours, theirs, rtol):
    """The norm of each leaf's difference is at most `rtol` of its norm, at every step."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for path, update in mine.items():
            gap = np.linalg.norm(update - other[path]) / np.linalg.norm(other[path])
            assert gap <= rtol, (path, gap)


def is_matrix(params):
    def kind(path, leaf):
        return leaf.ndim >= 2 and not path.endswith(("bias", "scale"))

    return tree.map_with_path(kind, params)


STACKED = [("adamw", 0), ("lion", 0), ("adagrad", 0), ("adafactor", 1e-5), ("muon", 1e-5), ("lamb", 1e-5)]


@pytest.mark.parametrize("name, rtol", tiers(STACKED, quick=[("adafactor", 1e-5)]))
def test_stacked_layers_are_updated_as_layers_apart(name, rtol):
    """Bit for bit where each number is on its own; else XLA sums in an order that depends on the shape."""
    params, config = trees.values(trees.abstract(), seed=0), config_of(name)
    stacked = updates_of(make_optimizer(config, rate, trees.abstract()), params)
    single = make_optimizer(config, rate, trees.abstract(stacked=False))
    stacked = [tree.flatten(trees.apart(tree.unflatten(updates))) for updates in stacked]
    assert_close(stacked, updates_of(single, params, trees.apart), rtol)


def reference(name, params):
    """optax's own optimizer on layers apart."""
    if name == "adamw":
        return optax.adamw(rate, 0.9, 0.95, weight_decay=0.1, mask=is_matrix)
    if name == "lion":
        return optax.lion(rate, 0.9, 0.95, weight_decay=0.1, mask=is_matrix)
    if name == "adagrad":
        decay = optax.add_decayed_weights(0.1, mask=is_matrix)
        return optax.chain(optax.scale_by_rss(0.1, 1e-8), decay, optax.scale_by_learning_rate(rate))
    if name == "lamb":  # optax's own adapts vectors too
        decay = optax.add_decayed_weights(0.1, mask=is_matrix)
        trust = optax.masked(optax.scale_by_trust_ratio(), is_matrix)
        return optax.chain(
            optax.scale_by_adam(0.9, 0.95, 1e-8), decay, trust, optax.scale_by_learning_rate(rate)
        )
    leaves = describe(trees.abstract(stacked=False))
    dims = {path: leaf.hidden_sides for path, leaf in leaves.items()}

    def numbers(params):
        def of(path, _):
            return optax.contrib.MuonDimensionNumbers(*dims[path]) if dims[path] else None

        return tree.map_with_path(of, params)

    decayed = optax.contrib.muon(
        rate,
        weight_decay=0.1,
        muon_weight_dimension_numbers=numbers,
        consistent_rms=0.2,
        ns_steps=2,
    )
    labels = tree.map_with_path(lambda path, _: "muon" if dims[path] else "adam", params)
    adam = optax.adamw(rate, 0.9, 0.95, weight_decay=0.1, mask=is_matrix)
    return optax.partition({"muon": decayed, "adam": adam}, labels)


@pytest.mark.parametrize("name", ["adamw", "lion", "adagrad", "lamb", "muon"])
def test_equal_to_optax_on_layers_apart(name):
    params = trees.values(trees.abstract(), seed=0)
    ours = updates_of(make_optimizer(config_of(name), rate, trees.abstract()), params)
    ours = [tree.flatten(trees.apart(tree.unflatten(updates))) for updates in ours]
    assert_close(ours, updates_of(reference(name, trees.apart(params)), params, trees.apart), 1e-5)


def test_adafactor_is_optax_on_the_layers_matrices():
    params, config = trees.values(trees.abstract(), seed=0), config_of("adafactor", weight_decay=0.0)
    leaves = describe(trees.abstract(stacked=False))

    def matrices(values):
        def joined(path, leaf):
            return leaf.reshape([np.prod([leaf.shape[d] for d in side]) for side in leaves[path].sides])

        return tree.map_with_path(joined, trees.apart(values))

    ours = updates_of(make_optimizer(config, rate, trees.abstract()), params)
    ours = [tree.flatten(matrices(tree.unflatten(updates))) for updates in ours]
    theirs = updates_of(optax.adafactor(rate, min_dim_size_to_factor=8), params, matrices)
    assert_close(ours, theirs, 1e-5)


def test_adam_corrects_its_bias():
    params, grads = trees.values(trees.abstract(), 0), trees.values(trees.abstract(), 1)
    optimizer = make_optimizer(config_of("adamw", weight_decay=0.0), rate, trees.abstract())
    for path, update in first_update(optimizer, params, grads).items():
        np.testing.assert_allclose(update, -0.01 * np.sign(tree.flatten(grads)[path]), rtol=1e-3)


def test_muon_makes_the_matrices_of_each_layer_orthogonal():
    config = config_of("muon", weight_decay=0.0, muon=MuonConfig(scale="spectral"))
    params, grads = trees.values(trees.abstract(), 0), trees.values(trees.abstract(), 1)
    optimizer = make_optimizer(config, lambda count: 1.0, trees.abstract())
    updates = first_update(optimizer, params, grads)
    block = {path: update for path, update in updates.items() if "/blocks/" in path}
    views = {
        "attention/query/kernel": lambda u: [u.reshape(16, 16)],
        "attention/out/kernel": lambda u: [u.reshape(16, 16)],
        "feedforward/in/kernel": lambda u: [u[:, 0], u[:, 1]],
        "feedforward/out/kernel": lambda u: [u],
    }
    for path, view in views.items():
        for layer in block[f"model/blocks/{path}"]:
            for matrix in view(layer):
                stretch = max(1, matrix.shape[1] / matrix.shape[0]) ** 0.5
                values = np.linalg.svd(matrix, compute_uv=False) / stretch
                assert 0.6 < np.median(values) and values.max() < 1.3, (path, values)


def test_muons_products_over_a_stack_have_one_batch_dim():
    """With two, as vectorising over the layers once more makes them, XLA:CPU takes twice as long."""
    optimizer = make_optimizer(config_of("muon"), rate, trees.abstract())
    params = trees.values(trees.abstract(), 0)
    jaxpr = jax.make_jaxpr(optimizer.update)(params, optimizer.init(params), params)
    found = {equation.params["dimension_numbers"][1] for equation in products(jaxpr.jaxpr)}
    assert found == {((0,), (0,))}


def products(jaxpr):
    """The matrix products of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


def test_only_matrices_decay_by_default():
    params = trees.values(trees.abstract(), 0)
    still = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(config_of("adamw"), lambda count: 1.0, trees.abstract())
    updates = first_update(optimizer, params, still)
    decayed = {path for path, update in updates.items() if np.any(update)}
    assert {path for path in updates if path not in decayed} == {
        "model/blocks/attention/query/bias",
        "model/blocks/norm/scale",
    }


def test_rules_give_layers_rates_and_decay_of_their_own():
    config = config_of(
        "adamw",
        weight_decay_multipliers=(("blocks[1]/feedforward", 0.5), ("feedforward", 0.0)),
        lr_multipliers=(("blocks[:2]/norm", 0.25), ("blocks[-1]/norm", 0.5)),
    )
    params = trees.values(trees.abstract(), 0)
    still = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(config, lambda count: 1.0, trees.abstract())
    updates = first_update(optimizer, params, still)
    path = "model/blocks/feedforward/out/kernel"
    expected = np.array([0, 0.05, 0, 0])[:, None, None] * tree.flatten(params)[path]
    np.testing.assert_allclose(updates[path], -expected, rtol=1e-6)
    grads = jax.tree.map(jnp.ones_like, params)
    updates = first_update(optimizer, params, grads)
    norms = updates["model/blocks/norm/scale"][:, 0]
    np.testing.assert_allclose(norms, [-0.25, -0.25, -1, -0.5], rtol=1e-5)


def test_a_part_that_the_first_layer_lacks_is_that_of_the_last_layers():
    """ModernBERT's attention norm: [layers - 1, ...], and blocks[1] is its first row."""
    boxed = trees.abstract()
    norm = boxed["model"]["blocks"]["norm"]
    short = jax.ShapeDtypeStruct((trees.LAYERS - 1, 16), jnp.float32)
    boxed["model"]["blocks"]["norm"] = {"scale": norm["scale"].replace_boxed(short)}
    optimizer = make_optimizer(config_of("adamw", freeze=("blocks[:2]/",)), lambda count: 1.0, boxed)
    params = trees.values(boxed, 0)
    updates = first_update(optimizer, params, jax.tree.map(jnp.ones_like, params))
    assert np.any(updates["model/blocks/norm/scale"], axis=1).tolist() == [False, True, True]
    assert (
        np.any(updates["model/blocks/attention/query/bias"], axis=(1, 2)).tolist() == [False] * 2 + [True] * 2
    )


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_frozen_parameters_stay_and_have_no_state(name):
    config = config_of(name, freeze=("embed", "blocks[:2]/", "blocks/norm"))
    frozen = {"model/embed/embedding", "model/blocks/norm/scale"}
    params = trees.values(trees.abstract(), 0)
    optimizer = make_optimizer(config, rate, trees.abstract())
    for path, update in updates_of(optimizer, params)[-1].items():
        if path in frozen:
            assert not np.any(update), path
        elif "/blocks/" in path:
            assert not np.any(update[:2]) and np.all(update[2:]), path
        else:
            assert np.all(update), path
    held = tree.flatten(optimizer.init(params))
    assert not [path for path in held if path.endswith(tuple(frozen))]
    assert frozen_paths(config, trees.abstract()) == frozen


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"freeze": ("embedd/",)}, ("optimizer.freeze", "'embedd/'", "model/embed/embedding")),
        (
            {"lr_multipliers": (("blocks[9]/norm", 0.0),)},
            ("optimizer.lr_multipliers", "stacks have 4 layers"),
        ),
        (
            {"weight_decay_multipliers": (("(", 0.0),)},
            ("optimizer.weight_decay_multipliers", "not a regular expression"),
        ),
        ({"lr_multipliers": (("norm", -1.0),)}, ("optimizer.lr_multipliers", "less than 0")),
        ({"name": "adamv"}, ("optimizer.name", "did you mean 'adamw'")),
        ({"beta2": 1.0}, ("optimizer.beta2", "less than 1")),
        ({"learning_rate": 0.0}, ("optimizer.learning_rate", "more than 0")),
    ],
)
def test_what_cannot_be_used_is_refused(changes, parts):
    with pytest.raises(ConfigError) as caught:
        make_optimizer(OptimizerConfig(**changes), rate, trees.abstract())
    for part in parts:
        assert part in str(caught.value)


def test_muon_refuses_parameters_without_names():
    plain = jax.eval_shape(lambda: trees.values(trees.abstract(), 0))
    with pytest.raises(ValueError, match="logical names"):
        make_optimizer(config_of("muon"), rate, plain)


def test_plain_parameters_serve_the_others():
    plain = jax.eval_shape(lambda: trees.values(trees.abstract(), 0))
    params = trees.values(trees.abstract(), 0)
    boxed = updates_of(make_optimizer(config_of("lion"), rate, trees.abstract()), params)
    unboxed = updates_of(make_optimizer(config_of("lion"), rate, plain), params)
    assert_close(boxed, unboxed, 0)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_momentum_can_be_kept_in_bfloat16(name):
    params = trees.values(trees.abstract(), 0)
    optimizer = make_optimizer(config_of(name, momentum_dtype="bfloat16"), rate, trees.abstract())
    kinds = {
        path: leaf.dtype for path, leaf in tree.flatten(optimizer.init(params)).items() if "/mu/" in path
    }
    assert kinds and set(kinds.values()) == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_bfloat16_parameters_are_updated_in_float32():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), trees.values(trees.abstract(), 0))
    optimizer = make_optimizer(config_of("adamw"), rate, trees.abstract())
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_other_parameters_are_refused():
    optimizer = make_optimizer(config_of("adamw"), rate, trees.abstract())
    with pytest.raises(ValueError, match="layer_0"):
        optimizer.init(trees.apart(trees.values(trees.abstract(), 0)))


def test_config_reads_from_plain_values():
    values = {
        "name": "muon",
        "weight_decay_multipliers": [["norm", 0]],
        "freeze": ["embed"],
        "muon": {"ns_steps": 3},
    }
    config = from_dict(OptimizerConfig, values)
    assert config == OptimizerConfig(
        name="muon", weight_decay_multipliers=(("norm", 0.0),), freeze=("embed",), muon=MuonConfig(ns_steps=3)
    )
    assert from_dict(OptimizerConfig, to_dict(config)) == config
