"""Layers of unlike heads and networks, shared keys, vectors of each layer: one function cached, packed, scanned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tests.models.test_transformer import build, cached_and_full, check_packed_documents, config, rows
from tests.run_directory import tiny_config, write_task_run
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.nn import cache as caches
from tlx.nn.config import AttentionConfig, ExecutionConfig, FeedForwardConfig, NormConfig
from tlx.nn.embed import EmbeddingConfig

ATTENTION = AttentionConfig(
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    qk_norm=True,
    value_norm=True,
    window_pattern=(4, 0),
    global_head_dim=16,
    global_kv_heads=1,
    global_tied_values=True,
    shared_layers=4,
)


def unlike(**changes):
    """A decoder of eight layers: two periods with keys of their own, and two that share the last of those."""
    changes = {
        "block_layout": "sandwich",
        "attention": ATTENTION,
        "feedforward": FeedForwardConfig(ff_dim=24, gated=True, shared_multiplier=2),
        "norm": NormConfig(kind="rmsnorm"),
        "embedding": EmbeddingConfig(per_layer_dim=6),
        "layer_scalars": True,
        "num_layers": 8,
    } | changes
    cfg = config(**changes)
    cfg.validate()
    return cfg


def test_entries_of_the_cache():
    """Of 12 and 16 numbers a token the divisor is 4: three entries for a layer with a window, four without."""
    layout = caches.layout(unlike().block("decoder"))
    assert layout.first == (0, 3, 7, 10, 7, 10, 7, 10)
    assert (layout.num_entries, layout.kv_heads, layout.head_dim) == (14, 2, 2)
    assert unlike().block("decoder").cached_dims == 2 * (12 + 16)
    plain = caches.layout(config(num_layers=3).block("decoder"))
    assert plain == caches.CacheLayout((0, 1, 2), 3, 2, 8)


@pytest.mark.slow
def test_cached_decoding_equals_the_full_pass():
    batch = rows(padding=3)
    model, params = build(unlike(), batch)
    blocks = params["decoder"]["blocks"]
    assert blocks["shared_attention"].keys() == {"query", "out", "query_norm"}
    assert blocks["global_attention"].keys() == {"query", "key", "out", "query_norm", "key_norm"}
    assert blocks["wide_feedforward"]["in"]["kernel"].shape == (4, 32, 48)
    cached, full = cached_and_full(model, params, batch, model.init_cache(2, 15), (6, 7, 8, 12))
    np.testing.assert_allclose(cached, full, atol=2e-5)


@pytest.mark.slow
def test_packed_documents_are_those_alone():
    check_packed_documents(unlike())


@pytest.mark.long
def test_scanned_equals_unrolled_and_rematerialised():
    batch = rows()

    def loss_and_gradient(execution):
        model, params = build(unlike(execution=execution), batch)
        loss = lambda params: jnp.sum(jnp.sin(model.apply({"params": params}, batch)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    whole = loss_and_gradient(ExecutionConfig(unroll=1))
    changed = loss_and_gradient(ExecutionConfig(unroll=8, remat="full"))
    for wanted, found in zip(jax.tree.leaves(whole), jax.tree.leaves(changed), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)
    # The number of a layer is the checkpoint's.
    assert not np.any(whole[1]["decoder"]["blocks"]["layer_scalar"])


@pytest.mark.long
def test_texts_of_a_run(tmp_path):
    """A run of such a decoder has initial values, and greedy tokens are the likeliest of the full pass."""
    values = to_dict(tiny_config("clm"))
    model = to_dict(unlike(num_layers=6, attention=dataclasses.replace(ATTENTION, shared_layers=2)))
    values["model"] |= {
        name: model[name]
        for name in (
            *("attention", "feedforward", "norm", "embedding", "position"),
            *("block_layout", "layer_scalars", "num_layers"),
        )
    }
    lm = tlx.load(write_task_run(tmp_path / "run", values))
    prompt = "def f(x):"
    text = lm.generate(prompt, max_tokens=6, temperature=0.0)
    tokens = [*lm.frame.named().prompt, *lm.tokenizer.encode(prompt)]
    for _ in range(6):
        tokens.append(int(lm.logits(np.array(tokens))[0, -1].argmax()))
    assert lm.tokenizer.decode(tokens[-6:]) == text


REFUSED = {
    "a layout": ({"block_layout": "pre"}, "only a decoder with block_layout = 'sandwich'"),
    "no keys": (
        {"attention": dataclasses.replace(ATTENTION, shared_layers=7)},
        "before these of model.num_layers = 8 must be a layer of each of their kinds",
    ),
    "heads": (
        {"attention": dataclasses.replace(ATTENTION, global_kv_heads=3)},
        "global_kv_heads = 3 does not divide num_heads = 4; choose 0 or one of 1, 2, 4",
    ),
    "no global heads": (
        {"attention": dataclasses.replace(ATTENTION, global_head_dim=0)},
        "need model.attention.global_head_dim",
    ),
    "a wide network": (
        {"attention": dataclasses.replace(ATTENTION, shared_layers=0)},
        "shared_multiplier = 2 must be 1, or more with attention.shared_layers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused(name):
    changes, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        unlike(**changes)
