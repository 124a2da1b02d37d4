"""Heads that an objective puts on hidden states and that transfer leaves behind."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.nn.embed import Unembedding
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.parallel.sharding import logical


class MaskedHead(nn.Module):
    """BERT's MLM transform: dense, activation, norm (none in XLM), then the token table and its own bias."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, hidden: jax.Array, unembedding: Unembedding) -> tuple[jax.Array, Unembedding]:
        """(transformed hidden states [..., E], unembedding over the model's table with this bias)."""
        cfg, block = self.cfg, self.cfg.block("encoder")
        if cfg.head.transform:
            width, names = unembedding.kernel.shape[1], ("embed", None)
            rest = (block.std(cfg.width), cfg.head.transform_bias, block.dtype, cfg.param_dtype)
            hidden = Linear((cfg.width,), (width,), names, *rest, name="dense")(hidden)
            hidden = ACTIVATIONS[cfg.head.activation or cfg.feedforward.activation](hidden)
            hidden = Norm(cfg.norm, width, cfg.param_dtype, name="norm")(hidden)
        zeros = logical(nn.initializers.zeros_init(), ("vocab",))
        bias = self.param("bias", zeros, unembedding.kernel.shape[:1], jnp.dtype(cfg.param_dtype))
        return hidden, unembedding._replace(bias=bias)


class PositionTable(nn.Module):
    """DeBERTa's vectors of absolute places, which no layer but the mask decoder reads: [max_length, D]."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, positions_BT: jax.Array) -> jax.Array:
        """[B, T, D]."""
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.init.embedding_stddev), (None, "embed"))
        shape = (cfg.position.max_length, cfg.width)
        table = self.param("table", init, shape, jnp.dtype(cfg.param_dtype))
        return jnp.take(table, positions_BT, axis=0).astype(jnp.dtype(cfg.block("encoder").dtype))


class PairHead(nn.Module):
    """BERT's pooler, tanh of a dense layer on the first token, and a classifier of two segments.

    Next-sentence prediction and sentence order: class 0 is the true order.
    """

    cfg: ModelConfig
    classify: bool = True

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Logits [B, 2]; the pooled vector [B, D] without the classifier."""
        cfg, block = self.cfg, self.cfg.block("encoder")
        rest = (block.std(cfg.width), True, block.dtype, cfg.param_dtype)
        names = ("embed", None)
        pooled_BD = Linear((cfg.width,), (cfg.width,), names, *rest, name="pooler")(hidden_BTD[:, 0])
        pooled_BD = jnp.tanh(pooled_BD)
        if not self.classify:
            return pooled_BD
        return Linear((cfg.width,), (2,), names, *rest, name="classifier")(pooled_BD)


class DetectionHead(nn.Module):
    """ELECTRA's discriminator: a logit for each token, above 0 where it was replaced."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Logits [B, T]."""
        cfg, block = self.cfg, self.cfg.block("encoder")
        rest = (block.std(cfg.width), True, block.dtype, cfg.param_dtype)
        dense = Linear((cfg.width,), (cfg.width,), ("embed", None), *rest, name="dense")
        hidden_BTD = ACTIVATIONS[cfg.feedforward.activation](dense(hidden_BTD))
        return Linear((cfg.width,), (1,), ("embed", None), *rest, name="classifier")(hidden_BTD)[..., 0]
