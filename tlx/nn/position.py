"""Positions: sinusoids, rotations, T5's buckets, Transformer-XL's relative terms."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.platform import platform
from tlx.nn.config import BlockConfig, PositionConfig, RotaryScaling
from tlx.nn.kernels.choice import joins_heads
from tlx.nn.linear import Linear, add_bias
from tlx.nn.relative import RelativeTerms
from tlx.parallel.sharding import constrain, logical, spec_in_use


def sinusoid(positions: jax.Array, width: int, theta: float, layout: str) -> jax.Array:
    """Compute sin and cos of positions / theta^(2i/width) (Vaswani et al. 2017, 3.5).

    Args:
        positions: int[...].
        width: size of the vectors.
        theta: base of the wavelengths.
        layout: "halves", all sines before all cosines, or "interleaved", in pairs.

    Returns:
        float32[..., width].
    """
    frequencies = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    pair = (jnp.sin(angles), jnp.cos(angles))
    if layout == "halves":
        return jnp.concatenate(pair, axis=-1)
    return jnp.stack(pair, axis=-1).reshape(*positions.shape, width)


def rotation_rates(cfg: PositionConfig, rotated: int, positions_BT: jax.Array | None = None) -> jax.Array:
    """Compute the radians per position of each pair of dims, scaled as the config says.

    Args:
        cfg: theta and scaling.
        rotated: number of rotated dims.
        positions_BT: int[B, T], by the largest of which the scalings "dynamic" and "longrope" choose; None: a
            row of up to original_length.

    Returns:
        float32[rotated / 2]; [B, 1, 1, rotated / 2] for these two.
    """
    exponents = jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated
    rates = cfg.theta**-exponents
    scaling = cfg.scaling
    if scaling.kind in ("dynamic", "longrope"):
        length: int | jax.Array = scaling.original_length
        if positions_BT is not None:
            length = jnp.max(positions_BT, axis=1)[:, None, None, None] + 1
        return _rates_by_length(cfg, rates, exponents, length)
    if scaling.kind == "yarn":
        return rates * _yarn_stretch(cfg, rotated)
    if scaling.kind == "linear":
        return rates / scaling.factor
    if scaling.kind == "proportional":
        # A rate of 0 leaves a pair as it is, so that halves of the whole head stay paired.
        num_rotated = int(scaling.rotated_fraction * rotated) // 2
        return jnp.where(jnp.arange(rotated // 2) < num_rotated, rates / scaling.factor, 0.0)
    if scaling.kind == "llama3":
        # Turns within the length of the first training: many turns are kept, few are stretched.
        turns = scaling.original_length * rates / (2 * math.pi)
        ramp = scaling.high_freq_factor - scaling.low_freq_factor
        kept_fraction = jnp.clip((turns - scaling.low_freq_factor) / ramp, 0, 1)
        return rates * (kept_fraction + (1 - kept_fraction) / scaling.factor)
    return rates


def _rates_by_length(
    cfg: PositionConfig, rates: jax.Array, exponents: jax.Array, length: int | jax.Array
) -> jax.Array:
    """The rates of rows of a length, for the scalings that depend on it.

    dynamic: theta (factor s / L - factor + 1)^(d / (d - 2)) for rows of s > L tokens (NTK-aware, by bloc97 and
    emozilla, as in `transformers`). longrope: rates divided by the list of the row's length.
    """
    scaling = cfg.scaling
    if scaling.kind == "longrope":
        short = jnp.asarray(scaling.short_factors, jnp.float32)
        long = jnp.asarray(scaling.long_factors, jnp.float32)
        return rates / jnp.where(length > scaling.original_length, long, short)
    rotated = 2 * exponents.size
    ratio = jnp.maximum(length, scaling.original_length) / scaling.original_length
    growth = (scaling.factor * ratio - (scaling.factor - 1)) ** (rotated / (rotated - 2))
    return (cfg.theta * growth) ** -exponents


def _yarn_stretch(cfg: PositionConfig, rotated: int) -> jax.Array:
    """Factor of YaRN on the rates: 1 for fast dims, 1 / factor for slow ones (Peng et al. 2023, 3.2)."""
    scaling = cfg.scaling

    def dim(turns: float) -> float:
        """The pair of dims that makes so many turns within original_length."""
        wavelengths = scaling.original_length / (turns * 2 * math.pi)
        return rotated * math.log(wavelengths) / (2 * math.log(cfg.theta))

    low = dim(scaling.beta_fast)
    high = dim(scaling.beta_slow)
    if scaling.truncate:
        low = math.floor(low)
        high = math.ceil(high)
    low = max(low, 0)
    high = min(high, rotated - 1)
    if low == high:
        high += 0.001  # as in the original code: no division by 0
    ramp = jnp.clip((jnp.arange(rotated // 2, dtype=jnp.float32) - low) / (high - low), 0, 1)
    return (1 - ramp) + ramp / scaling.factor


def attention_factor(scaling: RotaryScaling) -> float:
    """Return the factor of rotated queries and of rotated keys: YaRN's and LongRoPE's, 1 for other scalings."""
    if scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor:
        return scaling.attention_factor
    factor = scaling.factor
    if factor <= 1:
        return 1.0
    if scaling.kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(scaling.original_length))
    if scaling.mscale and scaling.mscale_all_dim:
        return (0.1 * scaling.mscale * math.log(factor) + 1) / (
            0.1 * scaling.mscale_all_dim * math.log(factor) + 1
        )
    return 0.1 * math.log(factor) + 1


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, cfg: PositionConfig) -> jax.Array:
    """Apply rotary embeddings (Su et al. 2021, eq. 34) to the first fraction of each head.

    Args:
        x_BTNH: queries or keys.
        positions_BT: int[B, T], positions inside the documents.
        cfg: theta, rotary_fraction, rotary_layout and scaling.

    Returns:
        An array like x. Dim i is paired with dim i + half of the rotated ones (GPT-NeoX's order), or with its
        neighbour (GPT-J's).
    """
    head_dim = x_BTNH.shape[-1]
    rotated = int(head_dim * cfg.rotary_fraction) // 2 * 2
    rates = rotation_rates(cfg, rotated, positions_BT)
    # In float32: angles of late positions have no precision left in bfloat16.
    angles = positions_BT.astype(jnp.float32)[:, :, None, None] * rates
    sin = jnp.sin(angles)
    cos = jnp.cos(angles)
    factor = attention_factor(cfg.scaling)
    if factor != 1.0:
        sin = sin * factor
        cos = cos * factor
    x = x_BTNH[..., :rotated]
    if cfg.rotary_layout == "interleaved":
        y = x.astype(jnp.float32) * jnp.repeat(cos, 2, axis=-1)
        signed = jnp.stack([-sin, sin], axis=-1).reshape(*sin.shape[:-1], rotated)
        y += _swap_neighbours(x).astype(jnp.float32) * signed
    else:
        y = x.astype(jnp.float32) * jnp.concatenate([cos, cos], axis=-1)
        # (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), as two products over whole vectors.
        y += _swap_halves(x).astype(jnp.float32) * jnp.concatenate([-sin, sin], axis=-1)
    return jnp.concatenate([y.astype(x_BTNH.dtype), x_BTNH[..., rotated:]], axis=-1)


def _swap_neighbours(x: jax.Array) -> jax.Array:
    """Exchange the dims of each pair of neighbours in the last dim; on TPU as `_swap_halves` does."""
    size = x.shape[-1]
    if platform() == "tpu":
        order = jnp.arange(size) ^ 1
        return x @ jnp.eye(size, dtype=x.dtype)[order]
    return x.reshape(*x.shape[:-1], size // 2, 2)[..., ::-1].reshape(x.shape)


def _swap_halves(x: jax.Array) -> jax.Array:
    """Put the second half of the last dim before the first.

    On TPU by a product with a permutation, which is exact and hidden behind other work: halves of a head
    fill half a vector register, and moving them costs more than the rotation.
    """
    half = x.shape[-1] // 2
    if platform() == "tpu":
        return x @ jnp.roll(jnp.eye(2 * half, dtype=x.dtype), half, axis=0)
    return jnp.concatenate([x[..., half:], x[..., :half]], axis=-1)


def relative_bucket(distance: jax.Array, cfg: PositionConfig, bidirectional: bool) -> jax.Array:
    """Map distances to T5's buckets (Raffel et al. 2020, 2.1): exact, then logarithmic.

    Args:
        distance: int[...], key index minus query index.
        cfg: num_buckets and max_distance.
        bidirectional: whether keys after the query have half of the buckets; else they share bucket 0.

    Returns:
        int[...], in [0, num_buckets).
    """
    count = cfg.num_buckets
    first = jnp.zeros_like(distance)
    if bidirectional:
        count //= 2
        first = jnp.where(distance > 0, count, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    # Half of the buckets hold one distance each, the others logarithmic ranges up to max_distance.
    exact = count // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(cfg.max_distance / exact)
    far = jnp.minimum(exact + (ratio * (count - exact)).astype(jnp.int32), count - 1)
    return first + jnp.where(distance < exact, distance, far)


class BucketedBias(nn.Module):
    """T5's relative bias float[1, N, T, S] from one table, of a stack or of a layer."""

    cfg: BlockConfig
    """The layer."""

    @nn.compact
    def __call__(self, num_queries: int, num_keys: int, query_start: int | jax.Array = 0) -> jax.Array:
        """Look up the bias of every pair of query and key.

        Args:
            num_queries: T.
            num_keys: S.
            query_start: index of the first query among the keys.

        Returns:
            float[1, N, T, S].
        """
        cfg = self.cfg
        shape = (cfg.position.num_buckets, cfg.attention.num_heads)
        # T5 draws its table as an embedding of the model's width.
        std = cfg.width**-0.5 if cfg.init.kind == "fan_in" else cfg.init.stddev
        init = logical(nn.initializers.normal(std), (None, "heads"))
        table = self.param("table", init, shape, jnp.dtype(cfg.param_dtype))
        query = jnp.arange(num_queries)[:, None] + query_start
        distance = jnp.arange(num_keys)[None, :] - query
        buckets = relative_bucket(distance, cfg.position, bidirectional=not cfg.causal)
        return jnp.transpose(table[buckets], (2, 0, 1))[None]


def alibi_slopes(num_heads: int) -> list[float]:
    """Return the slope of each head (Press et al. 2022): 2^(-8 i / n), i = 1..n, for n heads.

    Where n is no power of 2, those of the power below it come first, then every second one of the power above.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return slopes + between


def alibi(cfg: BlockConfig, num_queries: int, num_keys: int, query_start: int | jax.Array = 0) -> jax.Array:
    """Compute ALiBi's bias: minus a slope for each head times the distance of query and key.

    Args:
        cfg: the layer.
        num_queries: T.
        num_keys: S.
        query_start: index of the first query among the keys.

    Returns:
        float32[1, N, T, S], divided by the scale of the logits, which kernels multiply the sum by.
    """
    query = jnp.arange(num_queries)[:, None] + query_start
    distance = jnp.abs(query - jnp.arange(num_keys)[None, :]).astype(jnp.float32)
    slopes_N = jnp.asarray(alibi_slopes(cfg.attention.num_heads), jnp.float32) / cfg.softmax_scale
    return -(slopes_N[:, None, None] * distance)[None]


def per_device_bias(bias_1NTS: jax.Array, batch_size: int) -> jax.Array:
    """Repeat the bias once for each device that has rows of its own.

    Each device then accumulates the gradient of its own copy, and the copies are summed once behind the
    layers: an all-reduce in place of one in each layer.

    Args:
        bias_1NTS: the bias of all rows.
        batch_size: number of rows, by which they are sharded.

    Returns:
        float[devices, N, T, S]; the bias itself where rows are not sharded.
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
    """Shift each row of x[..., T, R] by one more than the last: y[..., i, j] = x[..., i, T-1-i+j].

    R >= T - 1 + num_keys (Transformer-XL, app. B). By reshaping alone: rows of R + 1 read as rows of R.
    """
    *lead, rows, width = x.shape
    # One more column, and each row of the flat array begins one entry later than in x.
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])
    flat = padded.reshape(*lead, rows * (width + 1))
    flat = flat[..., rows - 1 : rows - 1 + rows * width]
    return flat.reshape(*lead, rows, width)[..., :num_keys]


class RelativeLogits(nn.Module):
    """The position and segment terms of Transformer-XL's and XLNet's attention logits, before scaling.

    Terms (b) and (d) of Dai et al. 2019, eq. 4: (q + v)^T W_r r[i - j]; and XLNet's (q + b)^T s[i, j] (Yang
    et al. 2019, 2.5). The content bias u is added to the queries by `bias_queries`.
    """

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        heads = (cfg.attention.num_heads, cfg.head_dim)
        head_names = ("heads", "head_dim")
        dtype = jnp.dtype(cfg.param_dtype)
        init = nn.initializers.normal(cfg.init.stddev)
        self.content_bias = self.param("content_bias", logical(init, head_names), heads, dtype)
        self.position_bias = self.param("position_bias", logical(init, head_names), heads, dtype)
        self.position = Linear(
            inputs=(cfg.width,),
            outputs=heads,
            names=("embed", *head_names),
            std=cfg.std(cfg.width),
            bias=False,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            flat=joins_heads(cfg),
        )
        if cfg.position.segment_relative:
            self.segment_bias = self.param("segment_bias", logical(init, head_names), heads, dtype)
            self.segment = self.param("segment", logical(init, (None, *head_names)), (2, *heads), dtype)

    def bias_queries(self, query_BTNH: jax.Array) -> jax.Array:
        """Compute q + u, which the content term reads."""
        return self._add_head_bias(query_BTNH, self.content_bias)

    def keys(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | jax.Array,
        backwards_B: jax.Array | None = None,
    ) -> jax.Array:
        """Project the sinusoids of all distances i - j, from query_start + T - 1 down to query_start - S + 1.

        Args:
            num_queries: T.
            num_keys: S.
            query_start: index of the first query among the keys.
            backwards_B: int[B], 1 for rows whose text is in reverse: their distances are j - i. None: no row.

        Returns:
            W_r r, float[R, N, H]; [B, R, N, H] with `backwards_B`.
        """
        # In falling order: row i of the shifted result begins at distance i.
        distance = query_start + num_queries - 1 - jnp.arange(num_queries + num_keys - 1)
        if backwards_B is None:
            return self._distance_keys(distance)
        is_backwards = backwards_B[:, None, None, None] > 0
        return jnp.where(is_backwards, self._distance_keys(-distance), self._distance_keys(distance))

    def term(
        self, query_BTNH: jax.Array, keys_RNH: jax.Array, rows: int, places_BP: jax.Array | None
    ) -> RelativeTerms:
        """Return the factors that `__call__` and `gathered` multiply and lay out over the keys.

        Args:
            query_BTNH: queries.
            keys_RNH: what `keys` returns.
            rows: number of positions of a row.
            places_BP: int[B, P], the positions of the queries; None: all of the row.

        Returns:
            The factors.
        """
        query = self._add_head_bias(query_BTNH, self.position_bias)
        return RelativeTerms(query, keys_RNH, rows, places_BP)

    def __call__(self, query_BTNH: jax.Array, keys_RNH: jax.Array, num_keys: int) -> jax.Array:
        """Compute the position term of queries at consecutive positions.

        Args:
            query_BTNH: queries.
            keys_RNH: what `keys` returns, [R, N, H] or [B, R, N, H].
            num_keys: S.

        Returns:
            float[B, N, T, S].
        """
        shifted = query_BTNH + self.position_bias.astype(query_BTNH.dtype)
        key_dims = "brnh" if keys_RNH.ndim == 4 else "rnh"
        return skew(jnp.einsum(f"btnh,{key_dims}->bntr", shifted, keys_RNH), num_keys)

    def gathered(
        self,
        query_BPNH: jax.Array,
        places_BP: jax.Array,
        keys_RNH: jax.Array,
        num_queries: int,
        num_keys: int,
    ) -> jax.Array:
        """Compute the position term of queries at some positions of a row.

        Args:
            query_BPNH: queries.
            places_BP: int[B, P], their positions.
            keys_RNH: what `keys` returns, [R, N, H] or [B, R, N, H].
            num_queries: number of positions of the row.
            num_keys: S.

        Returns:
            float[B, N, P, S].
        """
        shifted = query_BPNH + self.position_bias.astype(query_BPNH.dtype)
        key_dims = "brnh" if keys_RNH.ndim == 4 else "rnh"
        terms_BPNR = jnp.einsum(f"bpnh,{key_dims}->bpnr", shifted, keys_RNH)

        def window(terms_NR: jax.Array, position: jax.Array) -> jax.Array:
            # The distances of a query at this position to all keys are consecutive.
            return jax.lax.dynamic_slice_in_dim(terms_NR, num_queries - 1 - position, num_keys, axis=1)

        return jnp.swapaxes(jax.vmap(jax.vmap(window))(terms_BPNR, places_BP), 1, 2)

    def segments(self, query_BTNH: jax.Array, different_BTS: jax.Array) -> jax.Array:
        """Compute XLNet's segment term: s_0 where query and key are of one type, s_1 where not.

        Returns:
            float[B, N, T, S].
        """
        shifted = query_BTNH + self.segment_bias.astype(query_BTNH.dtype)
        both = jnp.einsum("btnh,cnh->bntc", shifted, self.segment.astype(query_BTNH.dtype))
        return jnp.where(different_BTS[:, None], both[..., 1:], both[..., :1])

    def _distance_keys(self, distance: jax.Array) -> jax.Array:
        cfg = self.cfg
        table = sinusoid(distance, cfg.width, cfg.position.theta, "halves")
        return self.position(table.astype(jnp.dtype(cfg.dtype)))

    def _add_head_bias(self, query_BTNH: jax.Array, bias_NH: jax.Array) -> jax.Array:
        if not joins_heads(self.cfg):
            return add_bias(query_BTNH, bias_NH)
        # Joined, as the kernel reads the sum.
        flat = query_BTNH.reshape(*query_BTNH.shape[:2], -1)
        return add_bias(flat, bias_NH.reshape(-1)).reshape(query_BTNH.shape)
