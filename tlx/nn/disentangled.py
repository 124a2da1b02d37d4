"""DeBERTa's attention: content and position of a token are two vectors (He et al. 2021, section 3.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.nn.config import BlockConfig, PositionConfig
from tlx.nn.dropout import DISTANCES, dropout
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.nn.position import skew
from tlx.parallel.sharding import logical


def span(cfg: PositionConfig) -> int:
    """Return k: the table has rows for the distances -k to k - 1."""
    return cfg.num_buckets or cfg.max_distance


def rows(distance: np.ndarray, cfg: PositionConfig) -> np.ndarray:
    """Map distances, query index minus key index, to rows of the table.

    With buckets (DeBERTa v2) distances up to half of their number are exact and the rest logarithmic,
    rounded up (make_log_bucket of microsoft/DeBERTa); in float32, as there.
    """
    if cfg.num_buckets:
        middle = cfg.num_buckets // 2
        far = np.where(np.abs(distance) < middle, middle - 1, np.abs(distance))
        ratio = np.log((far / middle).astype(np.float32)) / np.log(
            np.float32((cfg.max_distance - 1) / middle)
        )
        log_bucket = np.ceil(ratio * (middle - 1)).astype(np.int64) + middle
        # Computed with numpy while tracing: the rows are constants of the program.
        distance = np.where(far <= middle, distance, log_bucket * np.sign(distance))
    limit = span(cfg)
    return np.clip(distance + limit, 0, 2 * limit - 1)


class DistanceTable(nn.Module):
    """The vectors of the distances, [2k, D], one table for all layers; normalised in DeBERTa v2."""

    cfg: BlockConfig
    """The stack's layer."""

    @nn.compact
    def __call__(self) -> jax.Array:
        """Return the table in the dtype of the computation."""
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.init.stddev), (None, "embed"))
        shape = (2 * span(cfg.position), cfg.width)
        table = self.param("table", init, shape, jnp.dtype(cfg.param_dtype)).astype(jnp.dtype(cfg.dtype))
        return Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(table) if cfg.position.norm else table


def dropped_distances(table_RD: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Drop out the table of distances as one layer reads it.

    Args:
        table_RD: the table.
        rate: dropout rate in [0, 1).
        keys_B: one PRNG key for each row; None: no dropout.

    Returns:
        float[B, R, D], each row with dropout of its own; the table itself [R, D] without dropout.
    """
    if keys_B is None or rate == 0.0:
        return table_RD
    return dropout(jnp.broadcast_to(table_RD, (keys_B.shape[0], *table_RD.shape)), rate, keys_B, DISTANCES)


class DisentangledLogits(nn.Module):
    """Content to position and position to content, before scaling: q_i p_K[i-j] + k_j p_Q[i-j].

    DeBERTa v1 projects the table by matrices of its own; v2 by those of the content, which the caller
    applies. Both terms read distance i - j, as the code does and the paper does not.
    """

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        if cfg.position.shared_projections:
            return
        heads = (cfg.attention.num_heads, cfg.head_dim)
        names = ("embed", "heads", "head_dim")
        std = cfg.std(cfg.width)
        # As in microsoft/DeBERTa: the projection of position keys has no bias, that of queries has one.
        self.key = Linear((cfg.width,), heads, names, std, False, cfg.dtype, cfg.param_dtype)
        self.query = Linear((cfg.width,), heads, names, std, True, cfg.dtype, cfg.param_dtype)

    def project(self, table: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Project the table [..., R, D] by the layer's own matrices to (queries, keys) [..., R, N, H]."""
        return self.query(table), self.key(table)

    def __call__(
        self, query_BTNH: jax.Array, key_BSNH: jax.Array, position_query: jax.Array, position_key: jax.Array
    ) -> jax.Array:
        """Compute both terms.

        Args:
            query_BTNH: content queries.
            key_BSNH: content keys, as many heads as queries.
            position_query: the table's rows as queries, [R, N, H] or [B, R, N, H].
            position_key: the table's rows as keys, likewise.

        Returns:
            float[B, N, T, S].
        """
        position = self.cfg.position
        num_queries = query_BTNH.shape[1]
        num_keys = key_BSNH.shape[1]
        table_dims = "rnh" if position_key.ndim == 3 else "brnh"
        # Products with every distance that occurs, and then each row is moved to where its own begin: less
        # work and memory than gathering a vector for each pair of query and key.
        falling = num_queries - 1 - np.arange(num_queries + num_keys - 1)
        keys = jnp.take(position_key, rows(falling, position), axis=-3)
        content_to_position = skew(jnp.einsum(f"btnh,{table_dims}->bntr", query_BTNH, keys), num_keys)
        rising = np.arange(num_queries + num_keys - 1) - (num_keys - 1)
        queries = jnp.take(position_query, rows(rising, position), axis=-3)
        position_to_content = skew(jnp.einsum(f"bsnh,{table_dims}->bnsr", key_BSNH, queries), num_queries)
        return content_to_position + jnp.swapaxes(position_to_content, 2, 3)
