"""A language model together with the pretraining heads that a checkpoint holds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base import tree
from tlx.models.bilstm import BiLSTM
from tlx.models.config import ModelConfig
from tlx.models.heads import DetectionHead, MaskedHead, PairHead
from tlx.models.transformer import Transformer
from tlx.models.two_stream import Memory, TwoStream, empty_memory
from tlx.nn import embed
from tlx.parallel import unbox


class PretrainingHeads(nn.Module):
    """The parameters "heads/...": those that `names` ("heads/mlm", "heads/nsp/pooler") ask for."""

    cfg: ModelConfig
    names: tuple[str, ...]

    @nn.compact
    def __call__(self, hidden: jax.Array, unembedding: embed.Unembedding) -> dict[str, jax.Array]:
        """{name: logits} of each head."""
        found = {}
        for name in sorted({path.split("/")[1] for path in self.names}):
            if name == "mlm":
                logits = embed.logits(*MaskedHead(self.cfg, name=name)(hidden, unembedding))
                found[name] = logits[..., : unembedding.vocab_size]
            elif name == "rtd":
                found[name] = DetectionHead(self.cfg, name=name)(hidden)
            else:
                found[name] = PairHead(self.cfg, f"heads/{name}" in self.names, name=name)(hidden)
        return found


class Network(nn.Module):
    """What a checkpoint of a family computes: hidden states, and logits of every head."""

    cfg: ModelConfig
    head_names: tuple[str, ...] = ()

    def setup(self):
        kind = {"two_stream": TwoStream, "bilstm": BiLSTM}.get(self.cfg.kind, Transformer)
        self.lm = kind(self.cfg, name="model")
        if self.head_names:
            self.heads = PretrainingHeads(self.cfg, self.head_names)

    def __call__(self, batch: dict[str, jax.Array], memory: Memory | None = None) -> dict[str, jax.Array]:
        """{"hidden": [B, T, D], "logits": [B, T, V] (not of an encoder's), head: its logits}.

        "encoded": [B, S, D] of an encoder-decoder. Of two streams `hidden` is the content stream, which sees
        the whole row and `memory` where the batch has no order; "logits" are the query stream's [B, P, V]
        where it has `target_positions`, else the content stream's. Of a bilstm "layers" [L + 1, B, T, 2 D].
        """
        if self.cfg.kind == "bilstm":
            return {"layers": self.lm(batch)}
        if self.cfg.kind == "two_stream":
            return self._two_streams(batch, memory)
        hidden = self.lm(batch)
        found = {"hidden": hidden}
        if self.cfg.kind == "encoder_decoder":
            found["encoded"] = self.lm.encode(batch)
        if self.cfg.kind != "encoder" or not self.head_names:
            found["logits"] = self.lm.logits(hidden)
        if self.head_names:
            found |= self.heads(hidden, self.lm.unembedding())
        return found

    def _two_streams(self, batch: dict[str, jax.Array], memory: Memory | None) -> dict[str, jax.Array]:
        tokens = batch["tokens"]
        everything = {
            "rank": jnp.full_like(tokens, -1),
            "query_rank": jnp.zeros_like(tokens),
            "target_positions": tokens[:, :0],
        }
        memory = empty_memory(self.cfg, len(tokens), 0) if memory is None else memory
        content, query, _ = self.lm(everything | batch, memory, 0)
        predicted = query if "target_positions" in batch else content
        return {"hidden": content, "logits": self.lm.logits(predicted)}


def boxed_params(cfg: ModelConfig, heads: tuple[str, ...] = ()) -> Any:
    """The parameters {"model": ..., "heads": ...}, abstract, in boxes with their logical names."""
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    parts = ("tokens", "positions", "segments")
    prefixes = ("encoder_", "decoder_") if cfg.kind == "encoder_decoder" else ("",)
    batch = {prefix + part: ids for prefix in prefixes for part in parts}
    if cfg.kind == "bilstm":
        longest = max(size for size, _ in cfg.recurrent.characters.filters)
        batch["characters"] = jax.ShapeDtypeStruct((1, 8, longest), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Network(cfg, tuple(heads)).init, key, batch)["params"]


def abstract_params(cfg: ModelConfig, heads: tuple[str, ...] = ()) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: shape and type} of the parameters, without making them."""
    return tree.flatten(unbox(boxed_params(cfg, heads)))
