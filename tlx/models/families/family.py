"""What a family is: a base model, its published sizes, and the two tables that conversion is driven by."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tlx.models.config import ModelConfig

# config.json's names of activations. A family whose "gelu" is another one brings its own table.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclasses.dataclass(frozen=True)
class WeightMapping:
    """One parameter of tlx, and the tensor of a Hugging Face file that it is, or is a part of.

    `pattern` says how dims map, theirs first: "(n h) d -> d n h" splits, "d (3 n h) -> d n h" with `part=1`
    takes the second of three, a literal 1 is a dim that tlx does not have. "" is no change. The dim called
    v is the vocabulary: padded here, not there. A name with "{layer}" is a parameter stacked over layers
    (its pattern is of one layer); "{expert}" then stacks the dim after that. `first` is the number of the
    first layer in the name. `plus` is added when reading (Gemma writes norm scales less one).
    """

    path: str  # "model/decoder/blocks/attention/query/kernel"
    name: str  # "h.{layer}.attn.c_attn.weight"
    pattern: str = ""
    part: int = 0
    first: int = 0
    plus: float = 0.0


@dataclasses.dataclass(frozen=True)
class SameField:
    """A key of config.json that is a field of ModelConfig ("attention.num_heads").

    `default` is what the Hugging Face class takes where the key is absent. `names` translates values,
    theirs to ours; a value that it does not have is an error. The first of equal translations is written.
    """

    key: str
    path: str
    default: Any
    names: Mapping[Any, Any] | None = None


@dataclasses.dataclass(frozen=True)
class FixedField:
    """A key whose other values tlx cannot represent in this family. The first of `values` is written."""

    key: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class MappedField:
    """Keys that say something together.

    read: {key: value} of the whole config.json, to {path: value}; it may raise ConfigError naming the key.
    write: ModelConfig to {key: value}.
    """

    keys: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Family:
    """One well-known architecture, as data.

    base: the model whose fields config.json's keys replace. sizes: published name to model.
    architectures: Hugging Face's class name to the heads whose weights it holds, as parameter paths
    ("heads/mlm"; "heads/nsp/pooler" for a part); the first class that fits is the one written.
    prefix: what the classes with a head put before the names of the bare model's tensors. rows: the key
    table of a model, heads included. copies: names that may hold a tensor once more (tied weights), and of
    what. ignored: regular expressions of names that hold no parameter. harmless: keys of
    config.json that do not matter, besides those that never do.
    renamed: regular expressions of old names of tensors, and what stands there now.
    """

    name: str
    citation: str
    base: ModelConfig
    sizes: Mapping[str, ModelConfig]
    rows: Callable[[ModelConfig], Iterable[WeightMapping]]
    model_type: str = ""  # of config.json; "": there is no Hugging Face class
    architectures: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    fields: tuple[SameField | FixedField | MappedField, ...] = ()
    prefix: str = ""
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outline:
    """A well-known architecture whose network is not here: its sizes, and the arithmetic of its parameters.

    sizes: published name to the numbers that `num_params` counts with. missing: what it would take.
    """

    name: str
    citation: str
    sizes: Mapping[str, Any]
    num_params: Callable[[Any], int]
    missing: str


def resized(base: ModelConfig, **changes: Any) -> ModelConfig:
    """`base` with fields replaced; a part's field is written with two underscores: attention__num_heads."""
    return replaced(base, {name.replace("__", "."): value for name, value in changes.items()})


def replaced(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """`config` with the fields at dotted paths replaced."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        part, _, name = path.rpartition(".")
        parts.setdefault(part, {})[name] = value
    own = parts.pop("", {})
    nested = {part: dataclasses.replace(getattr(config, part), **values) for part, values in parts.items()}
    return dataclasses.replace(config, **own, **nested)


def linear(
    path: str, name: str, pattern: str = "f d -> d f", bias: str = "", part: int = 0
) -> list[WeightMapping]:
    """The rows of a Linear: kernel, and the bias where `bias` gives its pattern ("f" for no change)."""
    rows = [WeightMapping(f"{path}/kernel", f"{name}.weight", pattern, part)]
    if bias:
        rows.append(WeightMapping(f"{path}/bias", f"{name}.bias", f"{bias} -> {_outputs(bias)}", part))
    return rows


def norm(path: str, name: str, bias: bool = True) -> list[WeightMapping]:
    """The rows of a norm."""
    rows = [WeightMapping(f"{path}/scale", f"{name}.weight")]
    return [*rows, WeightMapping(f"{path}/bias", f"{name}.bias")] if bias else rows


def _outputs(pattern: str) -> str:
    """ "n h" of "(3 n h)": the named dims in order."""
    return " ".join(word for word in pattern.replace("(", " ").replace(")", " ").split() if word.isalpha())
