"""Keys of config.json that do not change the function computed, each with the reason.

A key that neither a family's fields nor this table knows is refused: the model might be another one. Some keys are
dead at certain values only; at another value they are refused too.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class DeadKey(NamedTuple):
    """A key of config.json without effect on the function computed."""

    reason: str
    """Why the key has no effect."""
    values: tuple[Any, ...] = ()
    """Values at which it has none; () for every value."""


def _group(reason: str, keys: str) -> dict[str, DeadKey]:
    """Return keys, separated by blanks, that are dead at every value for one reason."""
    return {key: DeadKey(reason) for key in keys.split()}


_NAMES = _group(
    "names, versions and origin",
    """
    architectures model_type transformers_version tokenizer_class auto_map custom_pipelines language
    finetuning_task task_specific_params from_tf author kobart_version num_steps is_llama_config
    unsloth_version unsloth_fixed sentence_transformers created_date license
    """,
)
_STORAGE = _group("dtype in which the weights were stored", "torch_dtype dtype use_bfloat16")
_TOKENS = _group(
    "ids of special tokens and how rows are read",
    """
    pad_token_id bos_token_id eos_token_id eos_token_ids sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id prefix padding_idx
    """,
)
_GENERATION = _group(
    "how text is generated",
    """
    max_length max_new_tokens min_length min_new_tokens max_time stop_strings do_sample num_beams
    num_beam_groups diversity_penalty early_stopping temperature top_k top_p min_p typical_p epsilon_cutoff
    eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids force_words_ids constraints forced_bos_token_id
    forced_eos_token_id force_bos_token_to_be_generated suppress_tokens begin_suppress_tokens sequence_bias
    token_healing guidance_scale penalty_alpha dola_layers watermarking_config num_return_sequences
    output_scores output_logits return_dict_in_generate remove_invalid_values renormalize_logits
    exponential_decay_length_penalty prompt_lookup_num_tokens num_assistant_tokens low_memory
    """,
)
_HEADS = _group(
    "labels, dropout and shape of the head of a downstream task",
    """
    id2label label2id num_labels problem_type classifier_dropout classifier_dropout_prob classif_dropout
    classifier_bias classifier_pooling summary_type summary_use_proj summary_activation summary_last_dropout
    summary_first_dropout summary_proj_to_labels sbert_ce_default_activation_function
    """,
)
_SWITCHES = _group(
    "switches of Hugging Face's classes: caches, outputs and how the same function is computed",
    """
    return_dict use_return_dict output_hidden_states output_attentions output_past torchscript use_cache
    cache_implementation gradient_checkpointing use_reentrant_checkpointing attn_implementation
    pretraining_tp chunk_size_feed_forward cross_attention_hidden_size predict_special_tokens
    tf_legacy_loss xla_device model_parallel
    """,
)
_TRAINING = _group("settings of training", "neftune_noise_alpha line_by_line save_step max_sequence_length")
_POOLER = _group(
    "shape of a pooler that the first release of BERT describes and no class reads",
    """
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    pooler_type
    """,
)
_FAMILY = _group("which stacks there are, which the family says", "is_encoder_decoder")
_OLD = _group("sizes that older classes read, repeated by other keys", "n_ctx n_vocab n_words")

_AT_VALUES = {
    "pruned_heads": DeadKey("heads that were removed", ({}, [], None)),
    "tie_encoder_decoder": DeadKey("one set of weights for both stacks", (False,)),
    "is_decoder": DeadKey("causal attention", (False,)),
    "add_cross_attention": DeadKey("attention to an encoder", (False,)),
    "rope_interleaved": DeadKey("rotation of neighbouring dims in place of halves", (False,)),
    "qk_layer_norms": DeadKey("norms of queries and keys", (False,)),
    "n_special": DeadKey("rows of special tokens after those of the vocabulary", (0,)),
}

DEAD: Mapping[str, DeadKey] = (
    _NAMES
    | _STORAGE
    | _TOKENS
    | _GENERATION
    | _HEADS
    | _SWITCHES
    | _TRAINING
    | _POOLER
    | _FAMILY
    | _OLD
    | _AT_VALUES
)
"""Keys that are dead in every family."""

_SEQ2SEQ = {
    **_group("layers that training skips at random", "encoder_layerdrop decoder_layerdrop"),
    **_group(
        "read by the class of the first release alone",
        "num_hidden_layers add_bias_logits static_position_embeddings extra_pos_embeddings variant",
    ),
    "extra_layer_norm": DeadKey("norms of another variant", (False,)),
}


def _norms(before: bool, embedding: bool, blenderbot_90: tuple[bool, ...] = (False,)) -> dict[str, DeadKey]:
    """Return the keys that once chose among BART's variants, which are families of their own now.

    Args:
        before: Whether the norms of the family's layers stand before their parts.
        embedding: Whether the family normalises its embeddings.
        blenderbot_90: Values of do_blenderbot_90_layernorm that do not matter.

    Returns:
        The dead keys, with the values that say what the family does.
    """
    reason = "where the norms are, which the family says"
    return {
        **_SEQ2SEQ,
        "normalize_before": DeadKey(reason, (before,)),
        "add_final_layer_norm": DeadKey(reason, (before,)),
        "normalize_embedding": DeadKey(reason, (embedding,)),
        "do_blenderbot_90_layernorm": DeadKey(reason, blenderbot_90),
        "layernorm_variant": DeadKey(reason, ("prelayernorm" if before else "postlayernorm",)),
    }


_SPANS = _group("beam sizes of the class for question answering", "start_n_top end_n_top")
_DEBERTA = _group(
    "shape of the pooler of downstream tasks", "pooler_dropout pooler_hidden_act pooler_hidden_size"
)
_DECODER = _group("the class is causal whatever it says", "is_decoder")
_T5 = _group("initial values, and positions that the class does not have", "initializer_factor n_positions")
_MODERNBERT = {
    **_group("the class reads norm_eps", "layer_norm_eps"),
    **_group("the class has rotary positions alone", "position_embedding_type"),
    **_group("initial values", "initializer_cutoff_factor"),
    **_group(
        "how the same function and its loss are computed",
        """
        deterministic_flash_attn reference_compile repad_logits_with_grad sparse_prediction
        sparse_pred_ignore_index
        """,
    ),
}

DEAD_IN: Mapping[str, Mapping[str, DeadKey]] = {
    "albert": {
        **_group(
            "of the original code, whose class reads none of them",
            "down_scale_factor gap_size net_structure_type num_memory_blocks",
        ),
        "ln_type": DeadKey("where the norms are", ("postln",)),
    },
    "bart": _norms(before=False, embedding=True),
    "blenderbot": _norms(before=True, embedding=False, blenderbot_90=(False, True)),
    "blenderbot-small": {
        **_norms(before=False, embedding=True, blenderbot_90=(False, True)),
        "layernorm_variant": DeadKey("where the norms are, which the family says", ("xlm",)),
    },
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "distilbert": {
        **_group("dropout of the heads of downstream tasks", "qa_dropout seq_classif_dropout"),
        "tie_weights_": DeadKey("the token table is the output kernel", (True,)),
    },
    "bloom": {
        **_group(
            "how the same function is computed",
            """
            slow_but_exact masked_softmax_fusion bias_dropout_fusion attention_softmax_in_fp32 skip_bias_add
            skip_bias_add_qkv offset_alibi
            """,
        ),
        **_group("length of the sequences that it was trained on", "seq_length"),
    },
    "cohere": _group("longest text that its tokenizer is asked for", "model_max_length"),
    "ctrl": _DECODER,
    "eurobert": {
        **_group("names of special tokens", "bos_token eos_token mask_token pad_token"),
        "hidden_dropout": DeadKey("dropout that the class does not have", (0.0,)),
    },
    "gemma2": _group("the class reads sliding_window", "sliding_window_size"),
    "gemma3_text": _DECODER,
    "gemma4_text": {
        **_group("sizes of experts, which enable_moe_block says are not there", "num_experts top_k_experts"),
        **_group("of the same experts", "moe_intermediate_size"),
        **_group("the class reads layer_types", "sliding_window_pattern"),
    },
    "gpt2": _DECODER,
    "gpt_neox": _group(
        "dropout, for which the class reads other keys", "attention_probs_dropout_prob hidden_dropout_prob"
    ),
    "gptj": {
        "rotary": DeadKey("the class has rotary positions alone", (True,)),
        "scale_attn_weights": DeadKey("the class always scales", (True,)),
    },
    "llama": _DECODER,
    "m2m_100": _norms(before=True, embedding=False),
    "mamba2": {
        **_group("initial values", "time_step_floor time_step_rank rescale_prenorm_residual"),
        **_group(
            "of the original code and older classes; no class reads them",
            "norm_before_gate time_step_init_scheme time_step_scale rms_norm",
        ),
        **_group("the stream's dtype, where the computation is not float32", "residual_in_fp32"),
    },
    "marian": _norms(before=False, embedding=False),
    "mbart": _norms(before=True, embedding=True),
    "mistral": _DECODER,
    "mixtral": _DECODER,
    "modernbert": _MODERNBERT,
    "modernbert-decoder": _MODERNBERT | _group("half of local_attention, which is read", "sliding_window"),
    "mpt": _group(
        "of the original code, whose class reads none of them",
        "emb_pdrop resid_pdrop init_device init_config learned_pos_emb norm_type verbose tokenizer_name",
    ),
    "mt5": {
        **_T5,
        "scale_decoder_outputs": DeadKey("scale of the logits, which mT5 does not have", (False,)),
    },
    "openai-gpt": _DECODER,
    "opt": _group(
        "dropout of layers and of hidden units, which the class does not have", "layerdrop activation_dropout"
    ),
    "pegasus": _norms(before=True, embedding=False),
    "qwen3": _DECODER,
    "smollm3": _group("the class reads layer_types", "max_window_layers"),
    "starcoder2": _group(
        "of an older class",
        "activation_function layer_norm_epsilon mlp_type norm_type scale_attention_softmax_in_fp32",
    ),
    "t5": _T5,
    "t5gemma": _group("dropout of the heads of downstream tasks", "classifier_dropout_rate"),
    "umt5": _T5 | _group("every layer has a table of positions", "scalable_attention"),
    "xlm": {
        **_SPANS,
        **_group("ids of special tokens", "bos_index eos_index pad_index unk_index mask_index"),
        **_group("names of languages", "lang_id id2lang lang2id"),
        **_group("how the vocabulary was cut", "max_vocab min_count"),
        "share_inout_emb": DeadKey("the token table is the output kernel", (True,)),
        "same_enc_dec": DeadKey(
            "one set of weights for both stacks, of which this class has one", (True, False)
        ),
    },
    "xlnet": {
        **_SPANS,
        **_group(
            "length of the memory, a setting of the objective",
            "mem_len reuse_len use_mems_eval use_mems_train",
        ),
        **_group("width / num_heads", "d_head"),
    },
}
"""{model_type: keys that are dead in the families of this type}."""


def find(model_type: str, key: str) -> DeadKey | None:
    """Look up a dead key.

    Args:
        model_type: `model_type` of the family that reads config.json.
        key: Key of config.json.

    Returns:
        The entry of the family's own table, else that of every family; None where the key is not dead.
    """
    entry = DEAD_IN.get(model_type, {}).get(key) or DEAD.get(key)
    if entry is None and (key.startswith("_") or "." in key):
        return DeadKey("private to a library, or settings of another program")
    return entry
