"""DeBERTa's attention: what a token is and where it stands are two vectors (He et al. 2021, section 3.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.nn.config import BlockConfig, PositionConfig
from tlx.nn.dropout import dropout
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.nn.position import skew
from tlx.parallel.sharding import logical

# Dropout site, beyond those of block.py and its second stream.
DISTANCES = 20


def span(cfg: PositionConfig) -> int:
    """k: the table has rows for the distances -k to k - 1."""
    return cfg.num_buckets or cfg.max_distance


def rows(distance: np.ndarray, cfg: PositionConfig) -> np.ndarray:
    """Row of the table for each query index minus key index.

    With buckets (DeBERTa v2) distances up to half of them are exact and the rest logarithmic, rounded up
    (make_log_bucket of microsoft/DeBERTa); in float32, as there.
    """
    if cfg.num_buckets:
        middle = cfg.num_buckets // 2
        far = np.where(np.abs(distance) < middle, middle - 1, np.abs(distance))
        ratio = np.log((far / middle).astype(np.float32)) / np.log(
            np.float32((cfg.max_distance - 1) / middle)
        )
        bucket = np.ceil(ratio * (middle - 1)).astype(np.int64) + middle
        distance = np.where(far <= middle, distance, bucket * np.sign(distance))
    limit = span(cfg)
    return np.clip(distance + limit, 0, 2 * limit - 1)


class DistanceTable(nn.Module):
    """The vectors of the distances, [2k, D], one table for all layers; normalised in v2."""

    cfg: BlockConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.init.stddev), (None, "embed"))
        shape = (2 * span(cfg.position), cfg.width)
        table = self.param("table", init, shape, jnp.dtype(cfg.param_dtype)).astype(jnp.dtype(cfg.dtype))
        return Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(table) if cfg.position.norm else table


def dropped_distances(table_RD: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """What a layer reads of the table: [B, R, D], each row with its own dropout; the table without keys."""
    if keys_B is None or rate == 0.0:
        return table_RD
    return dropout(jnp.broadcast_to(table_RD, (keys_B.shape[0], *table_RD.shape)), rate, keys_B, DISTANCES)


class DisentangledLogits(nn.Module):
    """Content to position and position to content, before scaling: q_i p_K[i-j] + k_j p_Q[i-j].

    v1 projects the table by matrices of its own; v2 by those of the content, which the caller applies.
    Both take distance i - j in either term, as the code does and the paper does not.
    """

    cfg: BlockConfig

    def setup(self):
        cfg = self.cfg
        if not cfg.position.shared_projections:
            heads, names = (cfg.attention.num_heads, cfg.head_dim), ("embed", "heads", "head_dim")
            std, dtypes = cfg.std(cfg.width), (cfg.dtype, cfg.param_dtype)
            self.key = Linear((cfg.width,), heads, names, std, False, *dtypes)
            self.query = Linear((cfg.width,), heads, names, std, True, *dtypes)

    def project(self, table: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(queries, keys) [..., R, N, H] of the table [..., R, D] by the layer's own matrices."""
        return self.query(table), self.key(table)

    def __call__(
        self, query_BTNH: jax.Array, key_BSNH: jax.Array, position_query: jax.Array, position_key: jax.Array
    ) -> jax.Array:
        """float[B, N, T, S]; position_query, position_key: [R, N, H] or [B, R, N, H], the table's rows."""
        cfg, length, num_keys = self.cfg, query_BTNH.shape[1], key_BSNH.shape[1]
        falling = length - 1 - np.arange(length + num_keys - 1)
        table = "rnh" if position_key.ndim == 3 else "brnh"
        keys = jnp.take(position_key, rows(falling, cfg.position), axis=-3)
        content_to_position = skew(jnp.einsum(f"btnh,{table}->bntr", query_BTNH, keys), num_keys)
        rising = np.arange(length + num_keys - 1) - (num_keys - 1)
        queries = jnp.take(position_query, rows(rising, cfg.position), axis=-3)
        position_to_content = skew(jnp.einsum(f"bsnh,{table}->bnsr", key_BSNH, queries), length)
        return content_to_position + jnp.swapaxes(position_to_content, 2, 3)
