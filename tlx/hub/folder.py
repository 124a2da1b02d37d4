"""A Hugging Face directory as a model, and a model as such a directory."""

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
    """An opened Hugging Face directory: everything is known, no weight is read yet."""

    folder: pathlib.Path
    family: Family
    config: ModelConfig
    heads: tuple[str, ...]
    raw: Mapping[str, Any]  # config.json as it is
    params: dict[str, weights.LazyTensor]  # by path

    @property
    def num_params(self) -> int:
        """Number of scalars, without the rows that pad the vocabulary."""
        return count(self.config, self.heads)

    def read(self, shardings: Any = None, progress: bool = False) -> dict[str, Any]:
        """The parameters {"model": ..., "heads": ...} as numpy arrays; `progress` shows a bar.

        shardings: a tree of the same paths; then jax arrays, of which every device reads its own part only.
        """
        leaves = tqdm.tqdm(
            self.params.items(), "reading", unit="parameter", disable=not progress, leave=False
        )
        if shardings is None:
            return tree.unflatten({path: leaf.read() for path, leaf in leaves})
        where = tree.flatten(shardings)
        return tree.unflatten({path: leaf.place(where[path]) for path, leaf in leaves})


def is_hugging_face(folder: str | os.PathLike) -> bool:
    """Whether a directory looks like one that `save_pretrained` wrote."""
    folder = pathlib.Path(folder)
    return (folder / "config.json").is_file() and not (folder / "run.json").is_file()


def open_folder(
    folder: str | os.PathLike,
    ignore: Collection[str] = (),
    param_dtype: str = "float32",
    vocab_multiple: int = 128,
) -> Checkpoint:
    """Reads config.json and the tensors' names and shapes; weights are read by what is returned.

    Raises ConfigError for a config that tlx cannot represent, DataError for files that are missing, cut
    short or pickled, and for tensors that are missing, left over or of the wrong shape. `ignore` are keys of
    config.json, and names of tensors, that shall not matter.
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
    tensors = _renamed(safetensors.Tensors(folder), family)
    rows = list(family.rows(config))
    if family.prefix and not any(name.startswith(family.prefix) for name in tensors):
        rows = weights.without_prefix(rows, family.prefix)
    heads = _heads(family, values, rows, tensors)
    rows = weights.select(rows, heads)
    abstract = abstract_params(config, heads)
    params = weights.from_tensors(rows, tensors, abstract, config.vocab_size)
    left = [name for name in weights.leftovers(family, rows, tensors, abstract) if name not in ignore]
    if left:
        raise DataError(
            f"{folder}: {len(left)} tensors are no part of the family {family.name}: {', '.join(left[:10])}. "
            f"Pass ignore= (--ignore={left[0]}) for what does not matter"
        )
    return Checkpoint(folder, family, config, heads, values, params)


def save_folder(
    folder: str | os.PathLike,
    family: Family | str,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    special: Mapping[str, int] | None = None,
    dtype: Any = None,
    shard_bytes: int = safetensors.SHARD_BYTES,
) -> str:
    """Writes config.json and safetensors that `from_pretrained` loads whole; the class's name.

    params: {"model": ..., "heads": ...} or {path: array}. special: ids for config.json ("pad_token_id").
    The class is the first of the family's whose heads are all there. Raises ConfigError for a model that
    the family's config.json cannot say, before anything is written.
    """
    family = TABLE.load(family) if isinstance(family, str) else family
    flat = tree.flatten(params)
    values = config_file.write(family, config)
    architecture, heads = _architecture(family, flat)
    rows = weights.select(family.rows(config), heads)
    if lacking := _lacking(family, rows, flat):
        raise ConfigError(lacking)
    if is_bare(architecture):
        rows = weights.without_prefix(rows, family.prefix)
    tensors = weights.to_tensors(rows, flat, config.vocab_size, None if dtype is None else np.dtype(dtype))
    safetensors.write(folder, list(tensors.items()), shard_bytes)
    head = {"architectures": [architecture], "model_type": family.model_type}
    write_json(pathlib.Path(folder) / "config.json", head | values | dict(special or {}))
    return architecture


def check_room(size: int, what: str) -> None:
    """Raises DeviceMemoryError with both numbers where `size` bytes do not fit the free memory."""
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
    """Parameters of a model with these heads, tied ones once, without the rows that pad the vocabulary."""
    exact = dataclasses.replace(config, vocab_multiple=1)
    found = abstract_params(exact, tuple(heads))
    kept = [path for path in found if not path.startswith("heads/") or path.startswith(tuple(heads))]
    return tree.num_params({path: found[path] for path in kept})


def family_of(config: ModelConfig, params: Mapping[str, Any]) -> str:
    """The first family whose files can hold the model as it is. ConfigError where there is none."""
    flat, reasons = tree.flatten(params), []
    for name in TABLE:
        family: Family = TABLE.load(name)
        if not family.architectures or family.base.kind != config.kind:
            continue
        try:
            config_file.write(family, config)
            _, heads = _architecture(family, flat)
        except ConfigError as error:
            reasons.append(f"  {name}: {error}")
            continue
        rows = weights.select(family.rows(config), heads)
        paths = {row.path for row in rows}
        left = [path for path in flat if path.startswith("model/") and path not in paths]
        reason = f"it has no place for {', '.join(left[:3])}" if left else _lacking(family, rows, flat)
        if not reason:
            return name
        reasons.append(f"  {name}: {reason}")
    lines = "\n".join(reasons)
    raise ConfigError(f"no Hugging Face class computes what this model does:\n{lines}")


def is_bare(architecture: str) -> bool:
    """Whether a class is the model without a head, whose tensors have no prefix."""
    return architecture.endswith("Model") and not architecture.endswith("HeadModel")


def _renamed(tensors: Mapping[str, np.ndarray], family: Family) -> Mapping[str, np.ndarray]:
    """The tensors by the names that the key table uses; norms of old files have gamma and beta."""
    rules = {
        r"LayerNorm\.gamma$": "LayerNorm.weight",
        r"LayerNorm\.beta$": "LayerNorm.bias",
        **family.renamed,
    }
    names = {}
    for name in tensors:
        new = name
        for pattern, replacement in rules.items():
            new = re.sub(pattern, replacement, new)
        names[name if new in tensors else new] = name
    return safetensors.RenamedTensors(tensors, names)


def _heads(
    family: Family, values: Mapping[str, Any], rows: list[WeightMapping], tensors: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """All heads whose tensors are there, and those that the class must have."""
    named = (values.get("architectures") or [""])[0]
    every = {head for heads in family.architectures.values() for head in heads}
    there = {head for head in every if weights.complete(rows, tensors, head)}
    there |= set(family.architectures.get(named, ()))
    return tuple(sorted(h for h in there if not any(h.startswith(f"{other}/") for other in there)))


def _lacking(family: Family, rows: list[WeightMapping], params: Mapping[str, Any]) -> str:
    """What to say where the family's classes have parameters that the model does not; "" where not."""
    missing = [row.path for row in rows if row.path not in params]
    return f"the model has no {', '.join(missing[:3])}, which {family.name} has" if missing else ""


def class_of(family: str, params: Mapping[str, Any]) -> str:
    """The Hugging Face class that an export of `params` to the family is for."""
    return _architecture(TABLE.load(family), tree.flatten(params))[0]


def _architecture(family: Family, params: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    for name, heads in family.architectures.items():
        if all(any(path.startswith(f"{head}/") for path in params) for head in heads):
            return name, heads
    raise ConfigError(
        f"the family {family.name} has no Hugging Face class for a model with these parameters; "
        f"its classes: {', '.join(family.architectures) or 'none'}"
    )
