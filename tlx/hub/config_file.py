"""Conversion between config.json and ModelConfig, by the fields of a family.

What one side cannot represent is an error, never a silent approximation.
"""

from collections.abc import Collection, Mapping
from typing import Any

from tlx.base import config as configs
from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, FixedField, MappedField, SameField, replaced

# Keys that do not change the function computed: names, versions, ids of special tokens, generation defaults,
# losses and heads of downstream tasks, and implementation switches of Hugging Face's classes.
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

# Parts of ModelConfig that are not in the function computed, or that the user chooses.
NOT_COMPARED = ("execution", "dtype", "param_dtype", "vocab_multiple", "init")


class NotRepresentable(ConfigError):
    """A model config that a family's config.json cannot hold.

    `required` maps dotted keys of the run's config to the values with which it could.
    """

    def __init__(self, message: str, required: Mapping[str, Any]):
        super().__init__(message)
        self.required = dict(required)


def read(family: Family, values: Mapping[str, Any], ignore: Collection[str] = ()) -> ModelConfig:
    """Convert the contents of a config.json to a model config.

    Args:
        family: The family whose fields translate the keys.
        values: The parsed config.json.
        ignore: Keys that are skipped even if the family does not know them.

    Returns:
        The validated model config. Absent keys take the defaults of the Hugging Face class.

    Raises:
        ConfigError: If a key or value cannot be represented; names the first such key.
    """
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
            changes[field.path] = _to_tlx(field, values.get(field.key, field.default))
        elif isinstance(field, FixedField):
            value = values.get(field.key, field.values[0])
            if value not in field.values:
                raise ConfigError("config.json: " + one_of(field.key, value, field.values))
        else:
            changes |= field.read(values)
    config = replaced(family.base, changes)
    # The round trip through a dict checks the types of what came from JSON.
    config = configs.from_dict(ModelConfig, configs.to_dict(config), "config.json: model")
    config.validate()
    return config


def write(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Convert a model config to the keys of a family's config.json.

    Raises NotRepresentable naming the fields that the family's format cannot represent.
    """
    values: dict[str, Any] = {}
    config = _explicit(config)
    for field in family.fields:
        if isinstance(field, SameField):
            values[field.key] = _to_hugging_face(field, _get_field(config, field.path))
        elif isinstance(field, FixedField):
            values[field.key] = field.values[0]
        else:
            values |= field.write(config)
    # Reading back shows every field that was lost on the way.
    restored = configs.flatten(configs.to_dict(_comparable(read(family, values))))
    expected = configs.flatten(configs.to_dict(_comparable(config)))
    lost = {}
    for path, value in expected.items():
        if path.split(".")[0] not in NOT_COMPARED and restored[path] != value:
            lost[f"model.{path}"] = restored[path]
    if lost:
        path = next(iter(lost))
        more = f"; {len(lost) - 1} more: {', '.join(list(lost)[1:])}" if len(lost) > 1 else ""
        raise NotRepresentable(
            f"{path} = {expected[path.removeprefix('model.')]!r} cannot be represented in a "
            f"{family.model_type} config.json, where it is {lost[path]!r}{more}",
            lost,
        )
    return values


def _explicit(config: ModelConfig) -> ModelConfig:
    """Replace sizes of 0 by the sizes that they stand for."""
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
    """Make sizes explicit and reset fields that have no effect on this model."""
    config = _explicit(config)
    if config.position.kind in ("none", "relative_bias", "relative_sinusoidal"):
        config = replaced(config, {"position.max_length": 0})
    return config


def _keys(field: SameField | FixedField | MappedField) -> tuple[str, ...]:
    if isinstance(field, MappedField):
        return tuple(field.keys)
    return (field.key,)


def _to_tlx(field: SameField, value: Any) -> Any:
    """Translate a value of config.json."""
    if field.names is None:
        return value
    if value not in field.names:
        raise ConfigError("config.json: " + one_of(field.key, value, field.names))
    return field.names[value]


def _to_hugging_face(field: SameField, value: Any) -> Any:
    """Translate a value of ModelConfig; of several names for it, the first."""
    if field.names is None:
        return value
    for hugging_face_value, tlx_value in field.names.items():
        if tlx_value == value:
            return hugging_face_value
    raise ConfigError(one_of(f"model.{field.path}", value, set(field.names.values())))


def _get_field(config: ModelConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
