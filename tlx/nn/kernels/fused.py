"""Pallas attention for TPU that keeps the logits on the chip, with biases, relative terms and any mask.

One grid step is a row of the batch and as many heads as fill 128 lanes. A block of queries meets all keys
at once, so that the softmax needs no running maximum and the backward pass reads nothing but the inputs.
Logits of 512 x 512 in float32 are a megabyte: moved through memory they cost more than the products around
them.

Shapes: J heads times head size (heads joined), W lanes of a grid step or distances of a block.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tlx.base.platform import device_kind, platform
from tlx.nn.fusion import forward_barrier
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.kernels.xla import MASKED
from tlx.nn.mask import dense
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import spec_in_use

# Lanes of a vector register.
LANES = 128
# Smallest maximum of a row: where a query sees nothing, exp(MASKED - this) is still 0 for every key.
_MIN_ROW_MAX = 0.1 * MASKED
# Bytes of the chip's vector memory (VMEM) that the kernel may use.
_VMEM_LIMIT = 48 * 2**20
# Where sums over heads and blocks of queries start.
_ZERO: Any = 0.0


class KernelArrays(NamedTuple):
    """Arrays that the kernel reads. Heads are joined, so that a block of 128 lanes is contiguous."""

    query_BTJ: Any
    """Queries."""

    key_BSJ: Any
    """Keys."""

    value_BSJ: Any
    """Values."""

    visible_BTS: Any = None
    """int8 mask, not 0 where a query may attend; [1, T, S] where it is equal for all rows of the batch."""

    bias_NTS: Any = None
    """Additive bias, one for all rows of the device."""

    shifted_BTJ: Any = None
    """Queries of the relative terms."""

    distances_RJ: Any = None
    """Keys of the relative terms, from the farthest before the last query to the nearest."""

    left_BT1: Any = None
    """Index of the first distance of each query, for queries that are not consecutive."""


class Static(NamedTuple):
    """Static values that a kernel is compiled for."""

    head_dim: int
    """Head size."""

    scale: float
    """Multiplies the logits."""

    interpret: bool
    """Interpret the kernel instead of compiling it (tests on CPU)."""


def attend(inputs: AttentionInputs) -> jax.Array:
    """Compute what kernels/xla.py does, without dropout and softcap and with G = N.

    A query that sees no key gets zeros. Each device works on its own rows and heads.

    Args:
        inputs: dropout_rate and softcap must be 0 (kernels/choice.py holds this). bias: float[1, N, T, S],
            [devices, N, T, S] with one bias for all rows of a device, RelativeTerms with keys[R, N, H], or
            None.

    Returns:
        float[B, T, N, H].
    """
    bias = inputs.bias
    _, num_queries, _, head_dim = inputs.query_BTNH.shape
    num_keys = inputs.key_BSGH.shape[1]
    visible = dense(inputs.mask, num_queries, num_keys)
    joined_dims = ("batch", None, "heads")
    arrays = {}
    specs = {}

    def add(name: str, x: jax.Array, dims: tuple[str | None, ...]) -> None:
        if name.endswith("J"):
            # Heads are joined before the call, behind a barrier: else the compiler computes them apart and
            # moves each of them.
            x = forward_barrier(x.reshape(*x.shape[:-2], -1))
        arrays[name] = x
        specs[name] = spec_in_use(dims, x.shape)

    add("query_BTJ", inputs.query_BTNH, joined_dims)
    add("key_BSJ", inputs.key_BSGH, joined_dims)
    add("value_BSJ", inputs.value_BSGH, joined_dims)
    if visible is not None:
        add("visible_BTS", visible[:, 0].astype(jnp.int8), ("batch", None, None))
    if isinstance(bias, RelativeTerms):
        add("shifted_BTJ", bias.query_BTNH, joined_dims)
        add("distances_RJ", bias.keys_RNH, (None, "heads"))
        if bias.places_BP is not None:
            add("left_BT1", (bias.rows - 1 - bias.places_BP)[..., None], ("batch", None, None))
    elif bias is not None:
        add("bias_NTS", bias, ("batch", "heads", None, None))
    run = functools.partial(_attend_on_device, static=Static(head_dim, inputs.scale, platform() != "tpu"))
    if specs["query_BTJ"] is not None:
        # The compiler cannot partition a Pallas call: each device runs it on its own rows and heads.
        run = jax.shard_map(run, in_specs=(specs,), out_specs=specs["query_BTJ"], check_vma=False)
    return run(arrays).reshape(inputs.query_BTNH.shape)


def _attend_on_device(arrays: dict[str, jax.Array], static: Static) -> jax.Array:
    """Run the kernel on one device's rows and heads: pad to whole tiles, and cut the padding off again."""
    num_queries = arrays["query_BTJ"].shape[1]
    num_keys = arrays["key_BSJ"].shape[1]
    is_relative = "distances_RJ" in arrays
    is_consecutive = "left_BT1" not in arrays
    # Skewed blocks must be whole; otherwise a short row is padded to an int8 tile of 32 only.
    tile = LANES if num_queries > LANES or (is_relative and is_consecutive) else 32
    query_padding = -num_queries % tile
    key_padding = -num_keys % LANES
    if key_padding and "visible_BTS" not in arrays:
        arrays["visible_BTS"] = jnp.ones((1, num_queries, num_keys), jnp.int8)
    padding = {
        "query_BTJ": query_padding,
        "key_BSJ": key_padding,
        "value_BSJ": key_padding,
        "shifted_BTJ": query_padding,
        "left_BT1": query_padding,
    }
    padded = {}
    for name, x in arrays.items():
        if name == "bias_NTS":
            x = x[0]
        if name in padding:
            x = _pad_end(x, 1, padding[name])
        elif name in ("visible_BTS", "bias_NTS"):
            x = _pad_end(_pad_end(x, 1, query_padding), 2, key_padding)
        padded[name] = x
    if is_relative:
        # The distances of padded queries lie before all others.
        before = query_padding if is_consecutive else 0
        x = jnp.pad(padded["distances_RJ"], ((before, key_padding), (0, 0)))
        padded["distances_RJ"] = _pad_end(x, 0, -x.shape[0] % LANES)
    output = cast(jax.Array, _attend(KernelArrays(**padded), static))
    return output[:, :num_queries]


def _pad_end(x: jax.Array, dim: int, count: int) -> jax.Array:
    """Append `count` zeros along `dim`."""
    return jnp.pad(x, [(0, count if i == dim else 0) for i in range(x.ndim)]) if count else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(x: KernelArrays, static: Static) -> jax.Array:
    """Run the forward kernel on padded arrays."""
    shape = jax.ShapeDtypeStruct(x.query_BTJ.shape, x.query_BTJ.dtype)
    outputs = [(shape, _block_spec("query_BTJ", x, static))]
    return _call(_forward, x, (), outputs, static, "fused_attention_fwd", 2)[0]


def _attend_fwd(x: KernelArrays, static: Static) -> tuple[jax.Array, KernelArrays]:
    return _attend(x, static), x


def _attend_bwd(static: Static, x: KernelArrays, output_grad_BTJ: jax.Array) -> tuple[KernelArrays]:
    names = [name for name in _DIFFERENTIABLE if getattr(x, name) is not None]
    outputs = []
    for name in names:
        like = getattr(x, name)
        # Gradients that sum over the rows of the batch are accumulated in float32 where they lie.
        dtype = jnp.float32 if name in _SUMMED else like.dtype
        outputs.append((jax.ShapeDtypeStruct(like.shape, dtype), _block_spec(name, x, static)))
    grads = _call(_backward, x, (output_grad_BTJ,), outputs, static, "fused_attention_bwd", 5)
    by_name = {name: g.astype(getattr(x, name).dtype) for name, g in zip(names, grads, strict=True)}
    return (KernelArrays(*(by_name.get(name) for name in KernelArrays._fields)),)


_attend.defvjp(_attend_fwd, _attend_bwd)
_DIFFERENTIABLE = ("query_BTJ", "key_BSJ", "value_BSJ", "bias_NTS", "shifted_BTJ", "distances_RJ")
_SUMMED = ("bias_NTS", "distances_RJ")


def _block_spec(name: str, x: KernelArrays, static: Static) -> pl.BlockSpec:
    """The block of an array that the grid step (group of heads g, row of the batch b) reads or writes."""
    width = _width(static)
    shape = getattr(x, name).shape
    if name == "distances_RJ":
        return pl.BlockSpec((shape[0], width), lambda g, b: (0, g))
    if name == "bias_NTS":
        return pl.BlockSpec((width // static.head_dim, *shape[1:]), lambda g, b: (g, 0, 0))
    if name.endswith("J"):
        return pl.BlockSpec((1, shape[1], width), lambda g, b: (b, 0, g))
    is_shared = shape[0] == 1
    return pl.BlockSpec((1, *shape[1:]), lambda g, b: (0 if is_shared else b, 0, 0))


def _width(static: Static) -> int:
    """Lanes of a grid step: those of one head, or of as many heads as fill a register."""
    return max(LANES, static.head_dim)


def _call(
    body: Any,
    x: KernelArrays,
    more: tuple[jax.Array, ...],
    outputs: list[Any],
    static: Static,
    name: str,
    num_products: int,
) -> list[jax.Array]:
    """Call a kernel body over the grid (groups of heads, rows of the batch).

    Args:
        body: `_forward` or `_backward`.
        x: the padded arrays.
        more: further inputs with the blocks of the queries.
        outputs: (shape, block spec) of each output.
        static: what the kernel is compiled for.
        name: shown in profiles and counted by `tlx plan`.
        num_products: matrix products with the logits' shape, for the cost estimate.

    Returns:
        The outputs in the order of `outputs`.
    """
    present = {field: value for field, value in x._asdict().items() if value is not None}
    batch, num_queries, channels = x.query_BTJ.shape
    num_keys = x.key_BSJ.shape[1]
    width = _width(static)
    specs = [_block_spec(field, x, static) for field in present]
    specs += [_block_spec("query_BTJ", x, static) for _ in more]
    head_queries = batch * num_queries * (channels // static.head_dim)
    num_distances = 0
    if x.distances_RJ is not None:
        if x.left_BT1 is not None:
            num_distances = x.distances_RJ.shape[0]
        else:
            num_distances = num_keys + _block_rows(num_queries)
    flops = 2 * head_queries * width * (num_products * num_keys + (num_products + 1) // 2 * num_distances)
    traffic = sum(value.size * value.dtype.itemsize for value in (*present.values(), *more))
    traffic += sum(shape.size * shape.dtype.itemsize for shape, _ in outputs)
    kernel = functools.partial(body, names=tuple(present), static=static)
    cost = pl.CostEstimate(flops=flops, transcendentals=head_queries * num_keys, bytes_accessed=traffic)
    return pl.pallas_call(
        kernel,
        grid=(channels // width, batch),
        in_specs=specs,
        out_specs=[spec for _, spec in outputs],
        out_shape=[shape for shape, _ in outputs],
        compiler_params=pltpu.CompilerParams(
            # Rows must run in order: summed gradients are zeroed at row 0 and added to by the others.
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=_VMEM_LIMIT,
        ),
        cost_estimate=cost,
        interpret=static.interpret,
        name=name,
    )(*present.values(), *more)


def _block_rows(num_queries: int) -> int:
    """Queries of a block inside a grid step."""
    return min(num_queries, LANES)


def _forward(*refs: Any, names: tuple[str, ...], static: Static) -> None:
    """Write the attention output of a grid step."""
    x = KernelArrays(**dict(zip(names, refs, strict=False)))
    out = refs[-1]
    heads = _heads(x, static)
    for start in range(0, out.shape[1], _block_rows(out.shape[1])):
        rows = slice(start, start + _block_rows(out.shape[1]))
        y = _ZERO
        for head, (lanes, key, value) in enumerate(heads):
            weights, total = _weights(x, rows, head, lanes, key, static)
            # Divided after the product: [T, W] has fewer entries than [T, S].
            part = _dot(weights.astype(value.dtype), value, 1, 0)
            y = y + part * (1 / total)
        out[0, rows, :] = y.astype(out.dtype)


def _backward(*refs: Any, names: tuple[str, ...], static: Static) -> None:
    """Write the gradients of a grid step; the weights are computed again from the inputs."""
    x = KernelArrays(**dict(zip(names, refs, strict=False)))
    output_grad = refs[len(names)]
    grad_names = [name for name in _DIFFERENTIABLE if name in names]
    grads = dict(zip(grad_names, refs[len(names) + 1 :], strict=True))
    heads = _heads(x, static)

    @pl.when(pl.program_id(1) == 0)
    def _zero_summed_gradients():
        for name in _SUMMED:
            if name in grads:
                grads[name][...] = jnp.zeros_like(grads[name])

    num_queries = output_grad.shape[1]
    dtype = output_grad.dtype
    key_grad = _ZERO
    value_grad = _ZERO
    for start in range(0, num_queries, _block_rows(num_queries)):
        rows = slice(start, start + _block_rows(num_queries))
        query_grad = _ZERO
        shifted_grad = _ZERO
        for head, (lanes, key, value) in enumerate(heads):
            weights, total = _weights(x, rows, head, lanes, key, static)
            weights = weights * (1 / total)
            head_grad = _select_lanes(output_grad[0, rows, :], lanes)
            weights_grad = _dot(head_grad, value, 1, 1)
            # Gradient of the softmax: w (dw - sum(w dw)).
            mean = jnp.sum(weights_grad * weights, axis=1, keepdims=True)
            logits_grad = weights * (weights_grad - mean)
            if static.scale != 1.0:
                logits_grad = logits_grad * static.scale
            if "bias_NTS" in grads:
                grads["bias_NTS"][head, rows, :] += logits_grad
            narrow_grad = logits_grad.astype(dtype)
            query_grad = query_grad + _dot(narrow_grad, key, 1, 0)
            key_grad = key_grad + _dot(narrow_grad, _select_lanes(x.query_BTJ[0, rows, :], lanes), 0, 0)
            value_grad = value_grad + _dot(weights.astype(dtype), head_grad, 0, 0)
            if "shifted_BTJ" in grads:
                part = _relative_backward(x, grads["distances_RJ"], logits_grad, rows, lanes)
                shifted_grad = shifted_grad + part
        grads["query_BTJ"][0, rows, :] = query_grad.astype(dtype)
        if "shifted_BTJ" in grads:
            grads["shifted_BTJ"][0, rows, :] = shifted_grad.astype(dtype)
    grads["key_BSJ"][0] = key_grad.astype(dtype)
    grads["value_BSJ"][0] = value_grad.astype(dtype)


def _heads(x: KernelArrays, static: Static) -> list[tuple[Any, jax.Array, jax.Array]]:
    """(lanes, keys, values) of each head of a grid step; the lanes of other heads are zero.

    A product over 128 lanes of which half are zero takes the matrix unit as long as one over 64 lanes.
    """
    count = _width(static) // static.head_dim
    key = x.key_BSJ[0]
    value = x.value_BSJ[0]
    if count == 1:
        return [(None, key, value)]
    head_of_lane = jax.lax.broadcasted_iota(jnp.int32, (1, _width(static)), 1) // static.head_dim
    lanes = [(head_of_lane == head).astype(jnp.float32) for head in range(count)]
    return [(mask, _select_lanes(key, mask), _select_lanes(value, mask)) for mask in lanes]


def _select_lanes(x: jax.Array, lanes: jax.Array | None) -> jax.Array:
    """Zero all lanes of x[..., W] but a head's; None keeps all."""
    return x if lanes is None else (x.astype(jnp.float32) * lanes).astype(x.dtype)


def _weights(x: KernelArrays, rows: slice, head: int, lanes: Any, key: jax.Array, static: Static) -> Any:
    """Return exp(logits - row maximum) [T, S] and its row sums [T, 1] for a block of queries."""
    logits = _dot(x.query_BTJ[0, rows, :], key, 1, 1)
    if x.bias_NTS is not None:
        logits = logits + x.bias_NTS[head, rows, :].astype(jnp.float32)
    if x.shifted_BTJ is not None:
        logits = logits + _relative(x, rows, lanes)
    if static.scale != 1.0:
        logits = logits * static.scale
    if x.visible_BTS is not None:
        logits = jnp.where(x.visible_BTS[0, rows, :].astype(jnp.int32) != 0, logits, MASKED)
    row_max = jnp.maximum(jnp.max(logits, axis=1, keepdims=True), _MIN_ROW_MAX)
    weights = jnp.exp(logits - row_max)
    # Not 0, so that a query that sees nothing gets zeros and not NaN.
    return weights, jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-30)


def _distance_range(x: KernelArrays, rows: slice) -> slice:
    """Rows of the distances that a block of consecutive queries has; all of them for scattered queries."""
    if x.left_BT1 is not None:
        return slice(0, x.distances_RJ.shape[0])
    start = x.query_BTJ.shape[1] - rows.stop
    return slice(start, start + x.key_BSJ.shape[1] + rows.stop - rows.start)


def _relative(x: KernelArrays, rows: slice, lanes: jax.Array | None) -> jax.Array:
    """Compute (q + v) r[i - j], [T, S]: products with all distances, then each row is rolled to its own."""
    distances = _select_lanes(x.distances_RJ[_distance_range(x, rows), :], lanes)
    terms = _dot(x.shifted_BTJ[0, rows, :], distances, 1, 1)
    width = terms.shape[1]
    num_keys = x.key_BSJ.shape[1]
    if x.left_BT1 is None:
        # Row i of the block begins at distance rows - 1 - i.
        return _skew(terms, width - terms.shape[0] + 1)[:, :num_keys]
    return _roll_rows(terms, x.left_BT1[0, rows, :], width - num_keys, left=True)[:, :num_keys]


def _relative_backward(
    x: KernelArrays, distances_grad: Any, logits_grad: jax.Array, rows: slice, lanes: jax.Array | None
) -> jax.Array:
    """Return the gradient of the shifted queries; add that of the distances to `distances_grad` in place."""
    block_range = _distance_range(x, rows)
    count = rows.stop - rows.start
    width = block_range.stop - block_range.start
    dtype = x.query_BTJ.dtype
    shifted = _select_lanes(x.shifted_BTJ[0, rows, :], lanes)
    distances = _select_lanes(x.distances_RJ[block_range, :], lanes)
    reversal = None
    if x.left_BT1 is None:
        # Reverses the rows by the matrix unit: each row is then rolled farther than the one before.
        row, column = (jax.lax.broadcasted_iota(jnp.int32, (count, count), dim) for dim in (0, 1))
        reversal = (row + column == count - 1).astype(jnp.float32).astype(dtype)
        logits_grad = _dot(reversal, logits_grad.astype(dtype), 1, 0)
        shifted = _dot(reversal, shifted, 1, 0).astype(dtype)
    zeros = jnp.zeros((count, width - logits_grad.shape[1]), jnp.float32)
    wide = jnp.concatenate([logits_grad, zeros], axis=1)
    if reversal is not None:
        wide = _skew(wide, 0).astype(dtype)
        shifted_grad = _dot(reversal, _dot(wide, distances, 1, 0).astype(dtype), 1, 0)
    else:
        assert x.left_BT1 is not None
        max_shift = width - x.key_BSJ.shape[1]
        wide = _roll_rows(wide, x.left_BT1[0, rows, :], max_shift, left=False).astype(dtype)
        shifted_grad = _dot(wide, distances, 1, 0)
    distances_grad[block_range, :] += _dot(wide, shifted, 0, 0)
    return shifted_grad


def _skew(x: jax.Array, shift: int) -> jax.Array:
    """Roll row i of x[T, W] by `shift` + i to the right."""
    if not device_kind().startswith(("TPU v2", "TPU v3", "TPU v4")):
        return pltpu.roll(x, shift, 1, stride=1, stride_axis=0)
    # TPUs before v5 have no instruction that rolls each row by another amount.
    row = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0)
    return _roll_rows(pltpu.roll(x, shift, 1) if shift else x, row, x.shape[0] - 1, left=False)


def _roll_rows(x: jax.Array, shift: jax.Array, max_shift: int, left: bool) -> jax.Array:
    """Roll row i of x[T, W] by shift[i, 0] <= max_shift, one bit of the shift after the other."""
    width = x.shape[1]
    for bit in range(max_shift.bit_length()):
        step = 2**bit
        rolled = pltpu.roll(x, width - step if left else step, 1)
        x = jnp.where((shift >> bit) & 1 != 0, rolled, x)
    return x


def _dot(a: jax.Array, b: jax.Array, dim_a: int, dim_b: int) -> jax.Array:
    """Contract dim_a of a with dim_b of b, accumulating in float32."""
    dims = (((dim_a,), (dim_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
