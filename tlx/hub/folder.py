"""Opening a Hugging Face directory as a model, and saving a model as one."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tqdm

from tlx.base import tree
from tlx.base.errors import ConfigError, DataError, DeviceMemoryError
from tlx.base.files import read_json, write_json
from tlx.hub import config_file, safetensors, weights
from tlx.hub.network import abstract_params
from tlx.models.config import ModelConfig
from tlx.models.families import MODEL_TYPES, TABLE, Family
from tlx.models.families.family import WeightMapping


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened Hugging Face directory, of which no weight is read yet."""

    folder: pathlib.Path
    """Absolute path of the directory."""
    family: Family
    """The family that its model_type names."""
    config: ModelConfig
    """The model config that config.json describes."""
    heads: tuple[str, ...]
    """Parameter paths of the heads it holds ("heads/mlm", "heads/nsp/pooler")."""
    raw: Mapping[str, Any]
    """The parsed config.json, unchanged."""
    params: dict[str, weights.LazyTensor]
    """{parameter path: tensor that is read on demand}."""

    @property
    def num_params(self) -> int:
        """Number of scalars, without the rows that pad the vocabulary."""
        return count(self.config, self.heads)

    def read(self, shardings: Any = None, progress: bool = False) -> dict[str, Any]:
        """Read the parameters {"model": ..., "heads": ...}; `progress` shows a progress bar.

        They are numpy arrays, or with `shardings` (a tree of the same paths) sharded jax arrays, of which
        every device reads its own shard only.
        """
        leaves = tqdm.tqdm(
            self.params.items(), "reading", unit="parameter", disable=not progress, leave=False
        )
        if shardings is None:
            return tree.unflatten({path: leaf.read() for path, leaf in leaves})
        flat_shardings = tree.flatten(shardings)
        return tree.unflatten({path: leaf.to_devices(flat_shardings[path]) for path, leaf in leaves})


def is_hugging_face(folder: str | os.PathLike) -> bool:
    """Tell whether a directory looks like the output of `save_pretrained`."""
    folder = pathlib.Path(folder)
    return (folder / "config.json").is_file() and not (folder / "run.json").is_file()


def open_folder(
    folder: str | os.PathLike,
    ignore: Collection[str] = (),
    param_dtype: str = "float32",
    vocab_multiple: int = 128,
) -> Checkpoint:
    """Open a Hugging Face directory: read config.json and the names and shapes of its tensors.

    Args:
        folder: The directory.
        ignore: Keys of config.json and names of tensors that do not matter.
        param_dtype: Dtype of the parameters that will be read.
        vocab_multiple: The vocabulary is padded to a multiple of this.

    Returns:
        The checkpoint, which reads weights on demand.

    Raises:
        ConfigError: If the config cannot be represented.
        DataError: If files are missing, truncated or pickled, or if tensors are missing, left over or of the
            wrong shape.
    """
    folder = pathlib.Path(folder).absolute()
    try:
        values = read_json(folder / "config.json")
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {folder / 'config.json'}: {error}") from error
    if "model_type" not in values:
        raise ConfigError(f"{folder / 'config.json'} has no model_type")
    family: Family = MODEL_TYPES.load(values["model_type"], allow=())
    config = dataclasses.replace(
        config_file.read(family, values, ignore), param_dtype=param_dtype, vocab_multiple=vocab_multiple
    )
    tensors = _with_current_names(safetensors.Tensors(folder), family)
    rows = list(family.rows(config))
    if family.prefix and not any(name.startswith(family.prefix) for name in tensors):
        rows = weights.without_prefix(rows, family.prefix)
    heads = _find_heads(family, values, rows, tensors)
    rows = weights.select(rows, heads)
    abstract = abstract_params(config, heads)
    params = weights.from_tensors(rows, tensors, abstract, config.vocab_size)
    unused = [name for name in weights.leftovers(family, rows, tensors, abstract) if name not in ignore]
    if unused:
        raise DataError(
            f"{folder}: {len(unused)} tensors are not part of the family {family.name}: "
            f"{', '.join(unused[:10])}. Pass ignore= (--ignore={unused[0]}) for what does not matter"
        )
    return Checkpoint(folder, family, config, heads, values, params)


def save_folder(
    folder: str | os.PathLike,
    family: Family | str,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    special: Mapping[str, Any] | None = None,
    dtype: Any = None,
    shard_bytes: int = safetensors.SHARD_BYTES,
) -> str:
    """Write config.json and safetensors files that `from_pretrained` loads without missing keys.

    Args:
        folder: The directory to write.
        family: The family, or its name, whose format is written.
        config: The model config.
        params: {"model": ..., "heads": ...}, or {path: array}.
        special: Ids of special tokens for config.json ("pad_token_id").
        dtype: Dtype of the tensors; None keeps that of each parameter.
        shard_bytes: Size of a file, above which the weights are written as several.

    Returns:
        The name of the Hugging Face class: the first of the family whose heads are all in `params`.

    Raises:
        ConfigError: If the family's config.json cannot represent the model, before anything is written.
    """
    family = as_family(family)
    flat = tree.flatten(params)
    values = config_file.write(family, config)
    architecture, heads = _find_architecture(family, flat)
    rows = weights.select(family.rows(config), heads)
    if message := _missing_params(family, rows, flat):
        raise ConfigError(message)
    if is_bare(architecture):
        rows = weights.without_prefix(rows, family.prefix)
    target_dtype = None if dtype is None else np.dtype(dtype)
    tensors = weights.to_tensors(rows, flat, config.vocab_size, target_dtype)
    safetensors.write(folder, list(tensors.items()), shard_bytes)
    class_keys = {"architectures": [architecture], "model_type": family.model_type}
    write_json(pathlib.Path(folder) / "config.json", class_keys | values | dict(special or {}))
    return architecture


def check_room(size: int, what: str) -> None:
    """Raise DeviceMemoryError with both numbers if `size` bytes exceed the free host memory."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return
    if size > free:
        raise DeviceMemoryError(
            f"{what} needs {size / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
            'dtype="bfloat16" needs half of float32'
        )


def count(config: ModelConfig, heads: Collection[str] = ()) -> int:
    """Count the parameters of a model with these heads; tied ones once, without vocabulary padding."""
    unpadded = dataclasses.replace(config, vocab_multiple=1)
    abstract = abstract_params(unpadded, tuple(heads))
    counted = [path for path in abstract if not path.startswith("heads/") or path.startswith(tuple(heads))]
    return tree.num_params({path: abstract[path] for path in counted})


def family_of(config: ModelConfig, params: Mapping[str, Any]) -> str:
    """Find the first family whose files can hold the model unchanged. Raises ConfigError if none can."""
    flat = tree.flatten(params)
    reasons = []
    for name in TABLE:
        family: Family = TABLE.load(name)
        if not family.architectures or family.base.kind != config.kind:
            continue
        try:
            config_file.write(family, config)
            _, heads = _find_architecture(family, flat)
        except ConfigError as error:
            reasons.append(f"  {name}: {error}")
            continue
        rows = weights.select(family.rows(config), heads)
        paths = {row.path for row in rows}
        unmapped = [path for path in flat if path.startswith("model/") and path not in paths]
        if unmapped:
            reason = f"it has no tensor for {', '.join(unmapped[:3])}"
        else:
            reason = _missing_params(family, rows, flat)
        if not reason:
            return name
        reasons.append(f"  {name}: {reason}")
    lines = "\n".join(reasons)
    raise ConfigError(f"no Hugging Face class computes what this model does:\n{lines}")


def as_family(family: Family | str) -> Family:
    """Look up a family by name; a family is returned as it is."""
    return TABLE.load(family) if isinstance(family, str) else family


def is_bare(architecture: str) -> bool:
    """Tell whether a class is the model without a head, whose tensor names have no prefix."""
    return architecture.endswith("Model") and not architecture.endswith("HeadModel")


def class_of(family: str, params: Mapping[str, Any]) -> str:
    """Return the Hugging Face class for which `params` would be exported."""
    architecture, _ = _find_architecture(TABLE.load(family), tree.flatten(params))
    return architecture


def _with_current_names(tensors: Mapping[str, np.ndarray], family: Family) -> Mapping[str, np.ndarray]:
    """Rename the tensors of old files to the names of the key table."""
    # TensorFlow's names of the parameters of a norm survive in the first releases of BERT.
    rules = {
        r"LayerNorm\.gamma$": "LayerNorm.weight",
        r"LayerNorm\.beta$": "LayerNorm.bias",
        **family.renamed,
    }
    old_names = {}
    for name in tensors:
        new_name = name
        for pattern, replacement in rules.items():
            new_name = re.sub(pattern, replacement, new_name)
        # A file that holds both names keeps the tensor of each.
        old_names[name if new_name in tensors else new_name] = name
    return safetensors.RenamedTensors(tensors, old_names)


def _find_heads(
    family: Family, values: Mapping[str, Any], rows: list[WeightMapping], tensors: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Return the heads whose tensors are all present, and those that the class of config.json must have."""
    architecture = (values.get("architectures") or [""])[0]
    known = {head for heads in family.architectures.values() for head in heads}
    heads = {head for head in known if weights.complete(rows, tensors, head)}
    heads |= set(family.architectures.get(architecture, ()))
    # A whole head ("heads/nsp") includes its parts ("heads/nsp/pooler").
    whole = [head for head in heads if not any(head.startswith(f"{other}/") for other in heads)]
    return tuple(sorted(whole))


def _missing_params(family: Family, rows: list[WeightMapping], params: Mapping[str, Any]) -> str:
    """Return a message if the family's classes have parameters that the model lacks, else ""."""
    missing = [row.path for row in rows if row.path not in params]
    return f"the model has no {', '.join(missing[:3])}, which {family.name} has" if missing else ""


def _find_architecture(family: Family, params: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the first class whose heads are all in `params`, and these heads."""
    for name, heads in family.architectures.items():
        if all(any(path.startswith(f"{head}/") for path in params) for head in heads):
            return name, heads
    raise ConfigError(
        f"the family {family.name} has no Hugging Face class for a model with these parameters; "
        f"its classes: {', '.join(family.architectures) or 'none'}"
    )
