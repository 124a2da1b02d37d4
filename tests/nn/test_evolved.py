"""The Evolved Transformer's cells against a numpy oracle of the published graph, and through their caches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import rows, run
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.models.flops_formula import nonembedding_params
from tlx.models.transformer import Transformer
from tlx.nn.config import AttentionConfig, ExecutionConfig
from tlx.nn.evolved import wide_heads
from tlx.parallel import unbox

WIDTH = 32
HEADS = 4
CONFIG = dataclasses.replace(
    resized(TABLE.load("meena").sizes["2.6b"], width=WIDTH, vocab_size=61),
    num_layers=2,
    num_decoder_layers=3,
    vocab_multiple=8,
    dropout=0.0,
    attention=AttentionConfig(num_heads=HEADS, qkv_bias=False, out_bias=False),
    execution=ExecutionConfig(unroll=1),
)


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def around(x, t, offsets):
    """Rows of x [T, C] at t plus each offset, zeros beyond the ends."""
    return [x[t + o] if 0 <= t + o < len(x) else np.zeros(x.shape[1]) for o in offsets]


def convolution(p, x, offsets):
    kernel = p["kernel"]["kernel"]
    steps = range(len(x))
    return (
        np.stack([sum(a @ k for a, k in zip(around(x, t, offsets), kernel, strict=True)) for t in steps])
        + p["kernel"]["bias"]
    )


def separable(p, x, offsets):
    steps = range(len(x))
    deep = np.stack(
        [sum(a * f for a, f in zip(around(x, t, offsets), p["filter"], strict=True)) for t in steps]
    )
    return dense(p["pointwise"], deep)


def wider(x, width):
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


def attention(p, x, source, causal):
    """Any number of heads, by the shape of their kernels."""
    query, key, value = (
        np.einsum("td,dnh->tnh", y, p[name]["kernel"])
        for name, y in (("query", x), ("key", source), ("value", source))
    )
    logits = np.einsum("tnh,snh->nts", query, key) * query.shape[-1] ** -0.5
    if causal:
        logits = np.where(np.tril(np.ones(logits.shape[1:])) > 0, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("nts,snh,nhd->td", weights, value, p["out"]["kernel"])


def encoder_cell(p, x):
    n = norm(p["gate_norm"], x)
    x = x + dense(p["gate_value"], n) * sigmoid(dense(p["gate"], n))
    n = norm(p["branch_norm"], x)
    left = relu(dense(p["branch_dense"], n))
    right = relu(convolution(p["branch_convolution"], n, (-1, 0, 1)))
    h = norm(p["joined_norm"], left + wider(right, 4 * WIDTH))
    x = x + wider(separable(p["joined_separable"], h, range(-4, 5)), WIDTH)
    n = norm(p["attention_norm"], x)
    x = x + attention(p["attention"], n, n, causal=False)
    n = norm(p["feedforward_norm"], x)
    return x + dense(p["feedforward"]["out"], relu(dense(p["feedforward"]["in"], n)))


def decoder_cell(p, x, encoded):
    n = norm(p["pair_norm"], x)
    x = x + attention(p["wide_attention"], n, n, causal=True)
    x = x + attention(p["pair_cross_attention"], n, encoded, causal=False)
    n = norm(p["branch_norm"], x)
    left = relu(separable(p["branch_wide"], n, range(-10, 1)))
    right = separable(p["branch_narrow"], n, range(-6, 1))
    h = norm(p["joined_norm"], left + wider(right, 2 * WIDTH))
    x = x + separable(p["joined_separable"], h, range(-6, 1))
    n = norm(p["attention_norm"], x)
    x = x + attention(p["attention"], n, n, causal=True)
    n = norm(p["cross_norm"], x)
    x = x + attention(p["cross_attention"], n, encoded, causal=False)
    hidden = dense(p["feedforward"]["in"], norm(p["feedforward_norm"], x))
    hidden = norm(p["feedforward"]["hidden_norm"], hidden * sigmoid(hidden))
    return x + dense(p["feedforward"]["out"], hidden)


def stack(p, x, cell):
    count = len(p["blocks"]["attention_norm"]["scale"])
    for layer in range(count):
        x = cell(jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"]), x)
    return norm(p["final_norm"], x)


def vectors(p, tokens):
    angles = np.arange(len(tokens))[:, None] / 10_000.0 ** (np.arange(0, WIDTH, 2) / WIDTH)
    return p["embedding"]["table"][tokens] * WIDTH**0.5 + np.concatenate([np.sin(angles), np.cos(angles)], 1)


def oracle(p, source, target):
    """Hidden states of one row without padding, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
    encoded = stack(p["encoder"], vectors(p, source), encoder_cell)
    return stack(p["decoder"], vectors(p, target), lambda q, x: decoder_cell(q, x, encoded))


def batch_of(padding=4, length=13):
    return rows("encoder_", padding=padding) | rows("decoder_", length=length, seed=3)


@pytest.fixture(scope="module")
def built():
    batch = batch_of()
    model = Transformer(CONFIG)
    shapes = tree.flatten(unbox(jax.eval_shape(model.init, jax.random.key(0), batch)["params"]))
    rng = np.random.default_rng(0)
    drawn = {
        path: (0.15 * rng.normal(size=leaf.shape) + ("scale" in path)).astype(np.float32)
        for path, leaf in shapes.items()
    }
    return model, tree.unflatten(drawn), batch


@pytest.mark.slow
def test_both_stacks_equal_the_oracle(built):
    model, params, batch = built
    assert params["decoder"]["blocks"]["wide_attention"]["query"]["kernel"].shape == (3, WIDTH, 2 * HEADS, 4)
    found = run(model, params, batch)
    for row in range(2):
        real = np.asarray(batch["encoder_segments"][row]) > 0
        source = np.asarray(batch["encoder_tokens"][row])[real]
        wanted = oracle(params, source, np.asarray(batch["decoder_tokens"][row]))
        np.testing.assert_allclose(found[row], wanted, atol=2e-4)
        assert np.abs(wanted).max() > 0.5


@pytest.mark.slow
def test_cached_decoding_equals_the_full_pass(built):
    """Left-padded prompts of several tokens, then one token at a time; the convolutions reach over both."""
    model, params, _ = built
    batch = rows("encoder_", padding=4) | rows("decoder_", length=16, seed=3, padding=3)
    full = run(model, params, batch)
    encoded = run(model, params, batch, method=Transformer.encode)
    cache = model.apply(
        {"params": params}, 2, 18, encoded, batch["encoder_segments"], method=Transformer.init_cache
    )
    decode = jax.jit(lambda *part: model.apply({"params": params}, *part, method=Transformer.decode))
    pieces = []
    for start, stop in ((0, 5), *((t, t + 1) for t in range(5, 16))):
        part = [batch[f"decoder_{k}"][:, start:stop] for k in ("tokens", "positions", "segments")]
        hidden, cache = decode(*part, cache)
        pieces.append(hidden)
    real = np.asarray(batch["decoder_segments"]) > 0
    np.testing.assert_allclose(np.concatenate(pieces, 1)[real], np.asarray(full)[real], atol=2e-5)


@pytest.mark.slow
def test_packed_rows_equal_rows_alone(built):
    """No convolution reads over the end of a segment."""
    model, params, batch = built
    parts = [batch_of(0), rows("encoder_", length=9, seed=8) | rows("decoder_", length=5, seed=9)]
    alone = [run(model, params, part) for part in parts]
    for number, part in enumerate(parts, start=1):
        for side in ("encoder_", "decoder_"):
            part[side + "segments"] = jnp.full_like(part[side + "segments"], number)
    packed = {name: jnp.concatenate([part[name] for part in parts], 1) for name in parts[0]}
    together = run(model, params, packed)
    np.testing.assert_allclose(together, np.concatenate(alone, 1), atol=2e-5)


@pytest.mark.slow
def test_every_parameter_has_a_gradient(built):
    _, params, batch = built
    model = Transformer(dataclasses.replace(CONFIG, execution=ExecutionConfig(unroll=1, remat="full")))

    def loss(params):
        return jnp.sum(jnp.sin(3 * model.apply({"params": params}, batch)))

    for path, leaf in tree.flatten(jax.jit(jax.grad(loss))(params)).items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_meena_has_the_kernels_of_its_graph():
    """21.5 D^2 a cell of the encoder and 28.5 D^2 one of the decoder, and a table of 8,192 pieces."""
    config = TABLE.load("meena").sizes["2.6b"]
    kernels = (43 + 13 * 57) * 2560**2 // 2
    assert nonembedding_params(config) == kernels and kernels + 8192 * 2560 == 2_589_982_720


def test_heads_of_the_first_attention_are_doubled_up_to_sixteen():
    assert [wide_heads(n) for n in (1, 4, 8, 12, 16, 32)] == [2, 8, 16, 16, 16, 32]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "decoder"}, "only an encoder_decoder"),
        ({"feedforward__ff_dim": 64}, "without .* ff_dim"),
        ({"width": 36}, "a multiple of 2 and of 8"),
        ({"parametrization__name": "mup"}, "have 'standard'"),
    ],
)
def test_what_the_cells_exclude_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        resized(CONFIG, **changes).validate()
