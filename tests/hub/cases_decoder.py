"""Decoders."""

from tests.hub.case import Case

LOGITS = {"hidden": "hidden_states", "logits": "logits"}


def case(architecture: str, config_class: str, config: dict, **rest) -> Case:
    """A decoder's case."""
    return Case(architecture, config_class, config, LOGITS, inputs="decoder", **rest)


GPT2 = {"vocab_size": 61, "n_positions": 30, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_inner": 40}
GPT = {"vocab_size": 61, "n_positions": 30, "n_embd": 24, "n_layer": 2, "n_head": 3}
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
    "rms_norm_eps": 1e-4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 16,
}
NEOX = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
    "layer_norm_eps": 1e-4,
}
GEMMA = {
    "head_dim": 8,
    "num_hidden_layers": 3,
    "sliding_window": 4,
    "query_pre_attn_scalar": 5,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    },
}
CASES = {
    "gpt2": case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"layer_norm_epsilon": 1e-4}),
    "gpt2-left": case(
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2 | {"activation_function": "relu", "scale_attn_weights": False},
        padding="left",
    ),
    "gpt2-by-layer": case(
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2 | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    ),
    "gpt": case("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", GPT | {"layer_norm_epsilon": 1e-4}),
    "gpt-silu": case("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", GPT | {"afn": "silu"}),
    "ctrl": case("CTRLLMHeadModel", "CTRLConfig", GPT | {"dff": 40}),
    "neox": case(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        NEOX
        | {
            "hidden_act": "gelu_fast",
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        },
    ),
    "neox-sequential": case(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        NEOX | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True},
        padding="left",
    ),
    "llama": case("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "llama-3": case(
        "LlamaForCausalLM",
        "LlamaConfig",
        LLAMA
        | {
            "rope_parameters": LLAMA3,
            "head_dim": 8,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
        padding="left",
    ),
    "llama-linear": case(
        "LlamaForCausalLM",
        "LlamaConfig",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
    ),
    "mistral": case("MistralForCausalLM", "MistralConfig", LLAMA | {"sliding_window": 4}),
    "mistral-left": case(
        "MistralForCausalLM", "MistralConfig", LLAMA | {"sliding_window": 3, "head_dim": 8}, padding="left"
    ),
    "mixtral": case(
        "MixtralForCausalLM",
        "MixtralConfig",
        LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    ),
    "mixtral-left": case(
        "MixtralForCausalLM",
        "MixtralConfig",
        LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 1, "head_dim": 8},
        padding="left",
    ),
    "qwen3": case("Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3-windows": case(
        "Qwen3ForCausalLM",
        "Qwen3Config",
        LLAMA
        | {
            "head_dim": 8,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "attention_bias": True,
        },
    ),
    "gemma3": case("Gemma3ForCausalLM", "Gemma3TextConfig", LLAMA | GEMMA),
    "gemma3-cap": case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        LLAMA | GEMMA | {"final_logit_softcapping": 5.0},
        padding="left",
    ),
}
