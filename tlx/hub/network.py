"""A language model together with the pretraining heads that a checkpoint holds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base import tree
from tlx.hub.task_head import TaskHead
from tlx.models.bilstm import BiLSTM
from tlx.models.config import ModelConfig
from tlx.models.heads import DetectionHead, MaskedHead, PairHead, TextHead
from tlx.models.transformer import Transformer
from tlx.models.two_stream import Memory, TwoStream, empty_memory
from tlx.nn import embed
from tlx.parallel import unbox


class PretrainingHeads(nn.Module):
    """The pretraining heads of a checkpoint, whose parameters are under "heads/"."""

    cfg: ModelConfig
    """The model config."""
    names: tuple[str, ...]
    """Parameter paths of the heads, or of a part of one ("heads/mlm", "heads/nsp/pooler")."""

    @nn.compact
    def __call__(self, hidden: jax.Array, unembedding: embed.Unembedding) -> dict[str, jax.Array]:
        """Compute the logits of each head from the hidden states [B, T, D], as {name: logits}."""
        outputs = {}
        for name in sorted({path.split("/")[1] for path in self.names}):
            if name == "mlm":
                logits = embed.logits(*MaskedHead(self.cfg, name=name)(hidden, unembedding))
                outputs[name] = logits[..., : unembedding.vocab_size]
            elif name == "rtd":
                outputs[name] = DetectionHead(self.cfg, name=name)(hidden)
            else:
                # Without the whole head in `names`, only its pooler is a parameter.
                with_classifier = f"heads/{name}" in self.names
                outputs[name] = PairHead(self.cfg, with_classifier, name=name)(hidden)
        return outputs


class TaskHeads(nn.Module):
    """The head of a task, whose parameters are under "heads/"."""

    cfg: ModelConfig
    """The model config."""
    head: TaskHead
    """The head."""

    @nn.compact
    def __call__(self, hidden_BTD: jax.Array) -> jax.Array:
        """Compute its outputs for rows without padding: [B, C] of texts, [B, T, C] of tokens and spans."""
        if self.head.kind == "sequence":
            # What a task reads of a row: tasks/shared/frames.py.
            index = 0 if self.cfg.kind == "encoder" else -1
            hidden = hidden_BTD.mean(axis=1) if self.head.mean else hidden_BTD[:, index]
        else:
            hidden = hidden_BTD
        shape = self.head.shape
        has_dense = shape.has_dense(self.cfg, per_token=self.head.kind != "sequence")
        return TextHead(self.cfg, self.head.outputs, has_dense, shape, name=self.head.task)(hidden)


class Network(nn.Module):
    """The network of a checkpoint: hidden states, and the logits of every head."""

    cfg: ModelConfig
    """The model config."""
    head_names: tuple[str, ...] = ()
    """Parameter paths of the pretraining heads; () for none."""
    task_head: TaskHead | None = None
    """The head of a task, in place of pretraining heads; None for none."""

    def setup(self):
        """Create the model, and the pretraining heads where there are any."""
        kind = {"two_stream": TwoStream, "bilstm": BiLSTM}.get(self.cfg.kind, Transformer)
        self.lm = kind(self.cfg, name="model")
        if self.task_head is not None:
            self.heads: Any = TaskHeads(self.cfg, self.task_head)
        elif self.head_names:
            self.heads = PretrainingHeads(self.cfg, self.head_names)

    def __call__(self, batch: dict[str, jax.Array], memory: Memory | None = None) -> dict[str, jax.Array]:
        """Compute {"hidden": [B, T, D], "logits": [B, T, V], head: its logits}.

        An encoder with heads has no "logits". An encoder-decoder also has "encoded" [B, S, D]. A bilstm has
        "layers" [L + 1, B, T, 2 D] only. With two streams, "hidden" is the content stream, which attends to
        the whole sequence and to `memory` unless the batch has an order; "logits" [B, P, V] are those of the
        query stream if the batch has `target_positions`, else those of the content stream.
        """
        if self.cfg.kind == "bilstm":
            return {"layers": self.lm(batch)}
        if self.cfg.kind == "two_stream":
            return self._two_streams(batch, memory)
        hidden = self.lm(batch)
        outputs = {"hidden": hidden}
        if self.cfg.kind == "encoder_decoder":
            outputs["encoded"] = self.lm.encode(batch)
        has_heads = bool(self.head_names) or self.task_head is not None
        if (self.cfg.kind != "encoder" or not has_heads) and not self.cfg.head.absent:
            outputs["logits"] = self.lm.logits(hidden)
        if self.task_head is not None:
            outputs[self.task_head.task] = self.heads(hidden)
        elif self.head_names:
            outputs |= self.heads(hidden, self.lm.unembedding())
        return outputs

    def _two_streams(self, batch: dict[str, jax.Array], memory: Memory | None) -> dict[str, jax.Array]:
        tokens = batch["tokens"]
        # Rank -1 for every token: the content stream attends to the whole sequence.
        full_attention = {
            "rank": jnp.full_like(tokens, -1),
            "query_rank": jnp.zeros_like(tokens),
            "target_positions": tokens[:, :0],
        }
        memory = empty_memory(self.cfg, len(tokens), 0) if memory is None else memory
        content, query, _ = self.lm(full_attention | batch, memory, 0)
        outputs = {"hidden": content}
        if self.task_head is not None:
            outputs[self.task_head.task] = self.heads(content)
        if not self.cfg.head.absent:
            predicted = query if "target_positions" in batch else content
            outputs["logits"] = self.lm.logits(predicted)
        return outputs


def boxed_params(cfg: ModelConfig, heads: tuple[str, ...] = (), task_head: TaskHead | None = None) -> Any:
    """Return the abstract parameters {"model": ..., "heads": ...}, boxed with their logical axis names.

    Args:
        cfg: The model config.
        heads: Parameter paths of the pretraining heads.
        task_head: The head of a task, in place of those; None for none.

    Returns:
        A tree of boxed jax.ShapeDtypeStructs.
    """
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    parts = ("tokens", "positions", "segments")
    prefixes = ("encoder_", "decoder_") if cfg.kind == "encoder_decoder" else ("",)
    batch = {prefix + part: ids for prefix in prefixes for part in parts}
    if cfg.kind == "bilstm":
        longest = max(size for size, _ in cfg.recurrent.characters.filters)
        batch["characters"] = jax.ShapeDtypeStruct((1, 8, longest), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Network(cfg, tuple(heads), task_head).init, key, batch)["params"]


def abstract_params(
    cfg: ModelConfig, heads: tuple[str, ...] = (), task_head: TaskHead | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return {path: shape and dtype} of the parameters, without allocating them; as `boxed_params`.

    Args:
        cfg: The model config.
        heads: Parameter paths of the pretraining heads.
        task_head: The head of a task, in place of those; None for none.

    Returns:
        {path: shape and dtype}.
    """
    return tree.flatten(unbox(boxed_params(cfg, heads, task_head)))
