"""From ids to vectors and back: the token table, what is added to it, and the output kernel."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.adaptive import AdaptiveUnembedding, log_probabilities
from tlx.nn.config import BlockConfig
from tlx.nn.dropout import dropout
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.nn.position import sinusoid
from tlx.parallel.sharding import constrain, logical

# Outside any layer, so that the numbers may repeat those of block.py.
EMBEDDING, FINAL = 0, 1


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """The token table and what is added before the first layer."""

    width: int = 0  # width of the tables, projected to the model's (ALBERT, ELECTRA); 0: the same
    num_types: int = 0  # rows of the segment-type table (BERT: 2)
    num_languages: int = 0  # rows of the table of languages (XLM)
    norm: bool = False  # normalise the sum (BERT)
    conv_kernel_size: int = (
        0  # places that one over the embeddings, joining the first layer, reads (DeBERTa v2)
    )
    scale: bool = False  # times sqrt(width) (the original Transformer)
    cutoffs: tuple[int, ...] = ()  # first ids of rarer clusters: adaptive input and softmax (Transformer-XL)
    divisor: int = 1  # of a cluster's width from that before; 1: one table, and only the softmax is adaptive


class Unembedding(NamedTuple):
    """What turns hidden states into logits: scale * h kernel^T + bias, capped."""

    kernel: jax.Array  # [padded vocabulary, D]
    bias: jax.Array | None  # [padded vocabulary]
    scale: float
    vocab_size: int  # ids beyond it are padding
    softcap: float = 0.0  # c tanh(logits / c); 0: no cap

    @property
    def num_rows(self) -> int:
        """Ids, padding among them."""
        return self.kernel.shape[0]


def logits(hidden: jax.Array, unembedding: Unembedding | AdaptiveUnembedding) -> jax.Array:
    """float32[..., padded vocabulary], -1e9 on the padding; log-probabilities of an adaptive softmax."""
    if isinstance(unembedding, AdaptiveUnembedding):
        return log_probabilities(hidden, unembedding)
    kernel = unembedding.kernel.astype(hidden.dtype)
    y = jax.lax.dot_general(
        hidden, kernel, (((hidden.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    if unembedding.scale != 1.0:
        y = y * unembedding.scale
    if unembedding.bias is not None:
        y = y + unembedding.bias.astype(jnp.float32)
    if unembedding.softcap:
        y = unembedding.softcap * jnp.tanh(y / unembedding.softcap)
    padded = kernel.shape[0]
    if padded == unembedding.vocab_size:
        return y
    return jnp.where(jnp.arange(padded) < unembedding.vocab_size, y, -1e9)


class TokenTable(nn.Module):
    """The embedding of every id of the padded vocabulary, [V, E], and of `prompt` ids behind it."""

    padded_size: int
    width: int
    std: float
    dtype: str
    param_dtype: str
    prompt: int = 0

    def setup(self):
        init = logical(nn.initializers.normal(self.std), ("vocab", "embed"))
        shape = (self.padded_size, self.width)
        self.table = self.param("table", init, shape, jnp.dtype(self.param_dtype))
        if self.prompt:
            init = logical(nn.initializers.normal(self.std), (None, "embed"))
            shape = (self.prompt, self.width)
            self.prompt_table = self.param("prompt", init, shape, jnp.dtype(self.param_dtype))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        if self.prompt:
            last = self.padded_size - 1
            own = jnp.take(self.prompt_table, jnp.maximum(tokens - last - 1, 0), axis=0)
            x = jnp.take(self.table, jnp.minimum(tokens, last), axis=0)
            x = jnp.where((tokens > last)[..., None], own, x)
        else:
            x = jnp.take(self.table, tokens, axis=0)
        x = x.astype(jnp.dtype(self.dtype))
        return constrain(x, ("batch", "sequence", "activation_embed"))


class InputEmbedding(nn.Module):
    """Token vectors plus positions and types, normalised, dropped out and projected: what layer 0 reads."""

    cfg: BlockConfig
    embedding: EmbeddingConfig

    @nn.compact
    def __call__(
        self,
        x_BTE: jax.Array,
        positions_BT: jax.Array,
        types_BT: jax.Array | None,
        keys_B: jax.Array | None,
        languages_BT: jax.Array | None = None,
        *,
        tables_only: bool = False,
    ) -> jax.Array:
        """[B, T, D]; with `tables_only` the sum, normalised, as another stack can read it too [B, T, E]."""
        cfg, part = self.cfg, self.embedding
        width, dtype = x_BTE.shape[-1], x_BTE.dtype
        if part.scale:
            x_BTE = x_BTE * jnp.asarray(width**0.5, dtype)
        position = cfg.position
        if position.kind == "learned":
            table = self._table("positions", position.max_length + position.offset, width)
            x_BTE = x_BTE + jnp.take(table, positions_BT + position.offset, axis=0).astype(dtype)
        elif position.kind == "sinusoidal":
            x_BTE = x_BTE + sinusoid(positions_BT, width, position.theta, position.sinusoid_layout).astype(
                dtype
            )
        if part.num_types:
            types = jnp.zeros_like(positions_BT) if types_BT is None else types_BT
            x_BTE = x_BTE + jnp.take(self._table("types", part.num_types, width), types, axis=0).astype(dtype)
        if part.num_languages:
            table = self._table("languages", part.num_languages, width)
            if languages_BT is not None:
                x_BTE = x_BTE + jnp.take(table, languages_BT, axis=0).astype(dtype)
        if part.norm:
            x_BTE = Norm(cfg.norm, width, cfg.param_dtype, name="norm")(x_BTE)
        if tables_only:
            return x_BTE
        x_BTE = dropout(x_BTE, cfg.dropout, keys_B, EMBEDDING)
        if width == cfg.width:
            return x_BTE
        names = (None, "embed")
        projection = Linear(
            (width,), (cfg.width,), names, cfg.std(width), True, cfg.dtype, cfg.param_dtype, name="projection"
        )
        return projection(x_BTE)

    def _table(self, name: str, rows: int, width: int) -> jax.Array:
        init = logical(nn.initializers.normal(self.cfg.init.embedding_stddev), (None, "embed"))
        return self.param(name, init, (rows, width), jnp.dtype(self.cfg.param_dtype))
