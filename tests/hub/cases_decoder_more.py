"""Decoders since GPT-J, each with every feature of its class away from its default in one of its cases."""

from tests.hub.case import Case
from tests.hub.cases_decoder import GPT2, LLAMA, LOGITS


def case(architecture: str, config_class: str, config: dict, **rest) -> Case:
    """A decoder's case."""
    return Case(architecture, config_class, config, LOGITS, inputs="decoder", small=True, **rest)


PLAIN = {key: value for key, value in LLAMA.items() if key not in ("rms_norm_eps", "rope_parameters")}
LAYER_NORM = {"layer_norm_eps": 1e-4}
ROTARY = {"rope_type": "default", "rope_theta": 300.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 40.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 3.0,
    "beta_slow": 0.5,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 300.0,
    "short_factor": [1.0, 1.3, 1.7],
    "long_factor": [1.5, 2.0, 4.0],
    "original_max_position_embeddings": 30,
}
FALCON = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 40,
    "layer_norm_epsilon": 1e-4,
    "rope_parameters": ROTARY,
}
NEO = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_layers": 3,
    "num_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "attention_types": [[["global", "local"], 1], [["local"], 1]],
    "window_size": 4,
    "layer_norm_epsilon": 1e-4,
}
OPT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "ffn_dim": 40,
    "max_position_embeddings": 30,
    "dropout": 0.0,
}
SMOLLM = LLAMA | {"num_hidden_layers": 3, "pad_token_id": 0}
MAMBA2 = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_heads": 12,
    "head_dim": 4,
    "expand": 2,
    "state_size": 6,
    "n_groups": 3,
    "conv_kernel": 3,
    "chunk_size": 4,
    "layer_norm_epsilon": 1e-3,
}
TOKENS = {"pad_token_id": 0, "eos_token_id": 1}
GEMMA4 = {
    "vocab_size": 61,
    "vocab_size_per_layer_input": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "global_head_dim": 16,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "rms_norm_eps": 1e-4,
    "final_logit_softcapping": 5.0,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 300.0, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
    },
}
# As 31B, and as E2B: shared keys, a wide network there, and a table that each layer reads.
GEMMA4_DENSE = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
}
GEMMA4_SHARED = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}

CASES = {
    "qwen2": case(
        "Qwen2ForCausalLM", "Qwen2Config", LLAMA | {"rope_parameters": YARN, "tie_word_embeddings": True}
    ),
    "qwen2-dynamic": case(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        LLAMA
        | {
            "max_position_embeddings": 6,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 3.0},
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
        },
        padding="none",
    ),
    "gemma": case("GemmaForCausalLM", "GemmaConfig", LLAMA | {"head_dim": 8, "hidden_act": "gelu"}),
    "gemma2": case(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        LLAMA
        | {
            "head_dim": 8,
            "num_hidden_layers": 3,
            "sliding_window": 4,
            "query_pre_attn_scalar": 5,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
        padding="left",
    ),
    "opt": case("OPTForCausalLM", "OPTConfig", OPT),
    "opt-plain": case("OPTForCausalLM", "OPTConfig", OPT | {"enable_bias": False}, padding="left"),
    "phi": case(
        "PhiForCausalLM",
        "PhiConfig",
        PLAIN | LAYER_NORM | {"rope_parameters": ROTARY | {"partial_rotary_factor": 0.67}},
    ),
    "phi-norms": case(
        "PhiForCausalLM", "PhiConfig", PLAIN | {"hidden_size": 32, "qk_layernorm": True}, padding="left"
    ),
    "phi3": case(
        "Phi3ForCausalLM", "Phi3Config", LLAMA | TOKENS | {"sliding_window": 4, "tie_word_embeddings": True}
    ),
    "phi3-long": case(
        "Phi3ForCausalLM",
        "Phi3Config",
        LLAMA | TOKENS | {"rope_parameters": LONG, "original_max_position_embeddings": 6},
        padding="none",
    ),
    "phi3-short": case(
        "Phi3ForCausalLM",
        "Phi3Config",
        LLAMA | TOKENS | {"rope_parameters": LONG, "original_max_position_embeddings": 30},
        padding="left",
    ),
    "gptj": case("GPTJForCausalLM", "GPTJConfig", GPT2 | {"rotary_dim": 4, "layer_norm_epsilon": 1e-4}),
    "gpt-neo": case("GPTNeoForCausalLM", "GPTNeoConfig", NEO),
    "falcon": case("FalconForCausalLM", "FalconConfig", FALCON),
    "falcon-groups": case(
        "FalconForCausalLM",
        "FalconConfig",
        FALCON
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "tie_word_embeddings": False},
        padding="left",
    ),
    "falcon-sequential": case(
        "FalconForCausalLM", "FalconConfig", FALCON | {"multi_query": False, "parallel_attn": False}
    ),
    "bloom": case(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 61, "hidden_size": 24, "n_layer": 2, "n_head": 3, "layer_norm_epsilon": 1e-4},
        padding="left",
    ),
    "mpt": case(
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": 61, "d_model": 24, "n_layers": 2, "n_heads": 6, "layer_norm_epsilon": 1e-4},
    ),
    "starcoder2": case(
        "Starcoder2ForCausalLM",
        "Starcoder2Config",
        PLAIN | {"norm_epsilon": 1e-4, "rope_parameters": ROTARY, "sliding_window": 4},
    ),
    "stablelm": case(
        "StableLmForCausalLM",
        "StableLmConfig",
        PLAIN
        | LAYER_NORM
        | {"rope_parameters": ROTARY | {"partial_rotary_factor": 0.67}, "use_qkv_bias": True},
    ),
    "stablelm-parallel": case(
        "StableLmForCausalLM",
        "StableLmConfig",
        PLAIN | {"hidden_size": 32, "use_parallel_residual": True, "qk_layernorm": True},
        padding="left",
    ),
    # Its hidden states here are those after the transform, which the class does not return.
    "modernbert-decoder": Case(
        "ModernBertDecoderForCausalLM",
        "ModernBertDecoderConfig",
        {
            "vocab_size": 61,
            "hidden_size": 24,
            "num_hidden_layers": 5,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "max_position_embeddings": 50,
            "local_attention": 6,
            "norm_eps": 1e-4,
            "classifier_activation": "silu",
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            },
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "cls_token_id": 2,
            "sep_token_id": 1,
        },
        {"logits": "logits"},
        inputs="decoder",
        small=True,
    ),
    "olmo2": case("Olmo2ForCausalLM", "Olmo2Config", LLAMA | TOKENS, padding="left"),
    "olmo3": case(
        "Olmo3ForCausalLM",
        "Olmo3Config",
        {key: value for key, value in LLAMA.items() if key != "rope_parameters"}
        | TOKENS
        | {
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "sliding_window": 4,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
            },
        },
    ),
    "smollm3": case("SmolLM3ForCausalLM", "SmolLM3Config", SMOLLM | {"no_rope_layers": [1, 0, 1]}),
    "granite": case(
        "GraniteForCausalLM",
        "GraniteConfig",
        LLAMA
        | {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.2,
            "logits_scaling": 7.0,
            "tie_word_embeddings": True,
        },
    ),
    "cohere": case(
        "CohereForCausalLM",
        "CohereConfig",
        PLAIN | LAYER_NORM | TOKENS | {"rope_parameters": ROTARY, "use_qk_norm": True, "logit_scale": 0.3},
    ),
    "cohere-plain": case(
        "CohereForCausalLM", "CohereConfig", PLAIN | TOKENS | {"attention_bias": True}, padding="left"
    ),
    "glm4": case(
        "Glm4ForCausalLM", "Glm4Config", LLAMA | TOKENS | {"head_dim": 8, "rope_parameters": ROTARY}
    ),
    "mamba2": case(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        MAMBA2
        | {
            "use_bias": True,
            "use_conv_bias": False,
            "time_step_limit": (0.2, 0.9),
            "tie_word_embeddings": True,
        },
        # Its bias stands in the padding that the class convolves.
        padding="none",
    ),
    "mamba2-plain": case("Mamba2ForCausalLM", "Mamba2Config", MAMBA2 | {"n_groups": 1}, padding="left"),
    "gemma4": case("Gemma4ForCausalLM", "Gemma4TextConfig", GEMMA4 | GEMMA4_SHARED),
    "gemma4-dense": case("Gemma4ForCausalLM", "Gemma4TextConfig", GEMMA4 | GEMMA4_DENSE, padding="left"),
}
