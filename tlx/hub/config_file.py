"""config.json to a ModelConfig and back, by the fields of a family; what cannot be said is an error."""

from collections.abc import Collection, Mapping
from typing import Any

from tlx.base import config as configs
from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, FixedField, SameField, replaced

# Keys that say nothing about the function: names, versions, ids of special tokens, defaults of generation,
# losses and heads of tasks, and how Hugging Face's classes compute.
HARMLESS = frozenset(
    """
    _name_or_path architectures model_type transformers_version torch_dtype dtype return_dict
    output_hidden_states output_attentions output_past torchscript use_bfloat16 use_cache
    gradient_checkpointing
    pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id prefix
    id2label label2id num_labels problem_type finetuning_task task_specific_params tokenizer_class
    classifier_dropout classifier_dropout_prob classifier_bias classifier_pooling summary_type
    summary_use_proj summary_activation summary_last_dropout summary_first_dropout summary_proj_to_labels
    pretraining_tp chunk_size_feed_forward pruned_heads
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    pooler_type language auto_map _attn_implementation _attn_implementation_autoset attn_implementation
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature
    top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids
    encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    tf_legacy_loss
    cross_attention_hidden_size predict_special_tokens is_encoder_decoder
    """.split()
)

# Of ModelConfig, what is no part of the function, or the user's own choice.
OWN = ("execution", "dtype", "param_dtype", "vocab_multiple", "init")


def read(family: Family, values: Mapping[str, Any], ignore: Collection[str] = ()) -> ModelConfig:
    """The model of a config.json. ConfigError naming the first key that cannot be represented."""
    known = {key for field in family.fields for key in _keys(field)} | set(family.harmless)
    quantised = values.get("quantization_config")
    if quantised:
        raise ConfigError(
            f"config.json: quantization_config = {quantised!r}: tlx does not read quantised weights"
        )
    for key, value in values.items():
        if key not in known and key not in HARMLESS and key not in ignore and value is not None:
            raise ConfigError(
                f"config.json: {key} = {value!r} is unknown to the family {family.name}: the model might be "
                f"another one. Pass ignore=({key!r},) (--ignore={key}) if it does not matter"
            )
    changes: dict[str, Any] = {}
    for field in family.fields:
        if isinstance(field, SameField):
            changes[field.path] = _translated(field, values.get(field.key, field.default))
        elif isinstance(field, FixedField):
            value = values.get(field.key, field.values[0])
            if value not in field.values:
                raise ConfigError("config.json: " + one_of(field.key, value, field.values))
        else:
            changes |= field.read(values)
    config = replaced(family.base, changes)
    config = configs.from_dict(ModelConfig, configs.to_dict(config), "config.json: model")
    config.validate()
    return config


def write(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The keys of config.json for a model. ConfigError naming what this family's format cannot say."""
    values: dict[str, Any] = {}
    config = _explicit(config)
    for field in family.fields:
        if isinstance(field, SameField):
            values[field.key] = _back(field, _field(config, field.path))
        elif isinstance(field, FixedField):
            values[field.key] = field.values[0]
        else:
            values |= field.write(config)
    said = configs.flatten(configs.to_dict(_comparable(read(family, values))))
    wanted = configs.flatten(configs.to_dict(_comparable(config)))
    for path, value in wanted.items():
        if path.split(".")[0] not in OWN and said[path] != value:
            raise ConfigError(
                f"model.{path} = {value!r} cannot be said in a {family.model_type} config.json, "
                f"where it is {said[path]!r}"
            )
    return values


def _explicit(config: ModelConfig) -> ModelConfig:
    """The same model with the sizes that 0 stands for written out."""
    block = config.block("encoder")
    return replaced(
        config,
        {
            "attention.head_dim": block.head_dim,
            "attention.num_kv_heads": block.num_kv_heads,
            "feedforward.ff_dim": block.ff_dim,
            "num_decoder_layers": config.decoder_layers,
        },
    )


def _comparable(config: ModelConfig) -> ModelConfig:
    """The same model, explicit, without what means nothing to it."""
    config = _explicit(config)
    if config.position.kind in ("none", "relative_bias", "relative_sinusoidal"):
        config = replaced(config, {"position.max_length": 0})
    return config


def _keys(field: Any) -> tuple[str, ...]:
    return field.keys if hasattr(field, "keys") else (field.key,)


def _translated(field: SameField, value: Any) -> Any:
    if field.names is None:
        return value
    if value not in field.names:
        raise ConfigError("config.json: " + one_of(field.key, value, field.names))
    return field.names[value]


def _back(field: SameField, value: Any) -> Any:
    if field.names is None:
        return value
    for theirs, ours in field.names.items():
        if ours == value:
            return theirs
    raise ConfigError(one_of(f"model.{field.path}", value, set(field.names.values())))


def _field(config: ModelConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
