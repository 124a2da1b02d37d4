"""Small models whose logits depend on every token, and what they are asked to continue."""

import functools

import jax
import jax.numpy as jnp

from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.transformer import Transformer
from tlx.nn.config import AttentionConfig, ExecutionConfig, InitConfig, NormConfig, PositionConfig
from tlx.parallel import unbox
from tlx.text import Vocabulary

VOCAB = Vocabulary(61, num_sentinels=4)
PROMPTS = [[5, 9, 7], [11], [8, 30, 31, 32, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52], [20, 21]]
SOURCES = [[33, 34, 35, 36], [40] * 20, [12], [50, 51]]


@functools.cache
def built(kind: str = "decoder", position: str = "rotary", **changes):
    """A small model whose logits depend on every token, and its parameters."""
    cfg = ModelConfig(
        kind=kind,
        vocab_size=changes.pop("vocab_size", 61),
        width=32,
        num_layers=2,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, window=changes.pop("window", 0)),
        position=PositionConfig(kind=position, max_length=64),
        init=InitConfig(stddev=0.3, embedding_stddev=0.3, scale_residual=False),
        head=HeadConfig(tied=False),  # a tied one repeats itself
        execution=ExecutionConfig(unroll=1),
        norm=NormConfig(kind=changes.pop("norm", "layernorm")),
        **changes,
    )
    lm = Transformer(cfg)
    batch = {}
    for prefix in ("encoder_", "decoder_") if kind == "encoder_decoder" else ("",):
        for name in ("tokens", "positions", "segments"):
            batch[prefix + name] = jnp.ones((1, 4), jnp.int32)
    init = jax.jit(functools.partial(lm.init, method=lambda lm, batch: lm.logits(lm(batch))))
    return lm, unbox(init(jax.random.key(0), batch)["params"])


@functools.partial(jax.jit, static_argnums=0)
def full_logits(lm, params, batch):
    hidden = lm.apply({"params": params}, batch)
    return lm.apply({"params": params}, hidden, method="logits")
