"""Encoder-decoders."""

from tests.hub.case import Case

LOGITS = {"hidden": "decoder_hidden_states", "encoded": "encoder_last_hidden_state", "logits": "logits"}


def case(architecture: str, config_class: str, config: dict, **rest) -> Case:
    """An encoder-decoder's case."""
    return Case(architecture, config_class, config, LOGITS, inputs="encoder_decoder", **rest)


T5 = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "layer_norm_epsilon": 1e-4,
}
BART = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
GEMMA_STACK = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "sliding_window": 4,
    "query_pre_attn_scalar": 5,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 5.0,
    "rms_norm_eps": 1e-4,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

CASES = {
    "t5": case("T5ForConditionalGeneration", "T5Config", T5),
    "t5-gated-tied": case("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-silu"}),
    "t5-1.1": case("T5ForConditionalGeneration", "T5Config", T5 | GATED, untied=True),
    "mt5": case("MT5ForConditionalGeneration", "MT5Config", T5 | GATED, untied=True),
    "umt5": case("UMT5ForConditionalGeneration", "UMT5Config", T5 | GATED, untied=True),
    "umt5-tied": case("UMT5ForConditionalGeneration", "UMT5Config", T5),
    "bart": case("BartForConditionalGeneration", "BartConfig", BART),
    "bart-scaled": case(
        "BartForConditionalGeneration",
        "BartConfig",
        BART | {"scale_embedding": True, "activation_function": "relu"},
    ),
    "bart-unlike-stacks": case(
        "BartForConditionalGeneration",
        "BartConfig",
        BART | {"decoder_attention_heads": 3, "decoder_ffn_dim": 50},
    ),
    "mbart": case("MBartForConditionalGeneration", "MBartConfig", BART | {"scale_embedding": True}),
    "pegasus": case(
        "PegasusForConditionalGeneration",
        "PegasusConfig",
        BART | {"activation_function": "relu", "scale_embedding": True},
        keep=r"embed_positions",
    ),
    "blenderbot": case("BlenderbotForConditionalGeneration", "BlenderbotConfig", BART),
    "blenderbot-small": case(
        "BlenderbotSmallForConditionalGeneration", "BlenderbotSmallConfig", BART | {"scale_embedding": True}
    ),
    "t5gemma": case(
        "T5GemmaForConditionalGeneration",
        "T5GemmaConfig",
        {"encoder": GEMMA_STACK, "decoder": GEMMA_STACK | {"num_hidden_layers": 2}, "vocab_size": 61},
    ),
    "t5gemma-untied": case(
        "T5GemmaForConditionalGeneration",
        "T5GemmaConfig",
        {
            "encoder": GEMMA_STACK | {"attention_bias": True, "final_logit_softcapping": None},
            "decoder": GEMMA_STACK | {"attention_bias": True, "final_logit_softcapping": None},
            "vocab_size": 61,
            "tie_word_embeddings": False,
        },
    ),
    "m2m-100": case("M2M100ForConditionalGeneration", "M2M100Config", BART | {"activation_function": "gelu"}),
    "marian": case(
        "MarianMTModel",
        "MarianConfig",
        BART | {"activation_function": "swish", "scale_embedding": True},
        keep=r"embed_positions",
    ),
}
