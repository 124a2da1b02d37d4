"""A mixer of tokens with a state of fixed size in place of keys and values: Mamba 2's (Dao and Gu 2024).

Each head has a state h of size H x U, which decays by a factor that depends on the token:

    h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t^T        y_t = h_t c_t + d x_t

with dt = softplus(W_dt u + dt_bias), a = -exp(a_log), and x, b and c of a causal convolution over the tokens. A state
and a convolution end with their document: the first token of a segment finds both empty, in packed rows too.

Heads in a group share b and c, as query heads share keys: N heads, G groups.

Shapes: U size of a state, Q tokens of a chunk, I chunks.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn import cache as caches
from tlx.nn.cache import LayerCache, StateSpaceCache
from tlx.nn.config import BlockConfig
from tlx.nn.linear import Linear
from tlx.parallel.sharding import constrain, logical

HEAD_DIMS = ("batch", "sequence", "heads", "head_dim")


class Recurrence(NamedTuple):
    """Inputs of the recurrence for T tokens, float32."""

    x_BTNH: jax.Array
    """What is added to the states, times dt."""
    log_decay_BTN: jax.Array
    """Logarithm of the factor of the state before the token, at most 0."""
    b_BTGU: jax.Array
    """What it is added along; the heads of a group share it."""
    c_BTGU: jax.Array
    """What the states are read along."""
    runs_BT: jax.Array
    """Number of starts of segments up to each token: tokens of the same number share a state, 0 is that before."""


class StateSpace(nn.Module):
    """The mixer of a layer: projections, convolution, recurrence, gated norm and output projection."""

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        part = cfg.state_space
        heads = (cfg.state_heads, part.head_dim)
        groups = (part.num_groups, part.state_dim)
        head_names = ("heads", "head_dim")
        self.gate = self._linear(heads, head_names)
        self.x = self._linear(heads, head_names)
        # Groups are few, often one, which no mesh axis divides.
        self.b = self._linear(groups, (None, None))
        self.c = self._linear(groups, (None, None))
        # Not quantised: it is small, and an error of dt is one of all later states.
        self.dt = self._linear(heads[:1], head_names[:1], quantizable=False)
        self.x_convolution = CausalConvolution(cfg, heads, head_names)
        self.b_convolution = CausalConvolution(cfg, groups, (None, None))
        self.c_convolution = CausalConvolution(cfg, groups, (None, None))
        dtype = jnp.dtype(cfg.param_dtype)
        num_heads = heads[:1]
        self.a_log = self.param("a_log", logical(_log_of_numbers, ("heads",)), num_heads, dtype)
        self.d = self.param("d", logical(nn.initializers.ones_init(), ("heads",)), num_heads, dtype)
        self.dt_bias = self.param("dt_bias", logical(self._draw_dt_bias, ("heads",)), num_heads, dtype)
        self.norm_scale = self.param(
            "norm_scale", logical(nn.initializers.ones_init(), head_names), heads, dtype
        )
        self.out = Linear(
            inputs=heads,
            outputs=(cfg.width,),
            names=(*head_names, "embed"),
            std=cfg.residual_std(math.prod(heads)),
            bias=part.bias,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
        )

    def __call__(
        self, u_BTD: jax.Array, segments_BT: jax.Array, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Mix the tokens of each segment.

        Args:
            u_BTD: Input, normalised.
            segments_BT: int[B, T], segments of the tokens.
            cache: The layer's view of the cache while decoding; None: the tokens are the first ones.

        Returns:
            (float[B, T, D], the cache with the states after the last token).
        """
        cfg = self.cfg
        # What the first token of a text finds: no state, and nothing in the convolution's window.
        if cache is None:
            before = jax.tree.map(lambda x: x[0], caches.empty_states(cfg, 1, len(segments_BT)))
            runs_BT = _runs(segments_BT, jnp.full(segments_BT.shape[:1], -1))
        else:
            assert cache.last_segment_B is not None
            before = caches.read_states(cache)
            runs_BT = _runs(segments_BT, cache.last_segment_B)
        x_BTNH, next_x = self.x_convolution(self.x(u_BTD), runs_BT, before.x)
        b_BTGU, next_b = self.b_convolution(self.b(u_BTD), runs_BT, before.b)
        c_BTGU, next_c = self.c_convolution(self.c(u_BTD), runs_BT, before.c)
        x_BTNH = constrain(x_BTNH, HEAD_DIMS).astype(jnp.float32)
        low, high = cfg.state_space.dt_limits
        # The recurrence is float32: decays multiply over all tokens of a document.
        dt_BTN = jax.nn.softplus(self.dt(u_BTD).astype(jnp.float32) + self.dt_bias.astype(jnp.float32))
        dt_BTN = jnp.clip(dt_BTN, low, high or None)
        y_BTNH, state_BNHU = chunked_recurrence(
            # dt scales what is written to the states; d reads x as it is.
            Recurrence(
                x_BTNH * dt_BTN[..., None],
                -jnp.exp(self.a_log.astype(jnp.float32)) * dt_BTN,
                b_BTGU.astype(jnp.float32),
                c_BTGU.astype(jnp.float32),
                runs_BT,
            ),
            before.state,
            cfg.state_space.chunk_size,
        )
        y_BTNH = y_BTNH + self.d.astype(jnp.float32)[:, None] * x_BTNH
        y_BTD = self.out(self._gated_norm(y_BTNH, self.gate(u_BTD)).astype(u_BTD.dtype))
        if cache is not None:
            cache = caches.write_states(cache, StateSpaceCache(state_BNHU, next_x, next_b, next_c))
        return y_BTD, cache

    def _gated_norm(self, y_BTNH: jax.Array, gate_BTNH: jax.Array) -> jax.Array:
        """Return RMSNorm(y silu(gate)) over the heads of each group."""
        y_BTNH = y_BTNH * jax.nn.silu(gate_BTNH.astype(jnp.float32))
        by_group = y_BTNH.reshape(*y_BTNH.shape[:2], self.cfg.state_space.num_groups, -1)
        # After the gate, as Mamba 2's norm_before_gate = False.
        square = jnp.mean(jnp.square(by_group), axis=-1, keepdims=True)
        normed = by_group * jax.lax.rsqrt(square + self.cfg.norm.eps)
        return normed.reshape(y_BTNH.shape) * self.norm_scale.astype(jnp.float32)

    def _linear(
        self, outputs: tuple[int, ...], names: tuple[str | None, ...], quantizable: bool = True
    ) -> Linear:
        cfg = self.cfg
        return Linear(
            inputs=(cfg.width,),
            outputs=outputs,
            names=("embed", *names),
            std=cfg.std(cfg.width),
            bias=cfg.state_space.bias,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            quantizable=quantizable,
        )

    def _draw_dt_bias(self, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        """Draw dt log-uniformly from dt_range, and return what softplus makes it of."""
        low, high = self.cfg.state_space.dt_range
        dt = jnp.exp(jax.random.uniform(key, shape, minval=math.log(low), maxval=math.log(high)))
        return (dt + jnp.log(-jnp.expm1(-dt))).astype(dtype)


class CausalConvolution(nn.Module):
    """SiLU of a convolution of each channel over the last conv_size tokens of its segment."""

    cfg: BlockConfig
    """The layer."""

    channels: tuple[int, ...]
    """Sizes of the dims of a token's channels."""

    names: tuple[str | None, ...]
    """Their logical names."""

    @nn.compact
    def __call__(self, x: jax.Array, runs_BT: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolve.

        Args:
            x: [B, T, channels].
            runs_BT: As in Recurrence.
            before: [B, conv_size - 1, channels], the tokens before.

        Returns:
            ([B, T, channels], the last conv_size - 1 tokens, those of earlier segments as zeros).
        """
        cfg = self.cfg
        size = cfg.state_space.conv_size
        dtype = jnp.dtype(cfg.param_dtype)
        kernel_names = (None, *self.names)
        kernel = self.param("kernel", logical(_uniform, kernel_names), (size, *self.channels), dtype)
        length = runs_BT.shape[1]
        x_all = jnp.concatenate([before.astype(x.dtype), x], axis=1)
        runs_all = jnp.pad(runs_BT, ((0, 0), (size - 1, 0)))
        spread = (slice(None), slice(None), *[None] * len(self.channels))
        y = jnp.zeros_like(x)
        # Tap by tap: each hides the tokens of other segments, which no convolution of XLA does.
        for tap in range(size):
            is_same = runs_all[:, tap : tap + length] == runs_BT
            y += jnp.where(is_same[spread], x_all[:, tap : tap + length], 0) * kernel[tap].astype(x.dtype)
        if cfg.state_space.conv_bias:
            zeros = logical(nn.initializers.zeros_init(), self.names)
            y += self.param("bias", zeros, self.channels, dtype).astype(x.dtype)
        # Tokens of an earlier segment are no neighbours of those that follow the last one.
        is_last = (runs_all == runs_all[:, -1:])[:, length:]
        return jax.nn.silu(y), jnp.where(is_last[spread], x_all[:, length:], 0)


def chunked_recurrence(
    inputs: Recurrence, state_BNHU: jax.Array, chunk_size: int
) -> tuple[jax.Array, jax.Array]:
    """Run the recurrence chunk by chunk: by products within a chunk, and one state from each to the next.

    Dao and Gu 2024, section 6: the state-space dual form. The result does not depend on the size of the chunks.

    Args:
        inputs: The tokens.
        state_BNHU: The state before them, float32.
        chunk_size: Most tokens of a chunk, at least 1.

    Returns:
        (y[B, T, N, H], the state after the last token).
    """
    batch, length, num_heads, head_dim = inputs.x_BTNH.shape
    num_groups, state_dim = inputs.b_BTGU.shape[2:]
    size = min(chunk_size, length)
    padded = _padded(inputs, -length % size)
    grouped = (num_groups, num_heads // num_groups)
    x = padded.x_BTNH.reshape(batch, -1, size, *grouped, head_dim)
    log_decay = padded.log_decay_BTN.reshape(batch, -1, size, *grouped)
    b_BIQGU = padded.b_BTGU.reshape(batch, -1, size, num_groups, state_dim)
    c_BIQGU = padded.c_BTGU.reshape(batch, -1, size, num_groups, state_dim)
    runs_BIQ = padded.runs_BT.reshape(batch, -1, size)
    # Run of the token before each chunk; a state goes on into the chunk where it is the same.
    earlier_BI = jnp.pad(runs_BIQ[:, :-1, -1], ((0, 0), (1, 0)))

    # Within a chunk: what token s adds, as token q reads it.
    log_decay = jnp.moveaxis(log_decay, 2, -1)
    is_same = runs_BIQ[:, :, :, None] == runs_BIQ[:, :, None, :]
    decay = jnp.where(is_same[:, :, None, None], jnp.exp(_segment_sums(log_decay)), 0.0)
    # Once for all heads of a group, as scores of queries with shared keys.
    scores = jnp.einsum("biqgu,bisgu->bigqs", c_BIQGU, b_BIQGU)
    y = jnp.einsum("bigjqs,bisgjh->biqgjh", scores[:, :, :, None] * decay, x)

    # From chunk to chunk.
    to_end = jnp.moveaxis(decay[..., -1, :], -1, 2)
    added = jnp.einsum("bisgu,bisgjh->bigjhu", b_BIQGU, to_end[..., None] * x)
    from_start = jnp.exp(jnp.cumsum(log_decay, axis=-1))
    continues_BIQ = runs_BIQ == earlier_BI[..., None]
    from_start = jnp.where(continues_BIQ[:, :, None, None], from_start, 0.0)
    state = state_BNHU.reshape(batch, *grouped, head_dim, state_dim)

    def next_state(state: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, added = chunk
        return kept[..., None, None] * state + added, state

    # The only loop over time, of as many steps as there are chunks.
    by_chunk = (jnp.moveaxis(from_start[..., -1], 1, 0), jnp.moveaxis(added, 1, 0))
    state, states = jax.lax.scan(next_state, state, by_chunk)
    read = jnp.einsum("biqgu,ibgjhu->biqgjh", c_BIQGU, states)
    y += jnp.moveaxis(from_start, -1, 2)[..., None] * read
    y_BTNH = y.reshape(batch, -1, num_heads, head_dim)[:, :length]
    return y_BTNH, state.reshape(state_BNHU.shape)


def _padded(inputs: Recurrence, missing: int) -> Recurrence:
    """Add tokens that change no state."""
    if not missing:
        return inputs
    arrays = [jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2))) for x in inputs[:-1]]
    # Of the last segment, so that its state goes through them.
    runs_BT = jnp.pad(inputs.runs_BT, ((0, 0), (0, missing)), mode="edge")
    return Recurrence(*arrays, runs_BT)


def _segment_sums(x: jax.Array) -> jax.Array:
    """Return sums[..., q, s] = x[..., s + 1] + ... + x[..., q], and -inf where s > q.

    Summed apart for every s: differences of one running sum lose what is small beside it.
    """
    size = x.shape[-1]
    square = jnp.ones((size, size), bool)
    sums = jnp.cumsum(jnp.where(jnp.tril(square, -1), x[..., :, None], 0.0), axis=-2)
    return jnp.where(jnp.tril(square), sums, -jnp.inf)


def _runs(segments_BT: jax.Array, last_segment_B: jax.Array) -> jax.Array:
    """Return Recurrence.runs_BT of segments; `last_segment_B` is that of the token before, -1: there is none."""
    before_BT = jnp.concatenate([last_segment_B[:, None], segments_BT[:, :-1]], axis=1)
    return jnp.cumsum(segments_BT != before_BT, axis=1)


def _log_of_numbers(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.log(jnp.arange(1, shape[0] + 1, dtype=jnp.float32)).astype(dtype)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """As torch initialises a convolution of each channel alone."""
    limit = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)
