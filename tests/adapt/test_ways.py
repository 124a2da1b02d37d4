"""Each way to adapt trains what it should and nothing else, on a model of each shape."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from tests.tasks import small
from tests.tiers import tiers
from tlx import parallel
from tlx.adapt.config import AdaptConfig
from tlx.adapt.merge import merge
from tlx.adapt.parts import check_patterns, is_trained, split
from tlx.adapt.rates import adapted_optimizer_config
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.nn.config import AdapterConfig
from tlx.nn.dropout import CROSS_LOW_RANK, LOW_RANK, dropout
from tlx.nn.linear import Linear
from tlx.optim import OptimizerConfig, make_optimizer, make_schedule
from tlx.tasks import TABLE
from tlx.training.config import TrainConfig
from tlx.training.state import State, boxed_params
from tlx.training.step import make_step, merge_params

METHODS = ("head", "lora", "houlsby", "pfeiffer", "prefix", "prompt", "bitfit", "fl")
EVERYWHERE = ("attention/query", "attention/key", "attention/value", "attention/out",
              "feedforward/in", "feedforward/gate", "feedforward/out")  # fmt: skip
RECORDS = small.records_of(
    *({"text": text, "label": str(i % 2)} for i, text in enumerate(("ab", "cd", "efg", "hijklmn")))
)


def case(shape, adapt, layers=2, **changes):
    """(module, batch, parameters drawn at random, adapters included)."""
    spec = small.spec_of("classification", shape, RECORDS)
    model = dataclasses.replace(small.model_of(shape), adapters=adapt.adapters, num_layers=layers, **changes)
    first = model.padded_vocab
    spec = dataclasses.replace(spec, prompt=tuple(range(first, first + adapt.adapters.prompt_length)))
    batch = small.batch_of("classification", spec, RECORDS)
    module = TABLE.load("classification").module(spec.config, model)
    return module, batch, small.init(module, batch)


def logits(module, params, batch):
    return np.asarray(small.evaluated(module, params, batch)[1]["logits"])


def state_of(module, batch, params, adapt, steps=4, **optimizer):
    """(state, step) of a run that adapts."""
    boxed = boxed_params(module, {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()})
    trained, _ = split(adapt, boxed)
    config = OptimizerConfig(learning_rate=1e-2, **optimizer)
    config = adapted_optimizer_config(config, adapt, module.model, trained, steps)
    schedule = make_schedule(config, steps)
    transform = make_optimizer(config, schedule, trained)
    part, frozen = split(adapt, params)
    zero = np.zeros((), np.int32)
    state = State(part, frozen, transform.init(part), None, np.uint32(0), zero, zero, zero)
    step = make_step(module, transform, schedule, TrainConfig(batch_size=len(RECORDS)))
    return state, jax.jit(step)


def whole(state):
    return {
        path: np.asarray(leaf)
        for path, leaf in tree.flatten(merge_params(state.params, state.frozen)).items()
    }


def check_that_it_trains_only_its_own(shape, method):
    adapt = AdaptConfig(method, size=2)
    module, batch, params = case(shape, adapt)
    before = tree.flatten(params)
    state, step = state_of(module, batch, params, adapt)
    for _ in range(2):
        state, metrics = step(state, batch)
    after = whole(state)
    assert before.keys() == after.keys() and np.isfinite(metrics["loss"])
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    trained = {path for path in before if is_trained(adapt, path)}
    assert changed <= trained  # bit for bit
    assert len(trained) < len(before)
    # What is not even used by the task (a decoder's output bias) cannot change.
    unused = {path for path in trained - changed if "output" in path or "query_embedding" in path}
    assert {path for path in trained - changed if not re.search("/key/bias$", path)} == unused
    held = tree.num_params(state.opt_state) - 2
    assert held <= 2 * tree.num_params(state.params) + 2  # no moments of what is frozen


@pytest.mark.parametrize("shape", tiers(small.SHAPES, quick=["decoder"], slow=()))
def test_lora_trains_only_its_own(shape):
    check_that_it_trains_only_its_own(shape, "lora")


PAIRS = [(shape, method) for shape in small.SHAPES for method in METHODS]
# Each method with one shape.
IN_CI = [(small.SHAPES[i % len(small.SHAPES)], method) for i, method in enumerate(METHODS)]


@pytest.mark.parametrize("shape, method", tiers(PAIRS, slow=IN_CI))
def test_every_shape_is_adapted_every_way(shape, method):
    check_that_it_trains_only_its_own(shape, method)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_by_path(method):
    module, batch, params = case("encoder", AdaptConfig(method, size=2))
    adapt = AdaptConfig(method, size=2)
    check_patterns(adapt, params)
    trained = {path for path in tree.flatten(params) if is_trained(adapt, path)}
    head = {path for path in tree.flatten(params) if path.startswith("heads/")}
    block = "model/encoder/blocks"
    expected = {
        "head": set(),
        "lora": {f"{block}/attention/{name}/lora_{ab}" for name in ("query", "value") for ab in "ab"},
        "pfeiffer": _linears(f"{block}/adapter", ("down", "up")),
        "houlsby": _linears(f"{block}/adapter", ("down", "up"))
        | _linears(f"{block}/attention_adapter", ("down", "up"))
        | {
            f"{block}/{part}_norm/{leaf}"
            for part in ("attention", "feedforward")
            for leaf in ("scale", "bias")
        }
        | {f"model/encoder/final_norm/{leaf}" for leaf in ("scale", "bias")},
        "prefix": {f"{block}/attention/prefix/{name}" for name in ("key", "value")},
        "prompt": {"model/embedding/prompt"},
        "bitfit": {path for path in tree.flatten(params) if path.endswith("/bias")} - head,
        "fl": _linears(f"{block}/feedforward", ("units_in", "units_out")),
    }[method]
    assert trained == expected | head
    parts = split(adapt, params)
    assert tree.flatten(merge_params(*parts)).keys() == tree.flatten(params).keys()


def _linears(path, names):
    return {f"{path}/{name}/{leaf}" for name in names for leaf in ("kernel", "bias")}


@pytest.mark.parametrize(
    "shape", tiers([s for s in small.SHAPES if s != "two_stream"], slow=["decoder", "encoder_decoder"])
)
def test_a_prefix_that_a_network_makes(shape):
    """One table and one hidden layer for all layers; it alone is trained, and a merge leaves what it makes."""
    adapt = AdaptConfig("prefix", size=3, prefix_hidden=5)
    module, batch, params = case(shape, adapt)
    flat = tree.flatten(params)
    networks = [path.removesuffix("table") for path in flat if path.endswith("prefix_network/table")]
    assert len(networks) == (2 if shape == "encoder_decoder" else 1)
    assert not any("attention/prefix" in path for path in flat)
    rng = np.random.default_rng(0)
    for path in flat:
        if "prefix_network" in path:
            flat[path] = rng.normal(0, 0.6, flat[path].shape).astype(np.float32)
    params = tree.unflatten(flat)
    model, plain = merge(module.model, params)
    assert model.adapters == AdapterConfig(prefix_length=3)
    expected = logits(module, params, batch)
    np.testing.assert_allclose(
        logits(module.clone(model=model), plain, batch), expected, rtol=1e-4, atol=1e-5
    )
    # By hand, of one layer and one vector.
    network = networks[0]
    hidden = np.tanh(flat[network + "table"][1] @ flat[network + "in/kernel"] + flat[network + "in/bias"])
    value = (
        np.einsum("j,jgh->gh", hidden, flat[network + "value_kernel"][1]) + flat[network + "value_bias"][1]
    )
    made = tree.flatten(plain)[network.replace("prefix_network", "blocks/attention/prefix") + "value"]
    np.testing.assert_allclose(made[1, 1], value, rtol=1e-5)
    state, step = state_of(module, batch, params, adapt)
    for _ in range(2):
        state, _ = step(state, batch)
    changed = {path for path, leaf in whole(state).items() if not np.array_equal(leaf, flat[path])}
    assert changed == {path for path in flat if is_trained(adapt, path)}
    assert {f"{network}{name}" for name in ("table", "in/kernel", "key_kernel", "value_bias")} <= changed


def test_a_network_of_a_prefix_needs_the_prefix():
    with pytest.raises(ConfigError, match=r"adapt\.prefix_hidden = 5 must not be negative, and 0 for"):
        AdaptConfig("lora", prefix_hidden=5).validate()


@pytest.mark.parametrize("shape", tiers(small.SHAPES, quick=["decoder"]))
def test_merged_is_applied(shape):
    """LoRA of every matrix, and added hidden units."""
    adapt = AdaptConfig("lora", size=3, lora_alpha=5.0, lora_targets=EVERYWHERE)
    module, batch, params = case(shape, adapt)
    model, plain = merge(module.model, params)
    assert not model.adapters.any and not any("lora" in path for path in tree.flatten(plain))
    expected = logits(module, params, batch)
    np.testing.assert_allclose(
        logits(module.clone(model=model), plain, batch), expected, rtol=1e-4, atol=1e-5
    )
    bare = {p: x for p, x in tree.flatten(params).items() if "lora" not in p}
    assert not np.allclose(
        logits(module.clone(model=model), tree.unflatten(bare), batch), expected, atol=1e-3
    )


@pytest.mark.parametrize("gated", [False, True])
def test_added_units_are_units_side_by_side(gated):
    shape = "decoder"
    part = dataclasses.replace(small.model_of(shape).feedforward, gated=gated)
    module, batch, params = case(shape, AdaptConfig("fl", size=6), feedforward=part)
    model, plain = merge(module.model, params)
    assert model.block("decoder").ff_dim == 64 + 6
    expected = logits(module, params, batch)
    np.testing.assert_allclose(
        logits(module.clone(model=model), plain, batch), expected, rtol=1e-4, atol=1e-5
    )


def test_what_cannot_be_merged_says_so():
    module, _, params = case("encoder", AdaptConfig("prefix"))
    with pytest.raises(ConfigError, match="adapters.prefix_length: only LoRA and added hidden units"):
        merge(module.model, params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tolerance"), tiers([("lora", 0.0), ("fl", 0.0), ("houlsby", 1e-3)], quick=[("houlsby", 1e-3)])
)
def test_a_slot_begins_with_the_base(method, tolerance):
    """As the module itself draws them."""
    adapt = AdaptConfig(method, size=2)
    module, batch, params = case("encoder", adapt, layers=1)
    row = {name: value[:1] for name, value in batch.items()}
    drawn = tree.flatten(parallel.unbox(jax.jit(lambda k: module.init(k, row)["params"])(jax.random.key(0))))
    base, adapters = tree.flatten(params), re.compile("lora_|adapter|units_")
    mixed = {path: drawn[path] if adapters.search(path) else leaf for path, leaf in base.items()}
    plain = {path: leaf for path, leaf in base.items() if not adapters.search(path)}
    bare = module.clone(model=dataclasses.replace(module.model, adapters=AdaptConfig().adapters))
    difference = logits(module, tree.unflatten(mixed), batch) - logits(bare, tree.unflatten(plain), batch)
    assert np.abs(difference).max() <= max(tolerance, 1e-6)
    if method == "lora":
        a = np.asarray(drawn["model/encoder/blocks/attention/query/lora_a"])
        assert 0.9 * 16**-0.5 < np.abs(a).max() <= 16**-0.5 and abs(a.mean()) < 0.1


def test_a_prompt_of_words_is_those_words():
    module, batch, params = case("encoder", AdaptConfig("prompt", size=2))
    table = params["model"]["embedding"]["table"]
    params["model"]["embedding"]["prompt"] = table[[70, 71]]
    spelled = dict(batch)
    first = module.model.padded_vocab
    assert (batch["tokens"][:, 1:3] == [first, first + 1]).all()
    spelled["tokens"] = batch["tokens"].copy()
    spelled["tokens"][:, 1:3] = [70, 71]
    np.testing.assert_allclose(logits(module, params, batch), logits(module, params, spelled), rtol=1e-6)


@pytest.mark.parametrize("shape", ["encoder", "decoder"])
def test_a_prefix_is_more_keys(shape):
    """By hand: one layer's attention over P + S keys, of which the P are seen from everywhere."""
    from tlx.nn.attention import Attention
    from tlx.nn.mask import Mask

    cfg = dataclasses.replace(small.model_of(shape), adapters=AdaptConfig("prefix", size=3).adapters).block(
        shape
    )
    attention = Attention(cfg)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 16)).astype(np.float32)
    segments = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]], np.int32)
    mask = Mask(segments, segments, 0, shape == "decoder")
    shapes = jax.eval_shape(lambda k: attention.init(k, x, x, mask)["params"], jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), parallel.unbox(shapes))
    found = jax.jit(lambda p: attention.apply({"params": p}, x, x, mask)[0])(params)

    q, k, v = (
        np.einsum("btd,dnh->btnh", x, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    own = {name: np.broadcast_to(params["prefix"][name], (2, 3, 2, 8)) for name in ("key", "value")}
    k, v = np.concatenate([own["key"], k], 1), np.concatenate([own["value"], v], 1)
    seen = segments[:, :, None] == segments[:, None, :]
    if shape == "decoder":
        seen &= np.tril(np.ones((5, 5), bool))
    seen = np.concatenate([np.ones((2, 5, 3), bool), seen], 2)
    scores = np.where(seen[:, None], np.einsum("btnh,bsnh->bnts", q, k) * 8**-0.5, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bnts,bsnh->btnh", weights, v)
    y = np.einsum("btnh,nhd->btd", y, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


@functools.cache
def _rates(shape, **settings):
    """{path: (what an update of 1 becomes, by layer)} at the first and at the last of 10 steps."""
    adapt = AdaptConfig(**settings)
    module, batch, _ = case(shape, AdaptConfig())
    boxed = boxed_params(module, {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()})
    config = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, name="lion")
    config = adapted_optimizer_config(config, adapt, module.model, boxed, 10)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), parallel.unbox(boxed))
    found, transform = [], make_optimizer(config, lambda step: 1.0, boxed)
    update = jax.jit(transform.update)
    for count in (0, 3, 9):
        state = transform.init(params)._replace(count=np.int32(count))
        updates, _ = update(params, state, params)
        flat = tree.flatten(updates)
        found.append({p: -np.asarray(u).reshape(len(u), -1)[:, 0] for p, u in flat.items() if u.ndim})
    return found


@pytest.mark.slow
def test_rates_fall_from_layer_to_layer():
    first, _, _ = _rates("encoder", layer_lr_decay=0.5)
    np.testing.assert_allclose(first["model/encoder/blocks/attention/query/kernel"], [1 / 8, 1 / 4])
    assert set(first["model/embedding/table"]) == {1 / 16} == set(first["model/encoder/front/positions"])
    assert set(first["heads/classification/classifier/kernel"]) == {1.0}
    both, _, _ = _rates("encoder_decoder", layer_lr_decay=0.5)
    np.testing.assert_allclose(both["model/encoder/blocks/attention/query/kernel"], [1 / 32, 1 / 16])
    np.testing.assert_allclose(both["model/decoder/blocks/attention/query/kernel"], [1 / 8, 1 / 4])
    two, _, _ = _rates("two_stream", layer_lr_decay=0.5)
    np.testing.assert_allclose(two["model/blocks/attention/query/kernel"], [1 / 8, 1 / 4])


def test_layers_join_from_the_top():
    at = _rates(
        "encoder", gradual_unfreezing=0.2
    )  # the top from step 2 on, the next from 4, embeddings from 6
    query = "model/encoder/blocks/attention/query/kernel"
    np.testing.assert_array_equal([rates[query] for rates in at], [[0, 0], [0, 1], [1, 1]])
    assert [rates["model/embedding/table"][0] for rates in at] == [0, 0, 1]
    assert all((rates["heads/classification/classifier/kernel"] == 1).all() for rates in at)


def test_what_has_not_joined_is_bit_equal():
    adapt = AdaptConfig(gradual_unfreezing=0.5)
    module, batch, params = case("decoder", adapt)
    state, step = state_of(module, batch, params, adapt)
    for _ in range(2):
        state, _ = step(state, batch)
    before, after = tree.flatten(params), whole(state)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {p for p in before if p.startswith(("heads/", "model/decoder/final_norm"))}
    state, _ = step(state, batch)
    query = "model/decoder/blocks/attention/query/kernel"
    assert [np.array_equal(a, b) for a, b in zip(before[query], whole(state)[query], strict=True)] == [
        True,
        False,
    ]


def test_loras_dropout_is_of_what_its_matrices_read():
    """y = x W + scale (drop(x) A) B + b: W reads all of x, and every matrix draws bits of its own."""
    adapters = AdaptConfig("lora", size=2, lora_dropout=0.5, lora_targets=EVERYWHERE).adapters
    model = dataclasses.replace(small.model_of("encoder_decoder"), adapters=adapters)
    block = model.block("decoder")
    low = [block.lora(name, site) for name in EVERYWHERE for site in (LOW_RANK, CROSS_LOW_RANK)]
    assert len({lora.site for lora in low}) == 14
    layer = Linear((6,), (5,), (None, None), 0.1, True, "float32", "float32", lora=low[0])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 6)).astype(np.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), parallel.unbox(shapes))
    keys = jax.random.split(jax.random.key(1), 3)
    y = layer.apply({"params": params}, x, keys)
    dropped = np.asarray(dropout(x, 0.5, keys, low[0].site))
    assert 0.2 < (dropped == 0).mean() < 0.8 and np.allclose(dropped[dropped != 0], 2 * x[dropped != 0])
    part = low[0].scale * (dropped @ params["lora_a"]) @ params["lora_b"]
    np.testing.assert_allclose(y, x @ params["kernel"] + part + params["bias"], rtol=2e-5, atol=2e-5)
    part = low[0].scale * (x @ params["lora_a"]) @ params["lora_b"]
    plain = layer.apply({"params": params}, x)
    np.testing.assert_allclose(plain, x @ params["kernel"] + part + params["bias"], rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_every_matrix_with_low_rank_reads_its_input_dropped_out():
    """In a model each of the seven but the gate, which has no such module, changes the output alone."""
    keys = jax.random.split(jax.random.key(1), len(RECORDS))
    for target in (name for name in EVERYWHERE if name != "feedforward/gate"):
        adapt = AdaptConfig("lora", size=2, lora_dropout=0.5, lora_targets=(target,))
        module, batch, params = case("decoder", adapt, layers=1)
        outputs = jax.jit(
            lambda keys, m=module, p=params, b=batch: m.apply({"params": p}, b, keys, method="outputs")
        )
        assert np.abs(outputs(None)["logits"] - outputs(keys)["logits"]).max() > 1e-4, target


@pytest.mark.slow
def test_lora_is_the_gradient_of_its_matrix():
    """dB = scale A^T dW, the chain rule, where B = 0."""
    adapt = AdaptConfig("lora", size=3, lora_alpha=6.0)
    module, batch, params = case("encoder", adapt, layers=1)
    query = params["model"]["encoder"]["blocks"]["attention"]["query"]
    query["lora_b"] = np.zeros_like(query["lora_b"])

    @jax.jit
    def grads(params):
        return jax.grad(lambda p: module.apply({"params": p}, batch)[0]["loss"].sum)(params)

    found = grads(params)["model"]["encoder"]["blocks"]["attention"]["query"]
    a, d_w = query["lora_a"][0], np.asarray(found["kernel"][0])
    np.testing.assert_allclose(found["lora_b"][0], 2 * np.einsum("dr,dnh->rnh", a, d_w), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(np.abs(found["lora_a"]), 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lora", "also_train": ("(",)}, "no.*regular expression"),
        ({"method": "lora", "also_train": ("nowhere",)}, "'nowhere' matches no parameter"),
        ({"method": "bitfit"}, "nothing to train in this model: it has no biases"),
    ],
)
def test_patterns_that_find_nothing(settings, message):
    params = {"model": {"kernel": np.zeros(1), "lora_a": np.zeros(1)}, "heads": {"kernel": np.zeros(1)}}
    with pytest.raises(ConfigError, match=message):
        check_patterns(AdaptConfig(**settings), params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": -1}, "adapt.size = -1"),
        ({"layer_lr_decay": 0.0}, "adapt.layer_lr_decay = 0.0"),
        ({"gradual_unfreezing": 1.0}, "adapt.gradual_unfreezing = 1.0"),
        ({"also_train": ("norm",)}, "method 'full' trains all"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdaptConfig(**settings).validate()
