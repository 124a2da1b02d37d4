"""From ids to vectors and back: the token table, what is added to it, and the output kernel."""

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.tree import is_quantized
from tlx.nn import weight_formats
from tlx.nn.adaptive import AdaptiveUnembedding, log_probabilities
from tlx.nn.config import BlockConfig, QuantizationConfig
from tlx.nn.dropout import EMBEDDING, dropout
from tlx.nn.fake_quantized import fake_weights
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.nn.position import sinusoid
from tlx.nn.products import contract
from tlx.parallel.sharding import constrain, logical


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """The token table and what is added before the first layer."""

    width: int = 0
    """Width of the tables, projected to the model's width (ALBERT, ELECTRA); 0: model.width, no
    projection."""

    neighbors: bool = False
    """Project the vectors of the next, this and the last token, joined, to the model's width before positions
    and types are added (MobileBERT)."""

    encoder_table: bool = False
    """Whether the encoder of an encoder-decoder has a token table of its own (T5Gemma)."""

    num_types: int = 0
    """Rows of the table of segment types (BERT: 2); 0: no table."""

    num_languages: int = 0
    """Rows of the table of languages (XLM); 0: no table."""

    norm: bool = False
    """Normalise the sum of the tables (BERT)."""

    decoder_norm: Literal["sum", "tokens"] = "sum"
    """Input of that norm in the decoder of an encoder-decoder: the sum, or token vectors alone, which are not
    scaled and to which positions are added later (Blenderbot small)."""

    conv_kernel_size: int = 0
    """Kernel size, in positions, of a convolution over the embeddings whose output joins the first layer's
    (DeBERTa v2); 0: none."""

    conv_activation: Literal["", "gelu", "gelu_tanh", "relu", "silu", "tanh"] = ""
    """Activation of that convolution; "": feedforward.activation."""

    scale: bool = False
    """Multiply token vectors by sqrt(width) (the original Transformer)."""

    multiplier: float = 1.0
    """Multiply token vectors by this (Granite)."""

    per_layer_dim: int = 0
    """Size of the vectors that each layer of a decoder reads of the tokens besides the stream, from a second table
    (Gemma 3n, Gemma 4): see nn/per_layer.py; 0: there is no such table."""

    cutoffs: tuple[int, ...] = ()
    """First ids of clusters of rarer tokens, rising: adaptive input and softmax (Transformer-XL); (): one
    table."""

    divisor: int = 1
    """Each cluster's vectors are this many times narrower than those of the cluster before; 1: one table,
    and only the softmax is adaptive."""


class Unembedding(NamedTuple):
    """The output kernel: logits = cap(scale * h kernel^T + bias)."""

    kernel: jax.Array
    """[padded vocabulary, D]; a StoredMatrix where it is in fewer bits."""

    bias: jax.Array | None
    """[padded vocabulary]; None: no bias."""

    scale: float
    """Multiplies the products."""

    vocab_size: int
    """Ids from here on are padding."""

    softcap: float = 0.0
    """c of cap(x) = c tanh(x / c); 0: no cap."""

    @property
    def num_rows(self) -> int:
        """Number of ids, padding included."""
        return self.kernel.shape[0]


def logits(hidden: jax.Array, unembedding: Unembedding | AdaptiveUnembedding) -> jax.Array:
    """Compute logits over the padded vocabulary; log-probabilities of an adaptive softmax.

    Returns:
        float32[..., padded vocabulary], -1e9 on the padding.
    """
    if isinstance(unembedding, AdaptiveUnembedding):
        return log_probabilities(hidden, unembedding)
    kernel: Any = unembedding.kernel
    scale_V = None
    if is_quantized(kernel):
        # Scales multiply the logits: the kernel, as large as a table, is never there in full.
        scale_V = kernel.scale[:, 0].astype(jnp.float32)
        kernel = kernel.qvalue
    # Accumulated and kept in float32: a softmax over bfloat16 logits loses accuracy.
    y = contract(hidden, kernel, 1, outputs_first=True, dtype=jnp.float32)
    if scale_V is not None:
        y = y * scale_V
    if unembedding.scale != 1.0:
        y = y * unembedding.scale
    if unembedding.bias is not None:
        y = y + unembedding.bias.astype(jnp.float32)
    if unembedding.softcap:
        y = unembedding.softcap * jnp.tanh(y / unembedding.softcap)
    num_rows = kernel.shape[0]
    if num_rows == unembedding.vocab_size:
        return y
    # Padding ids have no probability. Not -inf, whose product with a weight of 0 is NaN.
    return jnp.where(jnp.arange(num_rows) < unembedding.vocab_size, y, -1e9)


class TokenTable(nn.Module):
    """The vectors of the ids of the padded vocabulary, [V, E], and of `prompt` trained ids after it."""

    padded_size: int
    """Rows of the table, a multiple of model.vocab_multiple."""

    width: int
    """Size of the vectors, E."""

    std: float
    """Standard deviation of initial values."""

    dtype: str
    """Of the vectors that are returned."""

    param_dtype: str
    """Of the table."""

    prompt: int = 0
    """Number of further ids with vectors of their own (prompt tuning)."""

    quantization: QuantizationConfig = QuantizationConfig()
    """Quantisation of the vectors that are looked up."""

    def setup(self):
        """Create parameters and submodules."""
        dtype = jnp.dtype(self.param_dtype)
        init = logical(nn.initializers.normal(self.std), ("vocab", "embed"), (-1,))
        self.table = weight_formats.param(self, "table", init, (self.padded_size, self.width), dtype)
        if self.prompt:
            init = logical(nn.initializers.normal(self.std), (None, "embed"))
            self.prompt_table = self.param("prompt", init, (self.prompt, self.width), dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look up the vectors of ids [...], [..., E]."""
        # Of the table as it is looked up: the output kernel that is tied to it is not quantised.
        table: jax.Array = self.table
        part = self.quantization
        if part.bits:
            table = fake_weights(table, part.table_bits or part.bits, part.groups)
        if self.prompt:
            # Two tables, so that the vocabulary's keeps its shape and its sharding.
            last = self.padded_size - 1
            prompt = jnp.take(self.prompt_table, jnp.maximum(tokens - last - 1, 0), axis=0)
            x = weight_formats.take_rows(table, jnp.minimum(tokens, last))
            x = jnp.where((tokens > last)[..., None], prompt, x)
        else:
            x = weight_formats.take_rows(table, tokens)
        x = x.astype(jnp.dtype(self.dtype))
        return constrain(x, ("batch", "sequence", "activation_embed"))


class InputEmbedding(nn.Module):
    """Token vectors plus positions and types, normalised, dropped out and projected to the model's width."""

    cfg: BlockConfig
    """The stack's layer."""

    embedding: EmbeddingConfig
    """Tables that are added."""

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
        """Compute what the first layer reads.

        Args:
            x_BTE: token vectors.
            positions_BT: int[B, T], positions inside the documents.
            types_BT: int[B, T], segment types; None: 0 everywhere.
            keys_B: one PRNG key for each row; None: no dropout.
            languages_BT: int[B, T], languages; None: no language vector.
            tables_only: stop after the norm of the sum, which another stack can read too.

        Returns:
            float[B, T, D]; [B, T, E] with `tables_only`.
        """
        cfg = self.cfg
        part = self.embedding
        position = cfg.position
        width = x_BTE.shape[-1]
        dtype = x_BTE.dtype
        is_tokens_norm = part.norm and part.decoder_norm == "tokens" and cfg.cross
        if is_tokens_norm:
            x_BTE = Norm(cfg.norm, width, cfg.param_dtype, name="norm")(x_BTE)
        elif part.scale:
            x_BTE = x_BTE * jnp.asarray(width**0.5, dtype)
        if part.multiplier != 1.0:
            x_BTE = x_BTE * jnp.asarray(part.multiplier, dtype)
        if part.neighbors:
            x_BTE = self._projection("neighbors", 3 * width)(with_neighbors(x_BTE))
            width = cfg.width
        if position.kind == "learned" or position.absolute:
            table = self._table("positions", position.max_length + position.offset, width)
            x_BTE = x_BTE + jnp.take(table, positions_BT + position.offset, axis=0).astype(dtype)
        elif position.kind == "sinusoidal":
            numbers_BT = positions_BT + position.sinusoid_offset
            vectors = sinusoid(numbers_BT, width, position.theta, position.sinusoid_layout)
            x_BTE = x_BTE + vectors.astype(dtype)
        if part.num_types:
            types = jnp.zeros_like(positions_BT) if types_BT is None else types_BT
            table = self._table("types", part.num_types, width)
            x_BTE = x_BTE + jnp.take(table, types, axis=0).astype(dtype)
        if part.num_languages:
            # Created even where no languages are given, so that parameters depend on the config alone.
            table = self._table("languages", part.num_languages, width)
            if languages_BT is not None:
                x_BTE = x_BTE + jnp.take(table, languages_BT, axis=0).astype(dtype)
        if part.norm and not is_tokens_norm:
            x_BTE = Norm(cfg.norm, width, cfg.param_dtype, name="norm")(x_BTE)
        if tables_only:
            return x_BTE
        x_BTE = dropout(x_BTE, cfg.dropout, keys_B, EMBEDDING)
        # Narrow tables are projected after norm and dropout (ALBERT, ELECTRA).
        if width == cfg.width:
            return x_BTE
        return self._projection("projection", width)(x_BTE)

    def _projection(self, name: str, width: int) -> Linear:
        """The map of vectors of `width` to the model's width."""
        cfg = self.cfg
        return Linear(
            inputs=(width,),
            outputs=(cfg.width,),
            names=(None, "embed"),
            std=cfg.std(width),
            bias=True,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            quantization=cfg.quantization,
            name=name,
        )

    def _table(self, name: str, rows: int, width: int) -> jax.Array:
        init = logical(nn.initializers.normal(self.cfg.init.embedding_stddev), (None, "embed"))
        table = self.param(name, init, (rows, width), jnp.dtype(self.cfg.param_dtype))
        part = self.cfg.quantization
        return fake_weights(table, part.bits, part.groups) if part.bits else table


def with_neighbors(x_BTE: jax.Array) -> jax.Array:
    """Join the vectors of the next, this and the last position of a row, float[B, T, 3 E]; beyond its ends are zeros.

    Padding and packed documents that lie next to each other are neighbours as well.
    """
    next_BTE = jnp.pad(x_BTE[:, 1:], ((0, 0), (0, 1), (0, 0)))
    last_BTE = jnp.pad(x_BTE[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.concatenate([next_BTE, x_BTE, last_BTE], axis=-1)
