"""Positions: sinusoids, rotations, T5's buckets, Transformer-XL's relative terms."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.platform import platform
from tlx.nn.config import BlockConfig, PositionConfig
from tlx.nn.kernels.choice import joins_heads
from tlx.nn.linear import Linear, add_bias
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import constrain, logical, spec_in_use


def sinusoid(positions: jax.Array, width: int, theta: float, layout: str) -> jax.Array:
    """float32[..., width]: sin and cos of positions / theta^(2i/width) (Vaswani et al. 2017, 3.5).

    "halves": sines then cosines; "interleaved": pairs.
    """
    rates = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions.astype(jnp.float32)[..., None] * rates
    pair = (jnp.sin(angles), jnp.cos(angles))
    if layout == "halves":
        return jnp.concatenate(pair, axis=-1)
    return jnp.stack(pair, axis=-1).reshape(*positions.shape, width)


def rotation_rates(cfg: PositionConfig, rotated: int) -> jax.Array:
    """float32[rotated / 2]: radians per position of each pair, scaled as the config says."""
    rates = cfg.theta ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated)
    scaling = cfg.scaling
    if scaling.kind == "linear":
        return rates / scaling.factor
    if scaling.kind == "llama3":
        turns = scaling.original_length * rates / (2 * math.pi)  # in the length trained at first
        kept = jnp.clip(
            (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0, 1
        )
        return rates * (kept + (1 - kept) / scaling.factor)
    return rates


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, cfg: PositionConfig) -> jax.Array:
    """Rotary embedding (Su et al. 2021, eq. 34) of the first share of each head, half-split pairs."""
    head_dim = x_BTNH.shape[-1]
    rotated = int(head_dim * cfg.rotary_fraction) // 2 * 2
    rates = rotation_rates(cfg, rotated)
    angles = positions_BT.astype(jnp.float32)[:, :, None, None] * rates
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    x = x_BTNH[..., :rotated]
    turned = x.astype(jnp.float32) * jnp.concatenate([cos, cos], axis=-1)
    turned += _swap_halves(x).astype(jnp.float32) * jnp.concatenate([-sin, sin], axis=-1)
    return jnp.concatenate([turned.astype(x_BTNH.dtype), x_BTNH[..., rotated:]], axis=-1)


def _swap_halves(x: jax.Array) -> jax.Array:
    """The second half of the last dim, then the first.

    On a TPU by the matrix unit, which is exact and takes no time: halves of a head fill half a vector
    register, and moving them costs more than the rotation.
    """
    half = x.shape[-1] // 2
    if platform() == "tpu":
        return x @ jnp.roll(jnp.eye(2 * half, dtype=x.dtype), half, axis=0)
    return jnp.concatenate([x[..., half:], x[..., :half]], axis=-1)


def relative_bucket(distance: jax.Array, cfg: PositionConfig, bidirectional: bool) -> jax.Array:
    """T5's bucket of key index minus query index (Raffel et al. 2020, 2.1): exact, then logarithmic."""
    count = cfg.num_buckets
    first = jnp.zeros_like(distance)
    if bidirectional:
        count //= 2
        first = jnp.where(distance > 0, count, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = count // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(cfg.max_distance / exact)
    far = jnp.minimum(exact + (ratio * (count - exact)).astype(jnp.int32), count - 1)
    return first + jnp.where(distance < exact, distance, far)


class BucketedBias(nn.Module):
    """T5's relative bias float[1, N, T, S] from one table, of a stack or of a layer."""

    cfg: BlockConfig

    @nn.compact
    def __call__(self, num_queries: int, num_keys: int, query_start: int | jax.Array = 0) -> jax.Array:
        cfg = self.cfg
        shape = (cfg.position.num_buckets, cfg.attention.num_heads)
        std = cfg.width**-0.5 if cfg.init.kind == "fan_in" else cfg.init.stddev
        init = logical(nn.initializers.normal(std), (None, "heads"))
        table = self.param("table", init, shape, jnp.dtype(cfg.param_dtype))
        query = jnp.arange(num_queries)[:, None] + query_start
        distance = jnp.arange(num_keys)[None, :] - query
        buckets = relative_bucket(distance, cfg.position, bidirectional=not cfg.causal)
        return jnp.transpose(table[buckets], (2, 0, 1))[None]


def per_device_bias(bias_1NTS: jax.Array, batch_size: int) -> jax.Array:
    """The bias once for each device that has rows of its own, [devices, N, T, S].

    The devices' gradients of it are then summed once behind the layers, and not in each of them.
    """
    layout = spec_in_use(("batch",), (batch_size,))
    if layout is None or layout[0] is None:
        return bias_1NTS
    axes = (layout[0],) if isinstance(layout[0], str) else layout[0]
    mesh = jax.sharding.get_abstract_mesh()
    count = math.prod(mesh.shape[axis] for axis in axes)
    bias = jnp.broadcast_to(bias_1NTS, (count, *bias_1NTS.shape[1:]))
    return constrain(bias, ("batch", "heads", None, None))


def skew(x: jax.Array, num_keys: int) -> jax.Array:
    """y[..., i, j] = x[..., i, T-1-i+j] for x[..., T, R], R >= T-1+num_keys (Transformer-XL, app. B)."""
    *lead, rows, width = x.shape
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])
    flat = padded.reshape(*lead, rows * (width + 1))
    flat = flat[..., rows - 1 : rows - 1 + rows * width]
    return flat.reshape(*lead, rows, width)[..., :num_keys]


class RelativeLogits(nn.Module):
    """The position and segment terms of Transformer-XL's and XLNet's attention logits, before scaling.

    (b) and (d) of Dai et al. 2019, eq. 4: (q + v)^T W_r r[i - j]; and XLNet's (q + b)^T s[i, j]
    (Yang et al. 2019, 2.5). The content bias u is added to the queries by the caller: `content_bias`.
    """

    cfg: BlockConfig

    def setup(self):
        cfg = self.cfg
        heads = (cfg.attention.num_heads, cfg.head_dim)
        dtype = jnp.dtype(cfg.param_dtype)
        init = nn.initializers.normal(cfg.init.stddev)
        self.content_bias = self.param("content_bias", logical(init, ("heads", "head_dim")), heads, dtype)
        self.position_bias = self.param("position_bias", logical(init, ("heads", "head_dim")), heads, dtype)
        names = ("embed", "heads", "head_dim")
        std = cfg.std(cfg.width)
        rest = (std, False, cfg.dtype, cfg.param_dtype, None, joins_heads(cfg))
        self.position = Linear((cfg.width,), heads, names, *rest)
        if cfg.position.segment_relative:
            self.segment_bias = self.param("segment_bias", logical(init, names[1:]), heads, dtype)
            shape = (2, *heads)
            self.segment = self.param("segment", logical(init, (None, *names[1:])), shape, dtype)

    def bias_queries(self, query_BTNH: jax.Array) -> jax.Array:
        """q + u, what the content term uses."""
        return self._moved(query_BTNH, self.content_bias)

    def keys(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | jax.Array,
        backwards_B: jax.Array | None = None,
    ) -> jax.Array:
        """W_r r[R, N, H] for the distances i - j from query_start + T - 1 down to query_start - S + 1.

        `backwards` is 1 for rows whose text is in reverse: theirs are j - i, and the result is [B, R, N, H].
        """
        cfg = self.cfg
        distance = query_start + num_queries - 1 - jnp.arange(num_queries + num_keys - 1)

        def keys_of(distance: jax.Array) -> jax.Array:
            table = sinusoid(distance, cfg.width, cfg.position.theta, "halves")
            return self.position(table.astype(jnp.dtype(cfg.dtype)))

        if backwards_B is None:
            return keys_of(distance)
        return jnp.where(backwards_B[:, None, None, None] > 0, keys_of(-distance), keys_of(distance))

    def term(
        self, query_BTNH: jax.Array, keys_RNH: jax.Array, rows: int, places_BP: jax.Array | None
    ) -> RelativeTerms:
        """What `__call__` or `gathered` lay out over the keys."""
        return RelativeTerms(self._moved(query_BTNH, self.position_bias), keys_RNH, rows, places_BP)

    def _moved(self, query_BTNH: jax.Array, bias_NH: jax.Array) -> jax.Array:
        if not joins_heads(self.cfg):
            return add_bias(query_BTNH, bias_NH)
        flat = query_BTNH.reshape(*query_BTNH.shape[:2], -1)
        return add_bias(flat, bias_NH.reshape(-1)).reshape(query_BTNH.shape)

    def __call__(self, query_BTNH: jax.Array, keys_RNH: jax.Array, num_keys: int) -> jax.Array:
        """float[B, N, T, S] for queries at consecutive places. keys: [R, N, H] or [B, R, N, H]."""
        shifted = query_BTNH + self.position_bias.astype(query_BTNH.dtype)
        keys = "brnh" if keys_RNH.ndim == 4 else "rnh"
        return skew(jnp.einsum(f"btnh,{keys}->bntr", shifted, keys_RNH), num_keys)

    def gathered(
        self,
        query_BPNH: jax.Array,
        places_BP: jax.Array,
        keys_RNH: jax.Array,
        num_queries: int,
        num_keys: int,
    ) -> jax.Array:
        """The same float[B, N, P, S] for queries at the given places of a row of `num_queries`."""
        shifted = query_BPNH + self.position_bias.astype(query_BPNH.dtype)
        keys = "brnh" if keys_RNH.ndim == 4 else "rnh"
        terms_BPNR = jnp.einsum(f"bpnh,{keys}->bpnr", shifted, keys_RNH)

        def window(terms_NR: jax.Array, place: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(terms_NR, num_queries - 1 - place, num_keys, axis=1)

        return jnp.swapaxes(jax.vmap(jax.vmap(window))(terms_BPNR, places_BP), 1, 2)

    def segments(self, query_BTNH: jax.Array, different_BTS: jax.Array) -> jax.Array:
        """float[B, N, T, S]: s_0 where query and key are of one segment, s_1 where not."""
        shifted = query_BTNH + self.segment_bias.astype(query_BTNH.dtype)
        both = jnp.einsum("btnh,cnh->bntc", shifted, self.segment.astype(query_BTNH.dtype))
        return jnp.where(different_BTS[:, None], both[..., 1:], both[..., :1])
