"""A vocabulary in clusters: frequent ids have wide vectors, rarer ones narrower (Baevski and Auli 2019), and
the softmax is a short one over frequent ids and clusters, and one of each cluster (Grave et al. 2017).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.parallel.sharding import constrain, logical

MASKED = -1e9


class Cluster(NamedTuple):
    """The ids from `begin`: a table of their vectors, and what turns these into the model's width."""

    begin: int
    table: jax.Array  # [n, E]
    projection: jax.Array | None  # [E, D]; None: the vectors have the model's width


class AdaptiveUnembedding(NamedTuple):
    """What turns hidden states into log-probabilities, in two steps."""

    clusters: tuple[Cluster, ...]
    biases: tuple[jax.Array | None, ...]  # [n] of each cluster's ids
    gates: jax.Array  # [C - 1, E of the first]: the clusters as entries of the first softmax
    gate_bias: jax.Array  # [C - 1]
    vocab_size: int  # ids beyond it are padding

    @property
    def num_rows(self) -> int:
        """Ids, padding among them."""
        return self.clusters[-1].begin + self.clusters[-1].table.shape[0]


def bounds(cutoffs: tuple[int, ...], size: int) -> list[tuple[int, int]]:
    """[first id, the one behind the last) of every cluster of a vocabulary of `size` rows."""
    edges = [0, *cutoffs, size]
    return list(zip(edges[:-1], edges[1:], strict=True))


def widths(width: int, cutoffs: tuple[int, ...], divisor: int) -> list[int]:
    """The width of every cluster's vectors: each `divisor` times narrower than the one before."""
    return [width // divisor**i for i in range(len(cutoffs) + 1)]


class ClusterTables(nn.Module):
    """The vectors of a vocabulary in clusters: one table and no projections where divisor is 1."""

    padded_size: int
    width: int
    cutoffs: tuple[int, ...]
    divisor: int
    std: float
    projection_std: float
    dtype: str
    param_dtype: str

    def setup(self):
        dtype = jnp.dtype(self.param_dtype)
        init = logical(nn.initializers.normal(self.std), ("vocab", "embed"))
        parts = bounds(self.cutoffs, self.padded_size)
        if self.divisor == 1:
            whole = self.param("table", init, (self.padded_size, self.width), dtype)
            self.table = tuple(Cluster(first, whole[first:last], None) for first, last in parts)
            return
        project = logical(nn.initializers.normal(self.projection_std), (None, "embed"))
        found = []
        for i, width in enumerate(widths(self.width, self.cutoffs, self.divisor)):
            first, last = parts[i]
            table = self.param(f"table_{i}", init, (last - first, width), dtype)
            projection = self.param(f"projection_{i}", project, (width, self.width), dtype)
            found.append(Cluster(first, table, projection))
        self.table = tuple(found)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """The vectors of ids [...], [..., D]."""
        total, dtype = 0, jnp.dtype(self.dtype)
        for first, table, projection in self.table:
            place = tokens - first
            inside = (place >= 0) & (place < table.shape[0])
            x = jnp.take(table, jnp.where(inside, place, 0), axis=0).astype(dtype)
            x = x if projection is None else x @ projection.astype(dtype)
            total = total + jnp.where(inside[..., None], x, 0)
        return constrain(total, ("batch", "sequence", "activation_embed"))


class AdaptiveOutput(nn.Module):
    """The parameters of the output: biases, the clusters' own entries, and what is not tied to the input.

    As in Transformer-XL's code for WikiText-103, tied outputs share all tables, and all projections but the
    first.
    """

    padded_size: int
    vocab_size: int
    width: int
    cutoffs: tuple[int, ...]
    divisor: int
    tied: bool
    bias: bool
    std: float
    dtype: str
    param_dtype: str

    def setup(self):
        dtype, count = jnp.dtype(self.param_dtype), len(self.cutoffs)
        zeros, init = nn.initializers.zeros_init(), nn.initializers.normal(self.std)
        self.gates = self.param("gates", logical(zeros, (None, "embed")), (count, self.width), dtype)
        self.gate_bias = self.param("gate_bias", logical(zeros, (None,)), (count,), dtype)
        if self.bias:
            self.ids_bias = self.param("bias", logical(zeros, ("vocab",)), (self.padded_size,), dtype)
        if not self.tied:
            self.own = ClusterTables(
                self.padded_size,
                self.width,
                self.cutoffs,
                self.divisor,
                self.std,
                self.std,
                self.dtype,
                self.param_dtype,
            )
        elif self.divisor > 1:
            shape = (self.width, self.width)
            self.projection = self.param("projection", logical(init, (None, "embed")), shape, dtype)

    def __call__(self, tables: tuple[Cluster, ...]) -> AdaptiveUnembedding:
        """The output over `tables`, those of the input, where tied."""
        clusters = tables if self.tied else self.own.table
        if self.tied and self.divisor > 1:
            clusters = (clusters[0]._replace(projection=self.projection), *clusters[1:])
        edges = bounds(self.cutoffs, self.padded_size)
        biases = tuple(self.ids_bias[first:last] if self.bias else None for first, last in edges)
        return AdaptiveUnembedding(clusters, biases, self.gates, self.gate_bias, self.vocab_size)


class ClusterLogits(NamedTuple):
    """One cluster's logits, and what added to them makes log-probabilities."""

    begin: int
    logits: jax.Array  # float32[..., n], -1e9 on padding
    offset: jax.Array  # float32[...]


def cluster_logits(hidden: jax.Array, unembedding: AdaptiveUnembedding) -> list[ClusterLogits]:
    """log p(id) = logits + offset, cluster by cluster: that of the cluster, and that within it."""
    first, *rest = unembedding.clusters
    kernel = jnp.concatenate([first.table, unembedding.gates.astype(first.table.dtype)])
    bias = unembedding.biases[0]
    head = _product(_narrowed(hidden, first), kernel)
    ids = first.table.shape[0]
    shortlist, gates = head[..., :ids], head[..., ids:] + unembedding.gate_bias.astype(jnp.float32)
    shortlist = shortlist if bias is None else shortlist + bias.astype(jnp.float32)
    log_z = jax.nn.logsumexp(jnp.concatenate([shortlist, gates], axis=-1), axis=-1)
    found = [ClusterLogits(0, shortlist, -log_z)]
    for i, cluster in enumerate(rest):
        y = _product(_narrowed(hidden, cluster), cluster.table)
        bias = unembedding.biases[i + 1]
        y = y if bias is None else y + bias.astype(jnp.float32)
        real = cluster.begin + jnp.arange(y.shape[-1]) < unembedding.vocab_size
        y = jnp.where(real, y, MASKED)
        inside = gates[..., i] - log_z
        found.append(ClusterLogits(cluster.begin, y, inside - jax.nn.logsumexp(y, axis=-1)))
    return found


def log_probabilities(hidden: jax.Array, unembedding: AdaptiveUnembedding) -> jax.Array:
    """float32[..., padded vocabulary] that sum to one, -1e9 and less on the padding."""
    pieces = [part.logits + part.offset[..., None] for part in cluster_logits(hidden, unembedding)]
    return jnp.concatenate(pieces, axis=-1)


def token_losses(
    hidden: jax.Array, unembedding: AdaptiveUnembedding, targets: jax.Array, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As losses.token_losses; log Z is that of the first softmax, over frequent ids and clusters."""
    found = cluster_logits(hidden, unembedding)
    target = total = 0.0
    best = jnp.full(targets.shape, -jnp.inf)
    for first, y, offset in found:
        ids = first + jnp.arange(y.shape[-1])
        hit, real = ids == targets[..., None], ids < unembedding.vocab_size
        target += jnp.sum(jnp.where(hit, y + offset[..., None], 0.0), axis=-1)
        best = jnp.maximum(best, jnp.max(y, axis=-1) + offset)
        if label_smoothing:
            total += jnp.sum(jnp.where(real, y + offset[..., None], 0.0), axis=-1)
    loss = -target
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * total / unembedding.vocab_size
    return loss, -found[0].offset, target >= best


def _narrowed(hidden: jax.Array, cluster: Cluster) -> jax.Array:
    if cluster.projection is None:
        return hidden
    return jnp.einsum("...d,ed->...e", hidden, cluster.projection.astype(hidden.dtype))


def _product(x: jax.Array, table: jax.Array) -> jax.Array:
    return jnp.einsum("...e,ve->...v", x, table.astype(x.dtype), preferred_element_type=jnp.float32)
