"""A vocabulary in clusters: adaptive input and softmax.

Frequent ids have wide vectors, rarer ones narrower (Baevski and Auli 2019). The softmax is a short one over
frequent ids and clusters, and one inside each cluster (Grave et al. 2017).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.products import contract
from tlx.parallel.sharding import constrain, logical

MASKED = -1e9
"""Logit of ids that are padding."""


class Cluster(NamedTuple):
    """The ids from `begin` on, up to the next cluster's."""

    begin: int
    """First id."""

    table: jax.Array
    """Vectors of the ids, [ids, E]."""

    projection: jax.Array | None
    """[E, D], from these vectors to the model's width; None: they have that width."""


class AdaptiveUnembedding(NamedTuple):
    """The output kernels of a vocabulary in clusters."""

    clusters: tuple[Cluster, ...]
    """The clusters, frequent ids first."""

    biases: tuple[jax.Array | None, ...]
    """Bias [ids] of each cluster; None: no bias."""

    gates: jax.Array
    """[clusters - 1, E of the first]: the rarer clusters as entries of the first softmax."""

    gate_bias: jax.Array
    """[clusters - 1]."""

    vocab_size: int
    """Ids from here on are padding."""

    @property
    def num_rows(self) -> int:
        """Number of ids, padding included."""
        return self.clusters[-1].begin + self.clusters[-1].table.shape[0]


def bounds(cutoffs: tuple[int, ...], size: int) -> list[tuple[int, int]]:
    """Return [first id, last id + 1) of every cluster of a vocabulary of `size` rows."""
    edges = [0, *cutoffs, size]
    return list(zip(edges[:-1], edges[1:], strict=True))


def widths(width: int, cutoffs: tuple[int, ...], divisor: int) -> list[int]:
    """Return the width of every cluster's vectors, each `divisor` times narrower than the one before.

    Args:
        width: of the first cluster, the model's.
        cutoffs: first ids of the rarer clusters.
        divisor: embedding.divisor.

    Returns:
        One width for each cluster.
    """
    return [width // divisor**i for i in range(len(cutoffs) + 1)]


class ClusterTables(nn.Module):
    """The vectors of a vocabulary in clusters: one table and no projections where divisor is 1."""

    padded_size: int
    """Rows of the vocabulary, padding included."""

    width: int
    """The model's width, D."""

    cutoffs: tuple[int, ...]
    """First ids of the rarer clusters."""

    divisor: int
    """Factor by which each cluster's vectors are narrower than those of the cluster before."""

    std: float
    """Standard deviation of initial vectors."""

    projection_std: float
    """Standard deviation of initial projections."""

    dtype: str
    """Of the vectors that are returned."""

    param_dtype: str
    """Of the tables."""

    def setup(self):
        """Create parameters and submodules."""
        dtype = jnp.dtype(self.param_dtype)
        init = logical(nn.initializers.normal(self.std), ("vocab", "embed"))
        ranges = bounds(self.cutoffs, self.padded_size)
        if self.divisor == 1:
            table = self.param("table", init, (self.padded_size, self.width), dtype)
            # Slices of one parameter: the checkpoint is that of a model without clusters.
            self.table = tuple(Cluster(first, table[first:last], None) for first, last in ranges)
            return
        project = logical(nn.initializers.normal(self.projection_std), (None, "embed"))
        clusters = []
        for i, width in enumerate(widths(self.width, self.cutoffs, self.divisor)):
            first, last = ranges[i]
            table = self.param(f"table_{i}", init, (last - first, width), dtype)
            projection = self.param(f"projection_{i}", project, (width, self.width), dtype)
            clusters.append(Cluster(first, table, projection))
        self.table = tuple(clusters)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look up the vectors of ids [...], [..., D]."""
        dtype = jnp.dtype(self.dtype)
        total = 0
        for cluster in self.table:
            # Every cluster looks up every token, and those that are not its own count as zero: shapes stay
            # fixed.
            row = tokens - cluster.begin
            is_inside = (row >= 0) & (row < cluster.table.shape[0])
            x = jnp.take(cluster.table, jnp.where(is_inside, row, 0), axis=0).astype(dtype)
            if cluster.projection is not None:
                x = x @ cluster.projection.astype(dtype)
            total = total + jnp.where(is_inside[..., None], x, 0)
        assert isinstance(total, jax.Array)
        return constrain(total, ("batch", "sequence", "activation_embed"))


class AdaptiveOutput(nn.Module):
    """The parameters of an adaptive softmax that are not tied to the input.

    As in Transformer-XL's code for WikiText-103, tied outputs share all tables, and all projections but the
    first.
    """

    padded_size: int
    """Rows of the vocabulary, padding included."""

    vocab_size: int
    """Ids from here on are padding."""

    width: int
    """The model's width, D."""

    cutoffs: tuple[int, ...]
    """First ids of the rarer clusters."""

    divisor: int
    """Factor by which each cluster's vectors are narrower than those of the cluster before."""

    tied: bool
    """Whether the tables are those of the input."""

    bias: bool
    """Whether ids have biases."""

    std: float
    """Standard deviation of initial values."""

    dtype: str
    """Of the computation."""

    param_dtype: str
    """Of the parameters."""

    def setup(self):
        """Create parameters and submodules."""
        dtype = jnp.dtype(self.param_dtype)
        count = len(self.cutoffs)
        zeros = nn.initializers.zeros_init()
        init = nn.initializers.normal(self.std)
        self.gates = self.param("gates", logical(zeros, (None, "embed")), (count, self.width), dtype)
        self.gate_bias = self.param("gate_bias", logical(zeros, (None,)), (count,), dtype)
        if self.bias:
            self.ids_bias = self.param("bias", logical(zeros, ("vocab",)), (self.padded_size,), dtype)
        if not self.tied:
            self.own = ClusterTables(
                padded_size=self.padded_size,
                width=self.width,
                cutoffs=self.cutoffs,
                divisor=self.divisor,
                std=self.std,
                projection_std=self.std,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
        elif self.divisor > 1:
            shape = (self.width, self.width)
            self.projection = self.param("projection", logical(init, (None, "embed")), shape, dtype)

    def __call__(self, tables: tuple[Cluster, ...]) -> AdaptiveUnembedding:
        """Return the output over `tables`, those of the input, where tied; else over its own."""
        clusters = tables if self.tied else self.own.table
        if self.tied and self.divisor > 1:
            # The first projection alone is not tied: a frequent id has its own for the output.
            clusters = (clusters[0]._replace(projection=self.projection), *clusters[1:])
        ranges = bounds(self.cutoffs, self.padded_size)
        biases = tuple(self.ids_bias[first:last] if self.bias else None for first, last in ranges)
        return AdaptiveUnembedding(clusters, biases, self.gates, self.gate_bias, self.vocab_size)


class ClusterLogits(NamedTuple):
    """The logits of one cluster, and what makes log-probabilities of them."""

    begin: int
    """First id."""

    logits: jax.Array
    """float32[..., ids], -1e9 on the padding."""

    offset: jax.Array
    """float32[...]: log-probability = logit + offset."""


def cluster_logits(hidden: jax.Array, unembedding: AdaptiveUnembedding) -> list[ClusterLogits]:
    """Compute log p(id) = log p(cluster) + log p(id | cluster) as logits and an offset, cluster by cluster.

    Args:
        hidden: float[..., D].
        unembedding: the output kernels.

    Returns:
        One entry for each cluster.
    """
    first = unembedding.clusters[0]
    # Clusters are further entries of the first softmax: one product computes ids and clusters.
    kernel = jnp.concatenate([first.table, unembedding.gates.astype(first.table.dtype)])
    head = contract(_narrowed(hidden, first), kernel, 1, outputs_first=True, dtype=jnp.float32)
    num_frequent = first.table.shape[0]
    shortlist = head[..., :num_frequent]
    gates = head[..., num_frequent:] + unembedding.gate_bias.astype(jnp.float32)
    bias = unembedding.biases[0]
    if bias is not None:
        shortlist = shortlist + bias.astype(jnp.float32)
    log_z = jax.nn.logsumexp(jnp.concatenate([shortlist, gates], axis=-1), axis=-1)
    results = [ClusterLogits(0, shortlist, -log_z)]
    for i, cluster in enumerate(unembedding.clusters[1:]):
        y = contract(_narrowed(hidden, cluster), cluster.table, 1, outputs_first=True, dtype=jnp.float32)
        bias = unembedding.biases[i + 1]
        if bias is not None:
            y = y + bias.astype(jnp.float32)
        # Only the last cluster can hold padding.
        is_id = cluster.begin + jnp.arange(y.shape[-1]) < unembedding.vocab_size
        y = jnp.where(is_id, y, MASKED)
        log_gate = gates[..., i] - log_z
        results.append(ClusterLogits(cluster.begin, y, log_gate - jax.nn.logsumexp(y, axis=-1)))
    return results


def log_probabilities(hidden: jax.Array, unembedding: AdaptiveUnembedding) -> jax.Array:
    """Compute float32[..., padded vocabulary] whose exponentials sum to one; -1e9 and less on the padding."""
    pieces = [part.logits + part.offset[..., None] for part in cluster_logits(hidden, unembedding)]
    return jnp.concatenate(pieces, axis=-1)


def token_losses(
    hidden: jax.Array, unembedding: AdaptiveUnembedding, targets: jax.Array, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute what losses.token_losses does; log Z is that of the softmax over frequent ids and clusters.

    Args:
        hidden: float[..., D].
        unembedding: the output kernels.
        targets: int[...].
        label_smoothing: fraction of the target spread over the vocabulary.

    Returns:
        (cross-entropy, log Z, whether the likeliest id is the target), float32[...] each.
    """
    clusters = cluster_logits(hidden, unembedding)
    target: jax.Array | float = 0.0
    total: jax.Array | float = 0.0
    best = jnp.full(targets.shape, -jnp.inf)
    for begin, y, offset in clusters:
        ids = begin + jnp.arange(y.shape[-1])
        is_target = ids == targets[..., None]
        is_id = ids < unembedding.vocab_size
        # A comparison and a sum shard over the vocabulary; a gather would collect the logits first.
        target += jnp.sum(jnp.where(is_target, y + offset[..., None], 0.0), axis=-1)
        best = jnp.maximum(best, jnp.max(y, axis=-1) + offset)
        if label_smoothing:
            total += jnp.sum(jnp.where(is_id, y + offset[..., None], 0.0), axis=-1)
    assert isinstance(target, jax.Array)
    loss = -target
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * total / unembedding.vocab_size
    return loss, -clusters[0].offset, target >= best


def _narrowed(hidden: jax.Array, cluster: Cluster) -> jax.Array:
    """Project hidden states to the width of a cluster's vectors."""
    if cluster.projection is None:
        return hidden
    return contract(hidden, cluster.projection, 1, outputs_first=True)
