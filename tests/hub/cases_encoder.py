"""Encoders."""

from tests.hub.case import Case

BERT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "layer_norm_eps": 1e-6,
}
DEBERTA = BERT | {
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": "c2p|p2c",
}
DEBERTA_V2 = DEBERTA | {
    "position_buckets": 6,
    "max_relative_positions": 10,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
MODERN = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "norm_eps": 1e-4,
    "local_attention": 4,
    "pad_token_id": 0,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    },
}
XLM = {
    "vocab_size": 61,
    "emb_dim": 24,
    "n_layers": 3,
    "n_heads": 3,
    "max_position_embeddings": 30,
    "layer_norm_eps": 1e-6,
}
HEADS = {"hidden": "hidden_states", "mlm": "prediction_logits", "nsp": "seq_relationship_logits"}
MASKED = {"hidden": "hidden_states", "mlm": "logits"}
PLAIN = {"hidden": "hidden_states", "logits": "logits"}
EURO = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "rms_norm_eps": 1e-4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "mask_token_id": 3,
}
POOLED = {"hidden": "last_hidden_state", "nsp": "pooler_output"}
MOBILE = BERT | {"intra_bottleneck_size": 12, "embedding_size": 10, "num_feedforward_networks": 3}
ROBERTA = BERT | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}

CASES = {
    "bert": Case("BertForPreTraining", "BertConfig", BERT | {"type_vocab_size": 3}, HEADS, types=3),
    "bert-relu": Case("BertForMaskedLM", "BertConfig", BERT | {"hidden_act": "relu"}, MASKED, types=2),
    "bert-model": Case(
        "BertModel",
        "BertConfig",
        BERT | {"hidden_act": "gelu_new"},
        POOLED,
        types=2,
    ),
    "roberta": Case("RobertaForMaskedLM", "RobertaConfig", ROBERTA | {"hidden_act": "relu"}, MASKED),
    "roberta-model": Case("RobertaModel", "RobertaConfig", ROBERTA | {"type_vocab_size": 2}, POOLED, types=2),
    "roberta-left": Case(
        "RobertaForMaskedLM", "RobertaConfig", ROBERTA | {"pad_token_id": 3}, MASKED, padding="left"
    ),
    "camembert": Case(
        "CamembertForMaskedLM", "CamembertConfig", ROBERTA | {"pad_token_id": 3}, MASKED, small=True
    ),
    "mpnet": Case(
        "MPNetForMaskedLM",
        "MPNetConfig",
        {key: value for key, value in ROBERTA.items() if key != "type_vocab_size"}
        | {"hidden_size": 32, "num_attention_heads": 2},
        MASKED,
        small=True,
    ),
    "nomic-bert": Case(
        "NomicBertForMaskedLM",
        "NomicBertConfig",
        # Its files have other names than its class, so that all of its weights are recorded: few.
        BERT
        | {
            "num_hidden_layers": 2,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
        },
        MASKED,
        types=2,
        small=True,
    ),
    "eurobert": Case("EuroBertForMaskedLM", "EuroBertConfig", EURO, PLAIN, small=True),
    "eurobert-tied": Case(
        "EuroBertForMaskedLM",
        "EuroBertConfig",
        EURO | {"tie_word_embeddings": True, "attention_bias": True, "head_dim": 6},
        PLAIN,
        small=True,
    ),
    "eurobert-model": Case(
        "EuroBertModel", "EuroBertConfig", EURO, {"hidden": "last_hidden_state"}, small=True
    ),
    "mobilebert": Case(
        "MobileBertForPreTraining", "MobileBertConfig", MOBILE | {"type_vocab_size": 3}, HEADS, types=3
    ),
    "mobilebert-tiny": Case(
        "MobileBertForPreTraining",
        "MobileBertConfig",
        MOBILE
        | {
            "use_bottleneck_attention": True,
            "key_query_shared_bottleneck": False,
            "num_feedforward_networks": 1,
            "intra_bottleneck_size": 36,
            "normalization_type": "layer_norm",
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "classifier_activation": False,
        },
        HEADS,
        types=2,
        small=True,
    ),
    "xlm-roberta": Case("XLMRobertaForMaskedLM", "XLMRobertaConfig", ROBERTA, MASKED),
    "megatron-bert": Case("MegatronBertForPreTraining", "MegatronBertConfig", BERT, HEADS, types=2),
    "electra": Case(
        "ElectraForPreTraining",
        "ElectraConfig",
        BERT | {"embedding_size": 16, "hidden_act": "relu"},
        {"hidden": "hidden_states", "rtd": "logits"},
        types=2,
    ),
    "electra-generator": Case(
        "ElectraForMaskedLM",
        "ElectraConfig",
        BERT | {"embedding_size": 36, "hidden_act": "relu"},
        MASKED,
        types=2,
    ),
    "electra-equal": Case("ElectraForMaskedLM", "ElectraConfig", BERT | {"embedding_size": 24}, MASKED),
    "albert": Case(
        "AlbertForPreTraining",
        "AlbertConfig",
        BERT | {"embedding_size": 16},
        {"hidden": "hidden_states", "mlm": "prediction_logits", "sop": "sop_logits"},
        types=2,
    ),
    "albert-groups": Case(
        "AlbertForMaskedLM",
        "AlbertConfig",
        BERT | {"embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
        MASKED,
    ),
    "xlm": Case(
        "XLMWithLMHeadModel", "XLMConfig", XLM | {"n_langs": 4, "gelu_activation": False}, MASKED, languages=4
    ),
    "xlm-one": Case("XLMWithLMHeadModel", "XLMConfig", XLM, MASKED),
    "deberta": Case("DebertaForMaskedLM", "DebertaConfig", DEBERTA | {"type_vocab_size": 2}, MASKED, types=2),
    "deberta-clipped": Case(
        "DebertaForMaskedLM", "DebertaConfig", DEBERTA | {"max_relative_positions": 4}, MASKED
    ),
    "deberta-v2": Case("DebertaV2ForMaskedLM", "DebertaV2Config", DEBERTA_V2, MASKED),
    "deberta-v2-convolution": Case(
        "DebertaV2ForMaskedLM",
        "DebertaV2Config",
        DEBERTA_V2 | {"conv_kernel_size": 3, "conv_act": "gelu", "norm_rel_ebd": "none"},
        MASKED,
    ),
    "deberta-v2-tanh": Case(
        "DebertaV2ForMaskedLM",
        "DebertaV2Config",
        DEBERTA_V2 | {"conv_kernel_size": 5, "conv_act": "tanh"},
        MASKED,
    ),
    "modernbert": Case("ModernBertForMaskedLM", "ModernBertConfig", MODERN, MASKED),
    "modernbert-biases": Case(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        MODERN
        | {
            "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "hidden_activation": "relu",
            "classifier_activation": "silu",
            "local_attention": 7,
        },
        MASKED,
        padding="left",
    ),
    "modernbert-model": Case(
        "ModernBertModel",
        "ModernBertConfig",
        MODERN | {"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 4},
        {"hidden": "last_hidden_state"},
    ),
    "distilbert": Case(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {
            "vocab_size": 61,
            "max_position_embeddings": 30,
            "n_layers": 3,
            "n_heads": 3,
            "dim": 24,
            "hidden_dim": 40,
            "activation": "relu",
        },
        MASKED,
    ),
}
