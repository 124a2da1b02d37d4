"""The type of a family: a base model, its published sizes, and the two tables that drive conversion."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from tlx.models.config import ModelConfig
from tlx.text.imported_frame import FrameRules

# Names of activations in config.json. A family that gives "gelu" another meaning has its own table.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Heads and convolutions have tanh too.
ACTIVATIONS_WITH_TANH = {**ACTIVATIONS, "tanh": "tanh"}


def written_name(names: Mapping[str, str], value: str) -> str:
    """Return the first name of a value in such a table."""
    return next(name for name, meaning in names.items() if meaning == value)


@dataclasses.dataclass(frozen=True)
class WeightMapping:
    """A row of a key table: one tlx parameter, and the Hugging Face tensor that holds it or packs it."""

    path: str
    """Parameter path in tlx ("model/decoder/blocks/attention/query/kernel")."""
    name: str
    """Tensor name ("h.{layer}.attn.c_attn.weight").

    With "{layer}" the parameter is stacked over layers, one tensor each; with "{expert}" also over experts,
    along the next dimension.
    """
    pattern: str = ""
    """Dimensions of the tensor and of the parameter of one layer; "" if they are the same.

    "(n h) d -> d n h" splits a dimension; "d (3 n h) -> d n h" takes one of three packed parameters. A
    literal 1 is a dimension that tlx does not have. The dimension v is the vocabulary: padded in tlx only.
    """
    part: int = 0
    """Index of the parameter among those that the tensor packs."""
    sections: tuple[int, ...] = ()
    """Rows of each parameter among those whose rows the tensor holds one after the other (Phi 3); () if there is
    one."""
    section_groups: int = 1
    """Number of times that the sections repeat in the tensor, each with its own rows of every parameter (Falcon)."""
    first: int = 0
    """Number of the first layer in the tensor name."""
    layers: tuple[int, ...] = ()
    """Numbers of the layers that have the parameter, in order; () if all have it."""
    group_layers: int = 1
    """Stacked layers that share a number "{layer}" and are told apart by "{inner}" in the tensor name."""
    plus: float = 0.0
    """Constant added when reading and subtracted when writing."""
    times: float = 1.0
    """Factor of the values when reading, by which they are divided when writing."""
    fill: float | None = None
    """Value of the parameter where the checkpoint lacks the tensor; None: the tensor must be there."""


@dataclasses.dataclass(frozen=True)
class SameField:
    """A key of config.json that corresponds to one field of ModelConfig."""

    key: str
    """Key of config.json."""
    path: str
    """Dotted path of the field ("attention.num_heads")."""
    default: Any
    """Default of the Hugging Face class, used where the key is absent."""
    names: Mapping[Any, Any] | None = None
    """{value in config.json: value in tlx}; None if they are the same.

    A value that is not in it is an error. Of several keys with the same value, the first is written.
    """


@dataclasses.dataclass(frozen=True)
class FixedField:
    """A key of config.json of which the family supports certain values only."""

    key: str
    """Key of config.json."""
    values: tuple[Any, ...]
    """Supported values; the first is written."""


@dataclasses.dataclass(frozen=True)
class MappedField:
    """Keys of config.json that are translated together, by functions."""

    keys: tuple[str, ...]
    """Keys of config.json that `read` uses."""
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Converts the whole config.json to {dotted path: value}; raises ConfigError naming the key."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """Converts a model config to {key: value}."""


def _has_bias(_: ModelConfig) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class TaskClass:
    """A Hugging Face class with the head of a task."""

    kind: Literal["sequence", "token", "span"]
    """Outputs for each text, for each token, or for the first and last token of an answer."""
    classifier: str
    """Module of the last layer ("classifier")."""
    dense: str = ""
    """Module of the dense layer before it ("bert.pooler.dense"); "" if there is none."""
    activation: str = "tanh"
    """Activation of the dense layer, in tlx's names, where config.json does not name another one."""
    activation_key: str = ""
    """Key of config.json that names the activation of the dense layer; "" if it is always the same."""
    dense_bias: Callable[[ModelConfig], bool] = _has_bias
    """Whether the dense layer has a bias."""
    dense_key: str = ""
    """Key of config.json that says whether there is the dense layer, true by default; "": there always is."""
    norm: str = ""
    """Module of the norm after the activation; "" if there is none."""
    bias: bool = True
    """Whether the last layer has a bias."""
    mean_key: str = ""
    """Key of config.json that is "mean" where the mean over a text is read; "" if one position always is."""
    body: str | None = None
    """Prefix of the tensors of the model in place of the family's; None: the family's."""
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """{key of config.json: supported values}, the first being the default."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One well-known architecture, as data."""

    name: str
    """Name in the table of families."""
    citation: str
    """Authors, year, title and venue of the paper."""
    base: ModelConfig
    """The model whose fields the keys of config.json replace."""
    sizes: Mapping[str, ModelConfig]
    """{published name of a size: model config}."""
    rows: Callable[[ModelConfig], Iterable[WeightMapping]]
    """Returns the key table of a model, with all heads."""
    model_type: str = ""
    """`model_type` in config.json; "" if transformers has no class."""
    architectures: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """{Hugging Face class: parameter paths of its heads ("heads/mlm", or a part "heads/nsp/pooler")}.

    The first class whose heads a model has is the one written.
    """
    task_classes: Mapping[str, TaskClass] = dataclasses.field(default_factory=dict)
    """{Hugging Face class with the head of a task: where its head is}."""
    encoder_class: str = ""
    """Hugging Face class of the encoder of an encoder-decoder alone ("T5EncoderModel"); "" if there is none."""
    fields: tuple[SameField | FixedField | MappedField, ...] = ()
    """Translation of the keys of config.json."""
    prefix: str = ""
    """Prefix that classes with a head add to the tensor names of the bare model."""
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """{name of a tensor that may repeat another because of tied weights: name of the original}."""
    tied_by_tensors: bool = False
    """Whether the class writes tie_word_embeddings = true for models with an output kernel of their own too, so that
    the tensors say which it is."""
    nested: str = ""
    """Key of config.json whose group describes the text model, of a model of texts and images, of which nothing else
    is read; "": the whole file describes the model."""
    stacks: bool = False
    """Whether config.json describes an encoder-decoder's stacks in the groups "encoder" and "decoder". The fields
    read the decoder's keys, and "encoder_layers" for the encoder's number of layers; else the groups are alike."""
    sinusoids: tuple[str, ...] = ()
    """Regular expressions of names of tensors that repeat the sinusoids of `position`: compared, not read."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of names of tensors that hold no parameter."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """{regular expression of old tensor names: replacement}."""
    frame: FrameRules = FrameRules()
    """Form of texts beyond what the tokenizer's own template says."""


def resized(base: ModelConfig, **changes: Any) -> ModelConfig:
    """Replace fields of `base`; two underscores separate part and field: attention__num_heads."""
    return replaced(base, {name.replace("__", "."): value for name, value in changes.items()})


def replaced(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Replace the fields at dotted paths."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        part, _, name = path.rpartition(".")
        parts.setdefault(part, {})[name] = value
    top_level = parts.pop("", {})
    nested = {part: dataclasses.replace(getattr(config, part), **values) for part, values in parts.items()}
    return dataclasses.replace(config, **top_level, **nested)


def linear(
    path: str, name: str, pattern: str = "f d -> d f", bias: str = "", part: int = 0
) -> list[WeightMapping]:
    """Return the mappings of a linear layer.

    Args:
        path: Parameter path of the layer.
        name: Name of the Hugging Face module.
        pattern: Pattern of the kernel.
        bias: Left side of the pattern of the bias ("f" for no change); "" if there is no bias.
        part: Index of the layer among those that the tensors pack.

    Returns:
        The mapping of the kernel, and of the bias if there is one.
    """
    mappings = [WeightMapping(f"{path}/kernel", f"{name}.weight", pattern, part)]
    if bias:
        mappings.append(WeightMapping(f"{path}/bias", f"{name}.bias", f"{bias} -> {_named_dims(bias)}", part))
    return mappings


def norm(path: str, name: str, bias: bool = True) -> list[WeightMapping]:
    """Return the mappings of a norm.

    Args:
        path: Parameter path of the norm.
        name: Name of the Hugging Face module.
        bias: Whether the norm has a bias.

    Returns:
        The mapping of the scale, and of the bias if there is one.
    """
    mappings = [WeightMapping(f"{path}/scale", f"{name}.weight")]
    if bias:
        mappings.append(WeightMapping(f"{path}/bias", f"{name}.bias"))
    return mappings


def encoder_task_classes(
    classes: str,
    dense: str = "",
    classifier: str = "classifier",
    activation: str = "tanh",
    activation_key: str = "",
    token_classifier: str = "classifier",
) -> dict[str, TaskClass]:
    """Return the classes with a head of an encoder, as most families have them.

    Args:
        classes: Prefix of the Hugging Face classes ("Bert").
        dense: Module of the dense layer of the classifier of texts; "" if there is none.
        classifier: Module of its last layer.
        activation: Activation of its dense layer.
        activation_key: Key of config.json that names the activation; "" if there is none.
        token_classifier: Module of the classifier of tokens.

    Returns:
        {class: its head}.
    """
    return {
        f"{classes}ForSequenceClassification": TaskClass(
            "sequence", classifier, dense, activation, activation_key
        ),
        f"{classes}ForTokenClassification": TaskClass("token", token_classifier),
        f"{classes}ForQuestionAnswering": TaskClass("span", "qa_outputs"),
    }


def decoder_task_classes(
    classes: str, token_classifier: str = "score", span_body: str | None = None
) -> dict[str, TaskClass]:
    """Return the classes with a head of a decoder, as most families have them.

    Args:
        classes: Prefix of the Hugging Face classes ("Llama").
        token_classifier: Module of the classifier of tokens.
        span_body: Prefix of the model's tensors in the class for question answering; None: the family's.

    Returns:
        {class: its head}.
    """
    return {
        f"{classes}ForSequenceClassification": TaskClass("sequence", "score", bias=False),
        f"{classes}ForTokenClassification": TaskClass("token", token_classifier),
        f"{classes}ForQuestionAnswering": TaskClass("span", "qa_outputs", body=span_body),
    }


def _named_dims(pattern: str) -> str:
    """Return the named dimensions of a pattern in order: those of "(3 n h)" are "n h"."""
    return " ".join(word for word in pattern.replace("(", " ").replace(")", " ").split() if word.isalpha())
