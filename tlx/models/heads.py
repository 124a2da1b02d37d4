"""Heads that an objective or a task puts on hidden states and that transfer leaves behind."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.nn import weight_formats
from tlx.nn.config import QuantizationConfig
from tlx.nn.dropout import dropout, fold
from tlx.nn.embed import Unembedding
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.parallel.sharding import logical

# Branch of a row's key, outside those of the layers.
_HEAD = 2**21


@dataclasses.dataclass(frozen=True)
class TaskHeadConfig:
    """Layers from the hidden states that a task reads to its outputs."""

    dense: Literal["auto", "yes", "no"] = "auto"
    """Whether a dense layer with an activation comes before the last layer; auto: where a row has one vector,
    in all models but decoders (BERT's pooler, which XLNet and BART have too)."""

    activation: Literal["tanh", "relu", "gelu", "gelu_tanh", "silu"] = "tanh"
    """Activation of the dense layer (DistilBERT: relu; ELECTRA and DeBERTa: gelu)."""

    dense_bias: bool = True
    """Whether the dense layer has a bias (ModernBERT: no)."""

    norm: bool = False
    """Whether the model's norm follows the activation (ModernBERT)."""

    bias: bool = True
    """Whether the last layer has a bias (GPT-2 and Llama: no)."""

    lstm_layers: int = 1
    """Layers of a bidirectional LSTM of the task's own between the mixed layers of a bilstm (ELMo) and the head; 0:
    none. Other models have none."""

    lstm_width: int = 200
    """Width of each direction of that LSTM."""

    def check(self) -> None:
        """Raise ConfigError for sizes that no LSTM has."""
        if self.lstm_layers < 0 or self.lstm_width < 1:
            raise ConfigError(
                f"objective.head.lstm_layers = {self.lstm_layers}, lstm_width = {self.lstm_width} must be 0 (none) "
                "or more, and 1 or more"
            )

    def has_dense(self, model: ModelConfig, per_token: bool) -> bool:
        """Return whether a dense layer comes first; by default not in decoders (Radford et al. 2018)."""
        automatic = model.kind != "decoder" and not per_token
        return {"auto": automatic, "yes": True, "no": False}[self.dense]


def _dense(cfg: ModelConfig, outputs: int, name: str, bias: bool = True, std: float = 0.0) -> Linear:
    """A dense layer from hidden states; `std` 0 is the model's own."""
    block = cfg.block("encoder")
    return Linear(
        inputs=(cfg.width,),
        outputs=(outputs,),
        names=("embed", None),
        std=std or block.std(cfg.width),
        bias=bias,
        dtype=block.dtype,
        param_dtype=cfg.param_dtype,
        # The last layer of a head stays as it is (Q8BERT).
        quantization=QuantizationConfig() if name == "classifier" else block.quantization,
        name=name,
    )


class HiddenTransform(nn.Module):
    """Dense layer, activation and norm between a decoder's hidden states and its output kernel."""

    cfg: ModelConfig
    """The model."""

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Return the transformed hidden states [..., D]."""
        cfg = self.cfg
        hidden = _dense(cfg, cfg.width, "dense", cfg.head.transform_bias)(hidden)
        hidden = ACTIVATIONS[cfg.head.activation or cfg.feedforward.activation](hidden)
        return Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(hidden)


class MaskedHead(nn.Module):
    """BERT's MLM transform: dense, activation, norm (none in XLM), then the token table and its own bias.

    Without transform and bias (EuroBERT) it has no parameters.
    """

    cfg: ModelConfig
    """The model."""

    @nn.compact
    def __call__(self, hidden: jax.Array, unembedding: Unembedding) -> tuple[jax.Array, Unembedding]:
        """Return hidden states transformed to [..., E], and the model's unembedding with this head's bias."""
        cfg = self.cfg
        if cfg.head.transform:
            width = unembedding.kernel.shape[1]
            hidden = _dense(cfg, width, "dense", cfg.head.transform_bias)(hidden)
            # Before the norm, as in BERT.
            hidden = ACTIVATIONS[cfg.head.activation or cfg.feedforward.activation](hidden)
            # MobileBERT has statistics here, whatever its layers have.
            kind = "layernorm" if cfg.norm.kind == "affine" else cfg.norm.kind
            norm = dataclasses.replace(cfg.norm, kind=kind)
            hidden = Norm(norm, width, cfg.param_dtype, name="norm")(hidden)
        if not cfg.head.masked_bias:
            return hidden, unembedding
        zeros = logical(nn.initializers.zeros_init(), ("vocab",))
        bias = self.param("bias", zeros, unembedding.kernel.shape[:1], jnp.dtype(cfg.param_dtype))
        return hidden, unembedding._replace(bias=bias)


class FutureHead(nn.Module):
    """A head that predicts a further token: a residual block h + SiLU(h W + b), then an output kernel.

    Cai et al. 2024 (Medusa), section 2.1.1. W is zero at first, and so is the difference of an own kernel to the
    model's: a head begins with the model's logits of the next token, as in the paper.
    """

    cfg: ModelConfig
    """The model."""

    own_output: bool
    """Whether the head has an output kernel of its own (Medusa), or the model's (Gloeckle et al. 2024)."""

    @nn.compact
    def __call__(self, hidden: jax.Array, unembedding: Unembedding) -> tuple[jax.Array, Unembedding]:
        """Return hidden states [..., D] of the further token, and the unembedding that they are read with."""
        cfg = self.cfg
        block = cfg.block("decoder")
        dense = Linear(
            inputs=(cfg.width,),
            outputs=(cfg.width,),
            names=("embed", None),
            std=0.0,
            bias=True,
            dtype=block.dtype,
            param_dtype=cfg.param_dtype,
            quantization=block.quantization,
            name="dense",
        )
        hidden = hidden + jax.nn.silu(dense(hidden))
        if not self.own_output:
            return hidden, unembedding
        kernel = weight_formats.dequantized(unembedding.kernel, block.dtype)
        zeros = logical(nn.initializers.zeros_init(), ("vocab", "embed"))
        difference = self.param("difference", zeros, kernel.shape, jnp.dtype(cfg.param_dtype))
        return hidden, unembedding._replace(kernel=kernel + difference.astype(kernel.dtype))


class PositionTable(nn.Module):
    """DeBERTa's vectors of absolute positions [max_length, D], which only the mask decoder reads."""

    cfg: ModelConfig
    """The model."""

    @nn.compact
    def __call__(self, positions_BT: jax.Array) -> jax.Array:
        """Look up the vectors of positions, [B, T, D]."""
        cfg = self.cfg
        init = logical(nn.initializers.normal(cfg.init.embedding_stddev), (None, "embed"))
        shape = (cfg.position.max_length, cfg.width)
        table = self.param("table", init, shape, jnp.dtype(cfg.param_dtype))
        return jnp.take(table, positions_BT, axis=0).astype(jnp.dtype(cfg.block("encoder").dtype))


class PairHead(nn.Module):
    """BERT's pooler, tanh of a dense layer on the first token (head.pooler), and a classifier of two segments.

    For next-sentence prediction and sentence order: class 0 is the true order.
    """

    cfg: ModelConfig
    """The model."""

    classify: bool = True
    """Whether there is a classifier after the pooler."""

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Compute logits [B, 2]; the pooled vector [B, D] without the classifier."""
        # Read at the first token, cls.
        pooled_BD = hidden_BTD[:, 0]
        if self.cfg.head.pooler:
            pooled_BD = jnp.tanh(_dense(self.cfg, self.cfg.width, "pooler")(pooled_BD))
        if not self.classify:
            return pooled_BD
        return _dense(self.cfg, 2, "classifier")(pooled_BD)


class DetectionHead(nn.Module):
    """ELECTRA's discriminator: a logit for each token, above 0 where it was replaced."""

    cfg: ModelConfig
    """The model."""

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Compute logits [B, T]."""
        cfg = self.cfg
        hidden_BTD = _dense(cfg, cfg.width, "dense")(hidden_BTD)
        hidden_BTD = ACTIVATIONS[cfg.feedforward.activation](hidden_BTD)
        return _dense(cfg, 1, "classifier")(hidden_BTD)[..., 0]


class TextHead(nn.Module):
    """A task's head: dropout and a linear map of hidden states, perhaps after a dense layer."""

    cfg: ModelConfig
    """The model."""

    outputs: int
    """Number of outputs."""

    pooled: bool
    """Whether a dense layer with an activation comes first."""

    shape: TaskHeadConfig = TaskHeadConfig()
    """Activation, norm and biases; `dense` is not read: `pooled` decides."""

    std: float = 0.0
    """Initial standard deviation of the last layer; 0 is the model's own."""

    @nn.compact
    def __call__(self, hidden: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Return float32 [..., outputs] of [B, ..., D]."""
        cfg = self.cfg
        keys_B = fold(keys_B, _HEAD)
        if self.pooled:
            hidden = _dense(cfg, cfg.width, "pooler", self.shape.dense_bias)(hidden)
            hidden = ACTIVATIONS[self.shape.activation](hidden)
            if self.shape.norm:
                hidden = Norm(cfg.norm, cfg.width, cfg.param_dtype, name="norm")(hidden)
        hidden = dropout(hidden, cfg.dropout, keys_B, 0)
        return _dense(cfg, self.outputs, "classifier", self.shape.bias, self.std)(hidden).astype(jnp.float32)
