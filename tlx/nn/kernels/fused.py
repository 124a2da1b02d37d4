"""Attention for TPU that keeps the logits on the chip, with biases, relative terms and any mask.

One step of the kernel is a row of the batch and as many heads as fill 128 lanes. A block of queries meets
all keys at once, so that softmax needs no running maximum and the backward pass nothing but the inputs.
Logits of 512 x 512 in float32 are a megabyte: through memory they cost more than the products around them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tlx.base.platform import device_kind, platform
from tlx.nn.fusion import forward_barrier
from tlx.nn.kernels.xla import MASKED
from tlx.nn.mask import Mask, dense
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import spec_in_use

LANES = 128
_LEAST = 0.1 * MASKED  # of a row's maximum: what is masked stays nothing where a row sees nothing
_MEMORY = 48 * 2**20  # of the chip's vector memory, bytes


class Inputs(NamedTuple):
    """What the kernel reads; C is heads x head width."""

    query_BTC: Any
    key_BSC: Any
    value_BSC: Any
    visible_BTS: Any = None  # int8, of one row of the batch where all are alike
    bias_NTS: Any = None
    shifted_BTC: Any = None  # the queries of the relative term
    distances_RC: Any = None  # its keys, from the farthest behind the last query to the nearest
    left_BT1: Any = None  # where queries are not consecutive: distances that each begins behind the first


class Static(NamedTuple):
    """What a compiled kernel is for."""

    head_dim: int
    scale: float
    interpret: bool


def attend(
    query_BTNH: jax.Array,
    key_BSGH: jax.Array,
    value_BSGH: jax.Array,
    mask: Mask,
    bias: jax.Array | RelativeTerms | None,
    scale: float,
    dropout_rate: float = 0.0,
    keys_B: jax.Array | None = None,
    site: int = 0,
    softcap: float = 0.0,
) -> jax.Array:
    """As kernels/xla.py, without dropout and cap; as many key heads as query heads.

    bias: float[1, N, T, S], or [devices, N, T, S] with one for all rows of each; or a relative term of
    which only the vectors are given. A query that sees no key gets zeros. Each device works on its own
    rows and heads.
    """
    del dropout_rate, keys_B, site, softcap
    batch, num_queries, _, head_dim = query_BTNH.shape
    num_keys = key_BSGH.shape[1]
    visible = dense(mask, num_queries, num_keys)
    heads = ("batch", None, "heads")
    arrays, names = {}, {}

    def give(name: str, x: jax.Array, dims: tuple[str | None, ...]) -> None:
        # Joined before they are given away: else the compiler makes them heads apart, and moves each.
        x = forward_barrier(x.reshape(*x.shape[:-2], -1)) if name.endswith("C") else x
        arrays[name], names[name] = x, spec_in_use(dims, x.shape)

    give("query_BTC", query_BTNH, heads)
    give("key_BSC", key_BSGH, heads)
    give("value_BSC", value_BSGH, heads)
    if visible is not None:
        give("visible_BTS", visible[:, 0].astype(jnp.int8), ("batch", None, None))
    if isinstance(bias, RelativeTerms):
        give("shifted_BTC", bias.query_BTNH, heads)
        give("distances_RC", bias.keys_RNH, (None, "heads"))
        if bias.places_BP is not None:
            give("left_BT1", (bias.rows - 1 - bias.places_BP)[..., None], ("batch", None, None))
    elif bias is not None:
        give("bias_NTS", bias, ("batch", "heads", None, None))
    run = functools.partial(_local, static=Static(head_dim, scale, platform() != "tpu"))
    if names["query_BTC"] is not None:
        run = jax.shard_map(run, in_specs=(names,), out_specs=names["query_BTC"], check_vma=False)
    return run(arrays).reshape(query_BTNH.shape)


def _local(arrays: dict[str, jax.Array], static: Static) -> jax.Array:
    """One device's rows and heads: pads to whole tiles, and takes the padding off again."""
    shape = arrays["query_BTC"].shape
    num_keys = arrays["key_BSC"].shape[1]
    relative, consecutive = "distances_RC" in arrays, "left_BT1" not in arrays
    tile = LANES if shape[1] > LANES or relative and consecutive else 32
    rows, keys = -shape[1] % tile, -num_keys % LANES
    if keys and "visible_BTS" not in arrays:
        arrays["visible_BTS"] = jnp.ones((1, shape[1], num_keys), jnp.int8)
    ends = {"query_BTC": (1, rows), "key_BSC": (1, keys), "value_BSC": (1, keys), "shifted_BTC": (1, rows)}
    ends |= {"left_BT1": (1, rows)}
    padded = {}
    for name, x in arrays.items():
        x = x[0] if name == "bias_NTS" else x
        if name in ends:
            x = _padded(x, *ends[name])
        elif name in ("visible_BTS", "bias_NTS"):
            x = _padded(_padded(x, 1, rows), 2, keys)
        padded[name] = x
    if relative:  # the distances of padded queries lie before all others
        x = jnp.pad(padded["distances_RC"], ((rows if consecutive else 0, keys), (0, 0)))
        padded["distances_RC"] = _padded(x, 0, -x.shape[0] % LANES)
    return _attend(Inputs(**padded), static)[:, : shape[1]]


def _padded(x: jax.Array, dim: int, count: int) -> jax.Array:
    return jnp.pad(x, [(0, count if i == dim else 0) for i in range(x.ndim)]) if count else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(x: Inputs, static: Static) -> jax.Array:
    shape = jax.ShapeDtypeStruct(x.query_BTC.shape, x.query_BTC.dtype)
    out = [(shape, _spec("query_BTC", x, static))]
    return _call(_forward, x, (), out, static, "fused_attention_fwd", 2)[0]


def _attend_fwd(x: Inputs, static: Static) -> tuple[jax.Array, Inputs]:
    return _attend(x, static), x


def _attend_bwd(static: Static, x: Inputs, output_BTC: jax.Array) -> tuple[Inputs]:
    names = [name for name in _LEARNED if getattr(x, name) is not None]
    out = []
    for name in names:
        like = getattr(x, name)
        dtype = jnp.float32 if name in _SUMMED else like.dtype  # of all rows: added up where they lie
        out.append((jax.ShapeDtypeStruct(like.shape, dtype), _spec(name, x, static)))
    grads = _call(_backward, x, (output_BTC,), out, static, "fused_attention_bwd", 5)
    found = {name: g.astype(getattr(x, name).dtype) for name, g in zip(names, grads, strict=True)}
    return (Inputs(*(found.get(name) for name in Inputs._fields)),)


_attend.defvjp(_attend_fwd, _attend_bwd)
_LEARNED = ("query_BTC", "key_BSC", "value_BSC", "bias_NTS", "shifted_BTC", "distances_RC")
_SUMMED = ("bias_NTS", "distances_RC")


def _spec(name: str, x: Inputs, static: Static) -> pl.BlockSpec:
    """The block of an input that a step at (group of heads, row of the batch) reads."""
    width, shape = _width(static), getattr(x, name).shape
    if name == "distances_RC":
        return pl.BlockSpec((shape[0], width), lambda g, b: (0, g))
    if name == "bias_NTS":
        return pl.BlockSpec((width // static.head_dim, *shape[1:]), lambda g, b: (g, 0, 0))
    if name.endswith("C"):
        return pl.BlockSpec((1, shape[1], width), lambda g, b: (b, 0, g))
    one = shape[0] == 1
    return pl.BlockSpec((1, *shape[1:]), lambda g, b: (0 if one else b, 0, 0))


def _width(static: Static) -> int:
    """Lanes of a step: a head's, or those of as many heads as fill a register."""
    return max(LANES, static.head_dim)


def _call(
    body: Any,
    x: Inputs,
    more: tuple[jax.Array, ...],
    out: list[Any],
    static: Static,
    name: str,
    products: int,
) -> list[jax.Array]:
    given = {field: value for field, value in x._asdict().items() if value is not None}
    batch, num_queries, channels = x.query_BTC.shape
    num_keys, width = x.key_BSC.shape[1], _width(static)
    specs = [_spec(field, x, static) for field in given]
    specs += [_spec("query_BTC", x, static) for _ in more]
    pairs = batch * num_queries * (channels // static.head_dim)
    relative = 0
    if x.distances_RC is not None:
        relative = x.distances_RC.shape[0] if x.left_BT1 is not None else num_keys + _rows(num_queries)
    flops = 2 * pairs * width * (products * num_keys + (products + 1) // 2 * relative)
    traffic = sum(value.size * value.dtype.itemsize for value in (*given.values(), *more))
    traffic += sum(shape.size * shape.dtype.itemsize for shape, _ in out)
    kernel = functools.partial(body, names=tuple(given), static=static)
    cost = pl.CostEstimate(flops=flops, transcendentals=pairs * num_keys, bytes_accessed=traffic)
    return pl.pallas_call(
        kernel,
        grid=(channels // width, batch),
        in_specs=specs,
        out_specs=[spec for _, spec in out],
        out_shape=[shape for shape, _ in out],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_MEMORY
        ),
        cost_estimate=cost,
        interpret=static.interpret,
        name=name,
    )(*given.values(), *more)


def _rows(num_queries: int) -> int:
    """Queries of a block."""
    return min(num_queries, LANES)


def _forward(*refs: Any, names: tuple[str, ...], static: Static) -> None:
    x, out = Inputs(**dict(zip(names, refs, strict=False))), refs[-1]
    heads = _heads(x, static)
    for start in range(0, out.shape[1], _rows(out.shape[1])):
        rows = slice(start, start + _rows(out.shape[1]))
        y = 0.0
        for head, (lanes, key, value) in enumerate(heads):
            weights, total = _weights(x, rows, head, lanes, key, static)
            part = _dot(weights.astype(value.dtype), value, 1, 0)
            y = y + part * (1 / total)
        out[0, rows, :] = y.astype(out.dtype)


def _backward(*refs: Any, names: tuple[str, ...], static: Static) -> None:
    x, count = Inputs(**dict(zip(names, refs, strict=False))), len(names)
    given, grads = refs[count], refs[count + 1 :]
    grads = dict(zip([name for name in _LEARNED if name in names], grads, strict=True))
    heads = _heads(x, static)

    @pl.when(pl.program_id(1) == 0)
    def _():
        for name in _SUMMED:
            if name in grads:
                grads[name][...] = jnp.zeros_like(grads[name])

    num_queries, dtype = given.shape[1], given.dtype
    key_grad = value_grad = 0.0
    for start in range(0, num_queries, _rows(num_queries)):
        rows = slice(start, start + _rows(num_queries))
        query_grad = shifted_grad = 0.0
        for head, (lanes, key, value) in enumerate(heads):
            weights, total = _weights(x, rows, head, lanes, key, static)
            weights = weights * (1 / total)
            above = _only(given[0, rows, :], lanes)
            wanted = _dot(above, value, 1, 1)
            mean = jnp.sum(wanted * weights, axis=1, keepdims=True)
            logits = weights * (wanted - mean)
            logits = logits * static.scale if static.scale != 1.0 else logits
            if "bias_NTS" in grads:
                grads["bias_NTS"][head, rows, :] += logits
            thin = logits.astype(dtype)
            query_grad = query_grad + _dot(thin, key, 1, 0)
            key_grad = key_grad + _dot(thin, _only(x.query_BTC[0, rows, :], lanes), 0, 0)
            value_grad = value_grad + _dot(weights.astype(dtype), above, 0, 0)
            if "shifted_BTC" in grads:
                part = _relative_backward(x, grads["distances_RC"], logits, rows, lanes)
                shifted_grad = shifted_grad + part
        grads["query_BTC"][0, rows, :] = query_grad.astype(dtype)
        if "shifted_BTC" in grads:
            grads["shifted_BTC"][0, rows, :] = shifted_grad.astype(dtype)
    grads["key_BSC"][0] = key_grad.astype(dtype)
    grads["value_BSC"][0] = value_grad.astype(dtype)


def _heads(x: Inputs, static: Static) -> list[tuple[Any, jax.Array, jax.Array]]:
    """(its lanes, its keys, its values) of each head of a step; other heads' lanes are zero.

    A product over 128 lanes of which the half are zero takes the matrix unit as long as one over 64.
    """
    count = _width(static) // static.head_dim
    key, value = x.key_BSC[0], x.value_BSC[0]
    if count == 1:
        return [(None, key, value)]
    places = jax.lax.broadcasted_iota(jnp.int32, (1, _width(static)), 1) // static.head_dim
    lanes = [(places == head).astype(jnp.float32) for head in range(count)]
    return [(one, _only(key, one), _only(value, one)) for one in lanes]


def _only(x: jax.Array, lanes: jax.Array | None) -> jax.Array:
    return x if lanes is None else (x.astype(jnp.float32) * lanes).astype(x.dtype)


def _weights(x: Inputs, rows: slice, head: int, lanes: Any, key: jax.Array, static: Static) -> Any:
    """(exp(logits - their maximum)[T, S], the sums of its rows [T, 1]) of a block of queries."""
    logits = _dot(x.query_BTC[0, rows, :], key, 1, 1)
    if x.bias_NTS is not None:
        logits = logits + x.bias_NTS[head, rows, :].astype(jnp.float32)
    if x.shifted_BTC is not None:
        logits = logits + _relative(x, rows, lanes)
    if static.scale != 1.0:
        logits = logits * static.scale
    if x.visible_BTS is not None:
        logits = jnp.where(x.visible_BTS[0, rows, :].astype(jnp.int32) != 0, logits, MASKED)
    most = jnp.maximum(jnp.max(logits, axis=1, keepdims=True), _LEAST)
    weights = jnp.exp(logits - most)
    return weights, jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-30)


def _near(x: Inputs, rows: slice) -> slice:
    """The distances that a block of consecutive queries can have; all of them for queries at places."""
    if x.left_BT1 is not None:
        return slice(0, x.distances_RC.shape[0])
    start = x.query_BTC.shape[1] - rows.stop
    return slice(start, start + x.key_BSC.shape[1] + rows.stop - rows.start)


def _relative(x: Inputs, rows: slice, lanes: jax.Array | None) -> jax.Array:
    """(q + v) r[i - j], [T, S]: products with all distances, and each row moved to where its own begin."""
    terms = _dot(x.shifted_BTC[0, rows, :], _only(x.distances_RC[_near(x, rows), :], lanes), 1, 1)
    width, num_keys = terms.shape[1], x.key_BSC.shape[1]
    if x.left_BT1 is None:  # row i of the block begins at distance rows - 1 - i
        return _skewed(terms, width - terms.shape[0] + 1)[:, :num_keys]
    return _moved(terms, x.left_BT1[0, rows, :], width - num_keys, left=True)[:, :num_keys]


def _relative_backward(
    x: Inputs, distances_grad: Any, logits: jax.Array, rows: slice, lanes: jax.Array | None
) -> jax.Array:
    """The gradient of the shifted queries; that of the distances is added where it lies."""
    near = _near(x, rows)
    count, width, dtype = rows.stop - rows.start, near.stop - near.start, x.query_BTC.dtype
    shifted, distances = _only(x.shifted_BTC[0, rows, :], lanes), _only(x.distances_RC[near, :], lanes)
    if x.left_BT1 is None:
        # Rows from the last to the first, by the matrix unit: then each is moved further than the one before.
        turn = [jax.lax.broadcasted_iota(jnp.int32, (count, count), dim) for dim in (0, 1)]
        turn = (turn[0] + turn[1] == count - 1).astype(jnp.float32).astype(dtype)
        logits, shifted = _dot(turn, logits.astype(dtype), 1, 0), _dot(turn, shifted, 1, 0).astype(dtype)
    wide = jnp.concatenate([logits, jnp.zeros((count, width - logits.shape[1]), jnp.float32)], axis=1)
    if x.left_BT1 is None:
        wide = _skewed(wide, 0).astype(dtype)
        found = _dot(turn, _dot(wide, distances, 1, 0).astype(dtype), 1, 0)
    else:
        most = width - x.key_BSC.shape[1]
        wide = _moved(wide, x.left_BT1[0, rows, :], most, left=False).astype(dtype)
        found = _dot(wide, distances, 1, 0)
    distances_grad[near, :] += _dot(wide, shifted, 0, 0)
    return found


def _skewed(x: jax.Array, by: int) -> jax.Array:
    """x[T, W] with row i rolled by `by` + i to the right; TPUs before v5 cannot do so in one instruction."""
    if not device_kind().startswith(("TPU v2", "TPU v3", "TPU v4")):
        return pltpu.roll(x, by, 1, stride=1, stride_axis=0)
    row = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0)
    return _moved(pltpu.roll(x, by, 1) if by else x, row, x.shape[0] - 1, left=False)


def _moved(x: jax.Array, by: jax.Array, most: int, left: bool) -> jax.Array:
    """x[T, W] with row i rolled by by[i, 0], at most `most`: one bit of it after the other."""
    width = x.shape[1]
    for bit in range(most.bit_length()):
        step = 2**bit
        rolled = pltpu.roll(x, width - step if left else step, 1)
        x = jnp.where((by >> bit) & 1 != 0, rolled, x)
    return x


def _dot(a: jax.Array, b: jax.Array, dim_a: int, dim_b: int) -> jax.Array:
    dims = (((dim_a,), (dim_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
