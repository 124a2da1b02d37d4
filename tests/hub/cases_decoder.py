"""Decoders."""

from tests.hub.case import Case

GPT2 = {"vocab_size": 61, "n_positions": 30, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_inner": 40}
LOGITS = {"hidden": "hidden_states", "logits": "logits"}

CASES = {
    "gpt2": Case(
        "GPT2LMHeadModel", "GPT2Config", GPT2 | {"layer_norm_epsilon": 1e-4}, LOGITS, inputs="decoder"
    ),
    "gpt2-left": Case(
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2 | {"activation_function": "relu", "scale_attn_weights": False},
        LOGITS,
        inputs="decoder",
        padding="left",
    ),
}
