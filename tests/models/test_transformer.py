"""Equivalences that hold for every shape: cached = full, unrolled = scanned, packed = unpacked ..."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiers import tiers
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import AttentionConfig, ExecutionConfig, HeadConfig, ModelConfig, PositionConfig
from tlx.models.transformer import Transformer
from tlx.nn.config import NormConfig, RotaryScaling
from tlx.parallel import logical_names, unbox

pytestmark = pytest.mark.jax_versions

POSITIONS = ("learned", "sinusoidal", "rotary", "relative_bias", "relative_sinusoidal", "alibi")


def config(kind="decoder", position="rotary", **changes):
    attention = changes.pop("attention", AttentionConfig(num_heads=4, num_kv_heads=2))
    base = ModelConfig(
        kind=kind,
        vocab_size=61,
        vocab_multiple=8,
        width=32,
        num_layers=2,
        attention=attention,
        position=PositionConfig(kind=position) if isinstance(position, str) else position,
        execution=ExecutionConfig(unroll=1),
    )
    return dataclasses.replace(base, **changes)


def rows(prefix="", batch=2, length=12, seed=0, padding=0):
    """Random tokens, the first `padding` places of row 1 padded."""
    tokens = jax.random.randint(jax.random.key(seed), (batch, length), 1, 61)
    segments = jnp.ones((batch, length), jnp.int32).at[1, :padding].set(0)
    positions = jnp.maximum(jnp.cumsum(segments, 1) - 1, 0)
    return {f"{prefix}tokens": tokens, f"{prefix}segments": segments, f"{prefix}positions": positions}


def sharp(params, seed=7):
    """Weights large enough for mistakes to show."""
    leaves = tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noise = zip(leaves.items(), keys, strict=True)
    return tree.unflatten({p: 0.15 * jax.random.normal(k, x.shape) + ("scale" in p) for (p, x), k in noise})


def build(cfg, batch):
    model = Transformer(cfg)
    params = jax.eval_shape(model.init, jax.random.key(1), batch)["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), unbox(params))
    return model, sharp(zeros)


def run(model, params, *args, method=None, **kwargs):
    """One compiled program: op by op each would be compiled alone."""
    call = jax.jit(lambda params, *args: model.apply({"params": params}, *args, method=method, **kwargs))
    return call(params, *args)


def cached_and_full(model, params, batch, cache, stops):
    """Hidden states of the tokens, decoded in pieces that end at `stops`, and those of the full pass."""
    pieces = []
    start = 0
    for stop in stops:
        piece = [batch[name][:, start:stop] for name in ("tokens", "positions", "segments")]
        hidden, cache = run(model, params, *piece, cache, method=Transformer.decode)
        pieces.append(hidden)
        start = stop
    real = np.asarray(batch["segments"]) > 0
    return np.concatenate(pieces, 1)[real], np.asarray(run(model, params, batch))[real]


def check_packed_documents(cfg):
    """Three documents in a row have the hidden states that each has alone."""
    lengths = (3, 1, 7)
    batch = rows(batch=1, length=sum(lengths) + 1)
    positions = np.concatenate([np.arange(length) for length in lengths])
    packed = batch | {
        "segments": jnp.array([[*np.repeat(np.arange(1, 4), lengths), 0]]),
        "positions": jnp.array([[*positions, 0]]),
    }
    model, params = build(cfg, batch)
    together = run(model, params, packed)
    start = 0
    for length in lengths:
        tokens = batch["tokens"][:, start : start + length]
        document = {
            "tokens": tokens,
            "segments": jnp.ones_like(tokens),
            "positions": jnp.arange(length)[None],
        }
        alone = run(model, params, document)
        np.testing.assert_allclose(together[:, start : start + length], alone, atol=2e-5)
        start += length


@pytest.mark.parametrize("position", tiers(POSITIONS, quick=["rotary"]))
def test_cached_decoding_equals_the_full_pass_of_a_decoder(position):
    cfg = config(position=position, attention=AttentionConfig(num_heads=4, num_kv_heads=2, window=5))
    batch = rows(padding=3)
    model, params = build(cfg, batch)
    cached, full = cached_and_full(model, params, batch, model.init_cache(2, 15), (6, 7, 8, 12))
    np.testing.assert_allclose(cached, full, atol=2e-5)
    assert np.abs(full).max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("block_layout", ["output", "parallel_shared"])
def test_cached_decoding_with_norms_of_heads_and_layers_without_rotation(block_layout):
    position = PositionConfig(
        kind="rotary",
        rotary_layout="interleaved",
        rotary_pattern=(True, False),
        scaling=RotaryScaling("yarn", 4.0, original_length=16, beta_fast=4.0),
    )
    scope = "all_heads" if block_layout == "output" else "each_head"
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, qk_norm=True, qk_norm_scope=scope)
    norm = NormConfig("rmsnorm" if block_layout == "output" else "layernorm")
    cfg = config(
        position=position,
        attention=attention,
        block_layout=block_layout,
        norm=norm,
        num_layers=3,
        residual_multiplier=0.7,
    )
    batch = rows(padding=3)
    model, params = build(cfg, batch)
    scale = params["decoder"]["blocks"]["attention"]["key_norm"]["scale"]
    assert scale.shape == ((3, 16) if block_layout == "output" else (3, 2, 8))
    assert ("feedforward_norm" in params["decoder"]["blocks"]) == (block_layout == "output")
    cached, full = cached_and_full(model, params, batch, model.init_cache(2, 12), (6, 12))
    np.testing.assert_allclose(cached, full, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("position", tiers(["relative_bias", "learned"], quick=["learned"]))
def test_cached_decoding_equals_the_full_pass_of_an_encoder_decoder(position):
    cfg = config("encoder_decoder", position, num_decoder_layers=3)
    batch = rows("encoder_", padding=4) | rows("decoder_", length=7, seed=3)
    model, params = build(cfg, batch)
    full = run(model, params, batch)
    encoded = run(model, params, batch, method=Transformer.encode)
    cache = model.apply(
        {"params": params}, 2, 9, encoded, batch["encoder_segments"], method=Transformer.init_cache
    )
    for t in range(7):
        part = [batch[f"decoder_{k}"][:, t : t + 1] for k in ("tokens", "positions", "segments")]
        hidden, cache = run(model, params, *part, cache, method=Transformer.decode)
        np.testing.assert_allclose(hidden[:, 0], full[:, t], atol=2e-5)


@pytest.mark.slow
def test_cached_decoding_with_a_first_layer_unlike_the_others():
    """ModernBERT's decoder: no norm before the first layer, and a transform of hidden states."""
    cfg = config(
        num_layers=4,
        norm=NormConfig(bias=False, before_first_layer=False),
        attention=AttentionConfig(num_heads=4, window_pattern=(0, 5, 5)),
        head=HeadConfig(hidden_transform=True, bias=True),
    )
    batch = rows(padding=3)
    model, params = build(cfg, batch)
    assert params["decoder"]["blocks"]["attention_norm"]["scale"].shape == (3, 32)
    cached, full = cached_and_full(model, params, batch, model.init_cache(2, 12), (6, 12))
    np.testing.assert_allclose(cached, full, atol=2e-5)


def gradients(cfg, batch, params, keys=None):
    def loss(params):
        hidden = Transformer(cfg).apply({"params": params}, batch, keys=keys)
        return jnp.sum(jnp.sin(hidden))

    return jax.jit(jax.value_and_grad(loss))(params)


EXECUTIONS = (
    ExecutionConfig(unroll=1),
    ExecutionConfig(unroll=1, remat="full"),
    ExecutionConfig(unroll=1, remat="dots"),
    ExecutionConfig(unroll=2, remat="query+hidden"),
)


@pytest.mark.slow
@pytest.mark.parametrize("execution", tiers(EXECUTIONS, quick=[EXECUTIONS[3]]))
def test_execution_changes_nothing(execution):
    cfg = config(dropout=0.1, execution=ExecutionConfig(unroll=2))
    batch, keys = rows(), jax.random.split(jax.random.key(5), 2)
    _, params = build(cfg, batch)
    expected = gradients(cfg, batch, params, keys)
    got = gradients(dataclasses.replace(cfg, execution=execution), batch, params, keys)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max()), got[1], expected[1]
    )


@pytest.mark.slow
def test_remat_keeps_only_what_it_names():
    batch = rows(batch=4, length=64)

    def saved(remat):
        cfg = config(execution=ExecutionConfig(unroll=1, remat=remat), dropout=0.0)
        _, params = build(cfg, rows())
        loss = lambda p: jnp.sum(Transformer(cfg).apply({"params": p}, batch))  # noqa: E731
        residuals = jax.vjp(loss, params)[1]
        return tree.num_bytes(jax.tree.leaves(residuals))

    assert saved("full") < saved("hidden") < saved("none")


@pytest.mark.parametrize("position", tiers(POSITIONS, quick=["rotary"]))
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_packed_documents_equal_documents_alone(kind, position):
    cfg = config(kind, position)
    one, two = rows(batch=1, length=5, seed=1), rows(batch=1, length=7, seed=2)
    packed = {key: jnp.concatenate([one[key], two[key]], 1) for key in one}
    packed["segments"] = packed["segments"].at[:, 5:].set(2)
    model, params = build(cfg, packed)
    both = run(model, params, packed)
    alone = [run(model, params, batch) for batch in (one, two)]
    np.testing.assert_allclose(both, jnp.concatenate(alone, 1), atol=2e-5)


def test_a_memory_of_the_past_equals_one_long_row():
    """With one layer's worth of reach the recurrence is exact: layer inputs are the same numbers."""
    cfg = config(position="relative_sinusoidal", block_layout="post")
    batch = rows(length=12)
    model, params = build(cfg, batch)
    full = run(model, params, batch)
    first, second = ({k: v[:, a:b] for k, v in batch.items()} for a, b in ((0, 8), (8, 12)))
    nothing = jnp.zeros((2, 2, 8, 32)), jnp.zeros((2, 8), jnp.int32)
    _, memory = run(model, params, first, *nothing, method=Transformer.with_memory)
    late, _ = run(model, params, second, memory, first["segments"], method=Transformer.with_memory)
    np.testing.assert_allclose(late, full[:, 8:], atol=2e-5)


@pytest.mark.slow
def test_dropout_belongs_to_the_row():
    cfg = config(dropout=0.3, attention=AttentionConfig(dropout=0.2))
    batch, keys = rows(batch=4), jax.random.split(jax.random.key(5), 4)
    model, params = build(cfg, batch)
    whole = run(model, params, batch, keys=keys)
    part = run(model, params, {k: v[2:] for k, v in batch.items()}, keys=keys[2:])
    np.testing.assert_allclose(whole[2:], part, atol=1e-5)
    assert np.abs(whole - run(model, params, batch)).max() > 0.1


@pytest.mark.slow
def test_shared_layers_are_stored_once():
    cfg = config("encoder", share_layers=True)
    batch = rows()
    model, params = build(cfg, batch)
    shape = params["encoder"]["blocks"]["attention"]["query"]["kernel"].shape
    assert shape == (32, 4, 8)
    separate = config("encoder")
    stacked = {**params, "encoder": dict(params["encoder"])}
    stacked["encoder"]["blocks"] = jax.tree.map(lambda x: jnp.stack([x] * 2), params["encoder"]["blocks"])
    expected = run(Transformer(separate), stacked, batch)
    np.testing.assert_allclose(run(model, params, batch), expected, atol=1e-5)


def test_logits_stop_at_the_vocabulary():
    cfg = config(head=HeadConfig(tied=False, bias=True))
    batch = rows()
    model, params = build(cfg, batch)
    hidden = run(model, params, batch)
    got = run(model, params, hidden, method=Transformer.logits)
    assert got.shape == (2, 12, 61) and got.dtype == jnp.float32
    expected = hidden @ params["output"]["kernel"][:61].T + params["output"]["bias"][:61]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_every_parameter_names_its_dims():
    cfg = config("encoder_decoder", "relative_bias")
    batch = rows("encoder_") | rows("decoder_")
    boxed = jax.eval_shape(Transformer(cfg).init, jax.random.key(0), batch)["params"]
    names = tree.flatten(
        jax.tree.map(
            lambda n: "|".join(map(str, n)), logical_names(boxed), is_leaf=lambda n: isinstance(n, tuple)
        )
    )
    assert names["decoder/blocks/attention/query/kernel"] == "layers|embed|heads|head_dim"
    assert names["encoder/blocks/attention/key/bias"] == "layers|kv_heads|head_dim"
    assert all("layers" in name for path, name in names.items() if "/blocks/" in path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": AttentionConfig(num_heads=5)}, "num_heads = 5 does not divide model.width = 32"),
        ({"attention": AttentionConfig(num_heads=4, num_kv_heads=3)}, "choose one of 1, 2, 4"),
        ({"kind": "two_stream"}, "needs 'relative_sinusoidal'"),
        (
            {"norm": NormConfig(before_first_layer=False), "block_layout": "parallel"},
            "only an encoder or decoder with block_layout = 'pre'",
        ),
        ({"execution": ExecutionConfig(remat="dotz")}, "none, full, dots"),
        ({"kind": "encoder", "block_layout": "output"}, "'output' is for decoders"),
        ({"block_layout": "post", "residual_multiplier": 2.0}, "not with block_layout = 'post'"),
        (
            {"position": PositionConfig(kind="learned", rotary_pattern=(True, False))},
            "rotary_pattern .* needs position.kind = 'rotary'",
        ),
        (
            {"position": PositionConfig(kind="rotary", scaling=RotaryScaling("longrope"))},
            "a factor for each of 4 pairs",
        ),
    ],
)
def test_impossible_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes).validate()
