"""config.json of well-known releases: {name: Release}.

Those with a `copy` were compared with a copy of the file that a public repository holds (or one of a fine-tuning,
whose vocabulary and dropout may be others); the rest are recalled. Labels and task parameters are shortened.
"""

from typing import Any, NamedTuple


class Release(NamedTuple):
    """The keys of one config.json, and the sizes that it should be read as."""

    model_type: str
    sizes: tuple[int, ...]  # layers, width, heads, feed-forward width, vocabulary
    values: dict[str, Any]
    copy: str = ""


LABELS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
THREE = {
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
}
SAVED = {"transformers_version": "4.46.3", "torch_dtype": "float32", "use_cache": True}
RELEASES: dict[str, Release] = {}


def bert(name: str, sizes: tuple[int, ...], kind: str = "bert", copy: str = "", **more: Any) -> None:
    """A release with BERT's keys."""
    layers, width, heads, ff_dim, vocab = sizes
    values = {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": ff_dim,
        "max_position_embeddings": 512,
        "model_type": kind,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "type_vocab_size": 2,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release(kind, sizes, values | more, copy)


BASE, LARGE = (12, 768, 12, 3072), (24, 1024, 16, 4096)
POOLER = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
PADDED = {"layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "absolute"}
bert("bert-base-uncased", (*BASE, 30522), gradient_checkpointing=False, **PADDED)
bert("bert-base-cased", (*BASE, 28996), copy="Jazzssmine/Tweet-hate:bert-base-cased", **PADDED, **SAVED)
bert("bert-large-uncased", (*LARGE, 30522), gradient_checkpointing=False, **PADDED)
bert("bert-base-multilingual-cased", (*BASE, 119547), **PADDED, **POOLER)
bert(
    "bert-base-chinese",
    (*BASE, 21128),
    copy="jxlin98/CWS:bert-base-chinese",
    cls_token_id=101,
    sep_token_id=102,
    **POOLER,
)
bert("klue/bert-base", (*BASE, 32000), tokenizer_class="BertTokenizerFast", **PADDED)
bert("beomi/kcbert-base", (*BASE, 30000), max_position_embeddings=300, **PADDED, **POOLER)
bert("monologg/kobert", (*BASE, 8002), output_past=True, **PADDED)
bert("prajjwal1/bert-tiny", (2, 128, 2, 512, 30522))
bert("SpanBERT/spanbert-base-cased", (*BASE, 28996))
bert(
    "sentence-transformers/all-MiniLM-L6-v2",
    (6, 384, 12, 1536, 30522),
    copy="bayeabdoulaye/api_embedding:all-MiniLM-L6-v2",
    _name_or_path="sentence-transformers_all-MiniLM-L6-v2",
    classifier_dropout=None,
    gradient_checkpointing=False,
    **PADDED,
    **SAVED,
)
bert(
    "cross-encoder/ms-marco-MiniLM-L-6-v2",
    (6, 384, 12, 1536, 30522),
    sbert_ce_default_activation_function="torch.nn.modules.linear.Identity",
    id2label={"0": "LABEL_0"},
    label2id={"LABEL_0": 0},
    **PADDED,
)
bert("BAAI/bge-small-en-v1.5", (12, 384, 12, 1536, 30522), **LABELS, **PADDED, **SAVED)
bert(
    "intfloat/multilingual-e5-small",
    (12, 384, 12, 1536, 250037),
    tokenizer_class="XLMRobertaTokenizer",
    **PADDED,
)
bert("nvidia/megatron-bert-uncased-345m", (*LARGE, 29056), "megatron-bert", layer_norm_eps=1e-12)

ROBERTA = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
bert("roberta-base", (*BASE, 50265), "roberta", **ROBERTA)
bert("roberta-large", (*LARGE, 50265), "roberta", **ROBERTA)
bert("distilroberta-base", (6, *BASE[1:], 50265), "roberta", **ROBERTA)
bert("microsoft/codebert-base", (*BASE, 50265), "roberta", output_past=True, **ROBERTA)
bert(
    "klue/roberta-base",
    (*BASE, 32000),
    "roberta",
    gradient_checkpointing=False,
    tokenizer_class="BertTokenizer",
    **ROBERTA,
)
bert("xlm-roberta-base", (*BASE, 250002), "xlm-roberta", output_past=True, **ROBERTA)
bert("xlm-roberta-large", (*LARGE, 250002), "xlm-roberta", output_past=True, **ROBERTA)
bert(
    "BAAI/bge-m3",
    (*LARGE, 250002),
    "xlm-roberta",
    **{**ROBERTA, "max_position_embeddings": 8194, "output_past": True, "classifier_dropout": None},
)
bert(
    "BAAI/bge-reranker-v2-m3",
    (*LARGE, 250002),
    "xlm-roberta",
    **{**ROBERTA, "max_position_embeddings": 8194, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
)

SUMMARY = {
    "summary_activation": "gelu",
    "summary_last_dropout": 0.1,
    "summary_type": "first",
    "summary_use_proj": True,
}
bert(
    "google/electra-small-discriminator",
    (12, 256, 4, 1024, 30522),
    "electra",
    copy="pooh1263/workspace:electra-small-discriminator",
    embedding_size=128,
    **PADDED,
)
bert("google/electra-base-discriminator", (*BASE, 30522), "electra", embedding_size=768, **SUMMARY, **PADDED)
bert("google/electra-large-generator", (24, 256, 4, 1024, 30522), "electra", embedding_size=1024, **PADDED)
bert("monologg/koelectra-base-v3", (*BASE, 35000), "electra", embedding_size=768, **SUMMARY, **PADDED)

ALBERT = {
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 2,
    "classifier_dropout_prob": 0.1,
    "down_scale_factor": 1,
    "embedding_size": 128,
    "eos_token_id": 3,
    "gap_size": 0,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "inner_group_num": 1,
    "layer_norm_eps": 1e-12,
    "net_structure_type": 0,
    "num_hidden_groups": 1,
    "num_memory_blocks": 0,
}
bert("albert-base-v2", (*BASE, 30000), "albert", **ALBERT)
bert("albert-xxlarge-v2", (12, 4096, 64, 16384, 30000), "albert", **ALBERT)
bert(
    "albert_tiny_zh",
    (4, 312, 12, 1248, 21128),
    "albert",
    copy="p208p2002/albert-zh-for-pytorch-transformers:albert_tiny",
    embedding_size=128,
    ln_type="postln",
    **POOLER,
)


def distilbert(name: str, vocab: int, **more: Any) -> None:
    """A release of DistilBERT."""
    values = {
        "activation": "gelu",
        "architectures": ["DistilBertForMaskedLM"],
        "attention_dropout": 0.1,
        "dim": 768,
        "dropout": 0.1,
        "hidden_dim": 3072,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "n_heads": 12,
        "n_layers": 6,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release("distilbert", (6, 768, 12, 3072, vocab), values | more)


distilbert("distilbert-base-uncased", 30522)
distilbert("distilbert-sst-2", 30522, finetuning_task="sst-2", output_past=True, **LABELS)
distilbert("distilbert-base-multilingual-cased", 119547, output_past=True)

DEBERTA = {
    "layer_norm_eps": 1e-7,
    "max_relative_positions": -1,
    "pos_att_type": "c2p|p2c",
    "position_biased_input": False,
    "relative_attention": True,
    "type_vocab_size": 0,
}
bert("microsoft/deberta-base", (*BASE, 50265), "deberta", padding_idx=0, pad_token_id=0, **DEBERTA)
bert(
    "microsoft/deberta-large",
    (*LARGE, 50265),
    "deberta",
    pooler_dropout=0,
    pooler_hidden_act="gelu",
    pooler_hidden_size=1024,
    **DEBERTA,
)
DEBERTA_V2 = DEBERTA | {
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 256,
    "share_att_key": True,
}
POOLED = {"pad_token_id": 0, "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": 768}
bert(
    "microsoft/deberta-v3-base",
    (*BASE, 128100),
    "deberta-v2",
    copy="satishsingh-singh90/legal-Q-and-A-with-haystack:deberta-v3-base",
    **DEBERTA_V2,
    **POOLED,
)
bert("microsoft/deberta-v3-small", (6, *BASE[1:], 128100), "deberta-v2", **DEBERTA_V2)
bert("microsoft/deberta-v3-large", (*LARGE, 128100), "deberta-v2", **DEBERTA_V2)
bert("microsoft/mdeberta-v3-base", (*BASE, 251000), "deberta-v2", **DEBERTA_V2)
CONVOLUTION = {"attention_head_size": 64, "conv_act": "gelu", "conv_kernel_size": 3}
bert("microsoft/deberta-v2-xlarge", (24, 1536, 24, 6144, 128100), "deberta-v2", **CONVOLUTION, **DEBERTA_V2)
bert("microsoft/deberta-v2-xxlarge", (48, 1536, 24, 6144, 128100), "deberta-v2", **CONVOLUTION, **DEBERTA_V2)


def modernbert(name: str, layers: int, width: int, heads: int, ff_dim: int) -> None:
    """A release of ModernBERT."""
    values = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 50281,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": 50281,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "eos_token_id": 50282,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "gradient_checkpointing": False,
        "hidden_activation": "gelu",
        "hidden_size": width,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": ff_dim,
        "layer_norm_eps": 1e-5,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "norm_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 50283,
        "position_embedding_type": "absolute",
        "reference_compile": None,
        "repad_logits_with_grad": False,
        "sep_token_id": 50282,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "vocab_size": 50368,
    }
    RELEASES[name] = Release("modernbert", (layers, width, heads, ff_dim, 50368), values)


modernbert("answerdotai/ModernBERT-base", 22, 768, 12, 1152)
modernbert("answerdotai/ModernBERT-large", 28, 1024, 16, 2624)


def xlm(name: str, layers: int, width: int, heads: int, vocab: int, **more: Any) -> None:
    """A release of XLM."""
    values = {
        "architectures": ["XLMWithLMHeadModel"],
        "asm": False,
        "attention_dropout": 0.1,
        "bos_index": 0,
        "bos_token_id": 0,
        "causal": False,
        "dropout": 0.1,
        "emb_dim": width,
        "embed_init_std": 0.02209708691207961,
        "end_n_top": 5,
        "eos_index": 1,
        "gelu_activation": True,
        "init_std": 0.02,
        "is_encoder": True,
        "lang_id": 0,
        "layer_norm_eps": 1e-12,
        "mask_index": 5,
        "mask_token_id": 0,
        "max_position_embeddings": 512,
        "max_vocab": -1,
        "min_count": 0,
        "n_heads": heads,
        "n_layers": layers,
        "pad_index": 2,
        "pad_token_id": 2,
        "same_enc_dec": True,
        "share_inout_emb": True,
        "sinusoidal_embeddings": False,
        "start_n_top": 5,
        "summary_type": "first",
        "summary_use_proj": True,
        "unk_index": 3,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release("xlm", (layers, width, heads, 4 * width, vocab), values | more)


xlm(
    "xlm-mlm-en-2048",
    12,
    2048,
    16,
    30145,
    n_langs=1,
    use_lang_emb=True,
    id2lang={"0": "en"},
    lang2id={"en": 0},
)
xlm("xlm-mlm-tlm-xnli15-1024", 12, 1024, 8, 95000, n_langs=15, use_lang_emb=True)
xlm("xlm-mlm-100-1280", 16, 1280, 16, 200000, n_langs=100, use_lang_emb=False, max_vocab=200000)


def xlnet(name: str, layers: int, width: int, heads: int, copy: str = "") -> None:
    """A release of XLNet."""
    values = {
        "architectures": ["XLNetLMHeadModel"],
        "attn_type": "bi",
        "bi_data": False,
        "bos_token_id": 1,
        "clamp_len": -1,
        "d_head": 64,
        "d_inner": 4 * width,
        "d_model": width,
        "dropout": 0.1,
        "end_n_top": 5,
        "eos_token_id": 2,
        "ff_activation": "gelu",
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "mem_len": None,
        "model_type": "xlnet",
        "n_head": heads,
        "n_layer": layers,
        "pad_token_id": 5,
        "reuse_len": None,
        "same_length": False,
        "start_n_top": 5,
        "summary_activation": "tanh",
        "summary_last_dropout": 0.1,
        "summary_type": "last",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 250}},
        "untie_r": True,
        "vocab_size": 32000,
    }
    RELEASES[name] = Release("xlnet", (layers, width, heads, 4 * width, 32000), values, copy)


xlnet("xlnet-base-cased", 12, 768, 12, "mmm587/DEMSA:xlnet-base-cased")
xlnet("xlnet-large-cased", 24, 1024, 16)


def gpt2(
    name: str, layers: int, width: int, heads: int, vocab: int = 50257, copy: str = "", **more: Any
) -> None:
    """A release of GPT-2."""
    values = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": width,
        "n_head": heads,
        "n_layer": layers,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release("gpt2", (layers, width, heads, 4 * width, vocab), values | more, copy)


TASK = {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
NEW_GPT2 = {
    "n_inner": None,
    "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
}
gpt2("gpt2", 12, 768, 12, copy="newBlanco/Modified_truthX:gpt2", gradient_checkpointing=False, **TASK)
gpt2("gpt2-medium", 24, 1024, 16, n_special=0, predict_special_tokens=True, **TASK)
gpt2("gpt2-xl", 48, 1600, 25, output_past=True, **TASK)
gpt2(
    "distilgpt2",
    6,
    768,
    12,
    copy="Swapnali-Pimapre/AI-health-assistant:distilgpt2",
    _num_labels=1,
    id2label={"0": "LABEL_0"},
    label2id={"LABEL_0": 0},
    **TASK,
    **NEW_GPT2,
    **SAVED,
)
gpt2("microsoft/DialoGPT-medium", 24, 1024, 16, task_specific_params={"conversational": {"max_length": 1000}})
gpt2("taeminlee/kogpt2", 12, 768, 12, 50000, "maxha97/streamlit_chatbot_test:kogpt2", output_past=True)
gpt2(
    "skt/kogpt2-base-v2",
    12,
    768,
    12,
    51200,
    _num_labels=1,
    author="Heewon Jeon",
    created_date="2021-04-28",
    license="CC-BY-NC-SA 4.0",
    pad_token_id=3,
)
gpt2(
    "stanford-crfm/alias-gpt2-small-x21",
    12,
    768,
    12,
    **{**NEW_GPT2, "reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
)
GPT = {
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "n_ctx": 512,
    "resid_pdrop": 0.1,
}
RELEASES["openai-gpt"] = Release(
    "openai-gpt",
    (12, 768, 12, 3072, 40478),
    GPT
    | {
        "afn": "gelu",
        "architectures": ["OpenAIGPTLMHeadModel"],
        "layer_norm_epsilon": 1e-5,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 512,
        "n_special": 0,
        "predict_special_tokens": True,
        "summary_type": "cls_index",
        "vocab_size": 40478,
    },
    "caoyu-noob/Multi-GPT2:openai-gpt",
)
RELEASES["ctrl"] = Release(
    "ctrl",
    (48, 1280, 16, 8192, 246534),
    GPT
    | {
        "architectures": ["CTRLLMHeadModel"],
        "dff": 8192,
        "from_tf": False,
        "layer_norm_epsilon": 1e-6,
        "n_embd": 1280,
        "n_head": 16,
        "n_layer": 48,
        "n_positions": 50000,
        "pad_token_id": None,
        "summary_type": "cls_index",
        "torchscript": False,
        "use_bfloat16": False,
        "pruned_heads": {},
        "vocab_size": 246534,
    },
)


def neox(name: str, sizes: tuple[int, ...], pct: float = 0.25, copy: str = "", **more: Any) -> None:
    """A release of the GPT-NeoX architecture."""
    layers, width, heads, ff_dim, vocab = sizes
    values = {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": ff_dim,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "rotary_emb_base": 10000,
        "rotary_pct": pct,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release("gpt_neox", sizes, values | more, copy)


neox("EleutherAI/pythia-160m", (12, 768, 12, 3072, 50304))
neox("EleutherAI/pythia-1b", (16, 2048, 8, 8192, 50304), copy="quoted in full by mlxcel")
neox("EleutherAI/polyglot-ko-1.3b", (24, 2048, 16, 8192, 30080), 0.5, num_steps="global_step301000")
neox(
    "EleutherAI/gpt-neox-20b",
    (44, 6144, 64, 24576, 50432),
    attention_probs_dropout_prob=0,
    hidden_dropout_prob=0,
    hidden_act="gelu_fast",
)
neox(
    "h2oai/h2ogpt-oig-oasst1-256-6_9b",
    (32, 4096, 32, 16384, 50432),
    copy="quoted in full in its card",
    custom_pipelines={"text-generation": {"impl": "h2oai_pipeline.H2OTextGenerationPipeline"}},
)


def llama(name: str, kind: str, sizes: tuple[int, ...], kv: int, copy: str = "", **more: Any) -> None:
    """A release with Llama's keys."""
    layers, width, heads, ff_dim, vocab = sizes
    values = {
        "architectures": ["LlamaForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": ff_dim,
        "max_position_embeddings": 2048,
        "model_type": kind,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
        "use_cache": True,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release(kind, sizes, values | more, copy)


PLAIN = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
llama(
    "meta-llama/Llama-2-7b-hf",
    "llama",
    (32, 4096, 32, 11008, 32000),
    32,
    max_position_embeddings=4096,
    pretraining_tp=1,
    rope_scaling=None,
)
llama(
    "meta-llama/Llama-3.1-8B",
    "llama",
    (32, 4096, 32, 14336, 128256),
    8,
    rope_scaling={**LLAMA3, "factor": 8.0},
    rope_theta=500000.0,
    **PLAIN,
)
llama(
    "meta-llama/Llama-3.2-1B-Instruct",
    "llama",
    (16, 2048, 32, 8192, 128256),
    8,
    copy="MatthewGoldsberry/LLM-Projects:Llama-3.2-1B",
    eos_token_id=[128001, 128008, 128009],
    head_dim=64,
    rope_scaling=LLAMA3,
    rope_theta=500000.0,
    **PLAIN,
)
llama(
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "llama",
    (22, 2048, 32, 5632, 32000),
    4,
    copy="swayam8624/nanoquant-private:TinyLlama-1.1B-Chat-v1.0",
    head_dim=64,
    rope_scaling=None,
    rope_theta=10000.0,
    **PLAIN,
)
SMOL = {"head_dim": 64, "tie_word_embeddings": True, "pad_token_id": 2, **PLAIN}
llama(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "llama",
    (30, 576, 9, 1536, 49152),
    3,
    copy="quoted in full by a port, but for transformers.js_config",
    is_llama_config=True,
    rope_interleaved=False,
    rope_scaling=None,
    rope_theta=100000,
    **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}, **SMOL},
)
llama(
    "SmolLM2-135M read from GGUF",
    "llama",
    (30, 576, 9, 1536, 49152),
    3,
    copy="as transformers 5.24 writes it",
    _model_name_or_path="Smollm2 135M 8k Lc100K Mix1 Ep2",
    dtype="float32",
    rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
    unk_token_id=0,
    **SMOL,
)
llama("mistralai/Mistral-7B-v0.1", "mistral", (32, 4096, 32, 14336, 32000), 8, sliding_window=4096)
llama(
    "mistralai/Mistral-7B-v0.3",
    "mistral",
    (32, 4096, 32, 14336, 32768),
    8,
    sliding_window=None,
    rope_theta=1e6,
)
llama(
    "mistralai/Mistral-Nemo-Base-2407",
    "mistral",
    (40, 5120, 32, 14336, 131072),
    8,
    head_dim=128,
    rope_theta=1e6,
    sliding_window=None,
)
llama(
    "mistralai/Mixtral-8x7B-v0.1",
    "mixtral",
    (32, 4096, 32, 14336, 32000),
    8,
    num_experts_per_tok=2,
    num_local_experts=8,
    output_router_logits=False,
    rope_theta=1e6,
    router_aux_loss_coef=0.02,
    sliding_window=None,
)
QWEN = {
    "attention_bias": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
}
llama("Qwen/Qwen3-0.6B", "qwen3", (28, 1024, 16, 3072, 151936), 8, max_window_layers=28, **QWEN)
llama(
    "Qwen/Qwen3-8B",
    "qwen3",
    (36, 4096, 32, 12288, 151936),
    8,
    copy="sanjithudupa/compute-aware-arch-search:Qwen3-8B",
    layer_types=["full_attention"] * 36,
    max_window_layers=36,
    **QWEN,
)
GEMMA = {
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_act": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
}
llama(
    "google/gemma-3-1b-it",
    "gemma3_text",
    (26, 1152, 4, 6912, 262144),
    1,
    cache_implementation="hybrid",
    sliding_window_pattern=6,
    **GEMMA,
)
llama(
    "google/gemma-3-270m",
    "gemma3_text",
    (18, 640, 4, 2048, 262144),
    1,
    _sliding_window_pattern=6,
    layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
    use_bidirectional_attention=False,
    **GEMMA,
)


def t5(name: str, kind: str, sizes: tuple[int, ...], copy: str = "", **more: Any) -> None:
    """A release of the T5 family."""
    layers, width, heads, ff_dim, vocab = sizes
    values = {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": ff_dim,
        "d_kv": 64,
        "d_model": width,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-6,
        "model_type": kind,
        "num_heads": heads,
        "num_layers": layers,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "vocab_size": vocab,
    }
    RELEASES[name] = Release(kind, sizes, values | more, copy)


RELU = {"dense_act_fn": "relu", "feed_forward_proj": "relu", "is_gated_act": False, "classifier_dropout": 0.0}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SUMMARIZATION = {"task_specific_params": {"summarization": {"early_stopping": True, "num_beams": 4}}}
t5(
    "t5-small",
    "t5",
    (6, 512, 8, 2048, 32128),
    "learningexample/xformer:t5-small",
    n_positions=512,
    num_decoder_layers=6,
    relative_attention_max_distance=128,
    **RELU,
    **SUMMARIZATION,
)
t5("t5-base", "t5", (12, 768, 12, 3072, 32128), n_positions=512, **SUMMARIZATION)
t5("google/t5-v1_1-base", "t5", (12, 768, 12, 2048, 32128), num_decoder_layers=12, **GATED)
t5("google/flan-t5-base", "t5", (12, 768, 12, 2048, 32128), n_positions=512, num_decoder_layers=12, **GATED)
t5(
    "Salesforce/codet5-base",
    "t5",
    (12, 768, 12, 3072, 32100),
    "lehuyphuong/codeT5_trial:codet5-base",
    id2label={"0": "LABEL_0"},
    label2id={"LABEL_0": 0},
    n_positions=512,
    num_decoder_layers=12,
    **RELU,
)
t5(
    "google/byt5-small",
    "t5",
    (12, 1472, 6, 3584, 384),
    gradient_checkpointing=False,
    num_decoder_layers=4,
    tokenizer_class="ByT5Tokenizer",
    **GATED,
)
t5(
    "google/mt5-small",
    "mt5",
    (8, 512, 6, 1024, 250112),
    "quoted in full by a training log",
    dense_act_fn="gelu_new",
    is_gated_act=True,
    num_decoder_layers=8,
    relative_attention_max_distance=128,
    tokenizer_class="T5Tokenizer",
    **GATED,
)
t5(
    "google/mt5-base",
    "mt5",
    (12, 768, 12, 2048, 250112),
    "quoted in full by a port",
    num_decoder_layers=12,
    **GATED,
)
UMT5 = {"dense_act_fn": "gelu_new", "is_gated_act": True, "scalable_attention": True, **GATED}
t5("google/umt5-small", "umt5", (8, 512, 6, 1024, 256384), num_decoder_layers=8, **UMT5)
t5(
    "EleutherAI/pile-t5-xl",
    "umt5",
    (24, 2048, 32, 5120, 32128),
    "quoted in full by a trainer",
    classifier_dropout=0.0,
    num_decoder_layers=24,
    relative_attention_max_distance=128,
    tokenizer_class="LlamaTokenizerFast",
    **UMT5,
)


def bart(name: str, kind: str, sizes: tuple[int, ...], copy: str = "", **more: Any) -> None:
    """A release of BART or its kin; sizes are the encoder's."""
    layers, width, heads, ff_dim, vocab = sizes
    values: dict[str, Any] = {
        "_num_labels": 3,
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "architectures": ["BartForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "classif_dropout": 0.0,
        "classifier_dropout": 0.0,
        "d_model": width,
        "decoder_attention_heads": heads,
        "decoder_ffn_dim": ff_dim,
        "decoder_layerdrop": 0.0,
        "decoder_layers": layers,
        "dropout": 0.1,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": ff_dim,
        "encoder_layerdrop": 0.0,
        "encoder_layers": layers,
        "eos_token_id": 2,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "max_position_embeddings": 1024,
        "model_type": kind,
        "normalize_before": False,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "scale_embedding": False,
        "vocab_size": vocab,
        **THREE,
    }
    RELEASES[name] = Release(kind, sizes, values | more, copy)


BEAMS = {"early_stopping": True, "length_penalty": 2.0, "max_length": 142, "min_length": 56, "num_beams": 4}
BART = {
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "no_repeat_ngram_size": 3,
    **BEAMS,
}
bart(
    "facebook/bart-base",
    "bart",
    (6, 768, 12, 3072, 50265),
    "ibmm-unibe-ch/SMILES_or_SELFIES:bart-base",
    forced_bos_token_id=0,
    normalize_embedding=True,
    **BART,
    **SUMMARIZATION,
)
bart(
    "facebook/bart-large-cnn",
    "bart",
    (12, 1024, 16, 4096, 50265),
    "CapstoneGroup1StClair/Capstone-2:bart-large-cnn",
    force_bos_token_to_be_generated=True,
    output_past=True,
    prefix=" ",
    **BART,
)
bart("facebook/bart-large-mnli", "bart", (12, 1024, 16, 4096, 50265), "quoted by a port", **BART)
bart(
    "sshleifer/distilbart-cnn-12-6",
    "bart",
    (12, 1024, 16, 4096, 50264),
    **BART,
    decoder_layers=6,
    extra_pos_embeddings=2,
    normalize_embedding=True,
    save_step=12,
    static_position_embeddings=False,
)
bart(
    "gogamza/kobart-base-v2",
    "bart",
    (6, 768, 16, 3072, 30000),
    "quoted by a summariser",
    author="Heewon Jeon",
    do_blenderbot_90_layernorm=False,
    extra_pos_embeddings=2,
    force_bos_token_to_be_generated=False,
    kobart_version=2.0,
    max_position_embeddings=1026,
    normalize_embedding=True,
    static_position_embeddings=False,
    tokenizer_class="PreTrainedTokenizerFast",
)
MBART = {
    "add_final_layer_norm": True,
    "normalize_before": True,
    "normalize_embedding": True,
    "scale_embedding": True,
    "static_position_embeddings": False,
    "max_length": 1024,
    "num_beams": 5,
    "output_past": True,
}
bart("facebook/mbart-large-cc25", "mbart", (12, 1024, 16, 4096, 250027), "quoted by a trimmer", **MBART)
bart(
    "facebook/mbart-large-50-many-to-many-mmt",
    "mbart",
    (12, 1024, 16, 4096, 250054),
    decoder_start_token_id=2,
    tokenizer_class="MBart50Tokenizer",
    **MBART,
)
MARIAN = {
    "activation_function": "swish",
    "decoder_start_token_id": 58100,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
    "max_length": 512,
    "max_position_embeddings": 512,
    "normalize_embedding": False,
    "num_beams": 6,
    "pad_token_id": 58100,
    "scale_embedding": True,
    "static_position_embeddings": True,
}
bart(
    "Helsinki-NLP/opus-mt-en-de",
    "marian",
    (6, 512, 8, 2048, 58101),
    "quoted by a hub",
    bad_words_ids=[[58100]],
    decoder_vocab_size=58101,
    share_encoder_decoder_embeddings=True,
    tie_encoder_decoder=False,
    **MARIAN,
)
bart(
    "Helsinki-NLP/opus-mt-zh-en",
    "marian",
    (6, 512, 8, 2048, 65001),
    "percent4/huggingface_translation_model:opus-mt-zh-en",
    bad_words_ids=[[65000]],
    extra_pos_embeddings=65001,
    **MARIAN,
)
bart(
    "Helsinki-NLP/opus-mt-tc-big-en-ko",
    "marian",
    (6, 1024, 16, 4096, 32001),
    **{**MARIAN, "activation_function": "relu", "max_position_embeddings": 1024},
)
PEGASUS = {
    "activation_function": "relu",
    "add_final_layer_norm": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "extra_pos_embeddings": 1,
    "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 1,
    "length_penalty": 0.6,
    "normalize_before": True,
    "normalize_embedding": False,
    "num_beams": 8,
    "pad_token_id": 0,
    "scale_embedding": True,
    "static_position_embeddings": True,
}
bart("google/pegasus-xsum", "pegasus", (16, 1024, 16, 4096, 96103), max_position_embeddings=512, **PEGASUS)
bart("google/pegasus-large", "pegasus", (16, 1024, 16, 4096, 96103), "quoted by a summariser", **PEGASUS)
bart(
    "facebook/blenderbot-400M-distill",
    "blenderbot",
    (2, 1280, 32, 5120, 8008),
    "imsyaha06/Blenderbot.app:blenderbot-400M-distill",
    add_final_layer_norm=True,
    decoder_layers=12,
    do_blenderbot_90_layernorm=True,
    encoder_no_repeat_ngram_size=3,
    extra_layer_norm=False,
    extra_pos_embeddings=0,
    layernorm_variant="prelayernorm",
    length_penalty=None,
    max_position_embeddings=128,
    normalize_before=True,
    normalize_embedding=False,
    scale_embedding=True,
    static_position_embeddings=False,
    unk_token_id=3,
)
