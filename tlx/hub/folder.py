"""Opening a Hugging Face directory as a model, and saving a model as one."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tqdm

from tlx.base import tree
from tlx.base.config import flatten, to_dict
from tlx.base.errors import ConfigError, DataError, DeviceMemoryError
from tlx.base.files import write_json
from tlx.base.memory import available_bytes, size_text
from tlx.hub import architecture, config_file, safetensors, validation, weights
from tlx.hub import task_head as task_heads
from tlx.hub.network import abstract_params
from tlx.hub.sentence_transformers import transformer_folder
from tlx.hub.task_head import TaskHead
from tlx.models.config import ModelConfig
from tlx.models.families import MODEL_TYPES, TABLE, Family
from tlx.models.families.family import WeightMapping

STORED = "stored"
"""param_dtype of open_folder for parameters in the dtypes of their file."""


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
    task_head: TaskHead | None = None
    """The head of a task that it holds; None for none."""

    @property
    def num_params(self) -> int:
        """Number of scalars, without the rows that pad the vocabulary."""
        return count(self.config, self.heads, self.task_head)

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
    """Tell whether a directory looks like the output of `save_pretrained`, or of sentence-transformers."""
    folder = transformer_folder(folder)
    return (folder / "config.json").is_file() and not (folder / "run.json").is_file()


def open_folder(
    folder: str | os.PathLike,
    ignore: Collection[str] = (),
    param_dtype: str = "float32",
    vocab_multiple: int = 128,
    task: str | None = None,
) -> Checkpoint:
    """Open a Hugging Face directory: read config.json and the names and shapes of its tensors.

    A bare model, of which only the encoder, or everything but the output layer is stored, is read as far as it
    goes: an encoder of an encoder-decoder becomes an encoder, and a missing output layer is head.absent.

    Args:
        folder: The directory.
        ignore: Keys of config.json and names of tensors that do not matter.
        param_dtype: Dtype of the parameters that will be read; STORED: of each that of its tensors.
        vocab_multiple: The vocabulary is padded to a multiple of this.
        task: Name of the task as which a head is read (pair_classification); None takes the usual one.

    Returns:
        The checkpoint, which reads weights on demand.

    Raises:
        ConfigError: If the config cannot be represented.
        DataError: If files are missing, truncated, pickled or links to elsewhere, or if tensors are missing, left
            over or of the wrong shape.
    """
    folder = pathlib.Path(folder).absolute()
    validation.check_links(folder)
    values = validation.read_object(folder / "config.json")
    if not isinstance(values.get("model_type"), str):
        raise ConfigError(f"{folder / 'config.json'} has no model_type")
    family: Family = MODEL_TYPES.load(values["model_type"], allow=())
    stored = safetensors.Tensors(folder)
    with validation.malformed_is_one_line(str(folder / "config.json")):
        config = config_file.read(family, values, ignore)
        flat = flatten(to_dict(config))
        validation.check_sizes(flat, len(stored), stored.num_scalars, str(folder / "config.json"))
        as_stored = param_dtype == STORED
        dtype: Any = stored.main_dtype if as_stored else param_dtype
        config = dataclasses.replace(config, param_dtype=dtype, vocab_multiple=vocab_multiple)
        return _open(folder, family, config, values, stored, ignore, task, as_stored)


def _open(
    folder: pathlib.Path,
    family: Family,
    config: ModelConfig,
    values: Mapping[str, Any],
    stored: safetensors.Tensors,
    ignore: Collection[str],
    task: str | None,
    as_stored: bool,
) -> Checkpoint:
    """Open a directory whose config is read.

    Args:
        folder: The directory.
        family: Its family.
        config: The model config.
        values: The parsed config.json.
        stored: Its tensors.
        ignore: Names of tensors that do not matter.
        task: Name of the task as which a head is read.
        as_stored: Whether parameters have the dtypes of their tensors.

    Returns:
        The checkpoint. Raises as `open_folder`.
    """
    tensors = _with_current_names(stored, family)
    if family.tied_by_tensors and not architecture.is_without_output(family, values):
        config = tied_as_stored(family, config, tensors)
    weights.check_sinusoids(family, config, tensors)
    head = task_heads.read(family, values, tensors, task)
    config = architecture.stored_part(family, config, values, tensors)
    rows = architecture.stored_rows(family, config, values, tensors, head)
    class_family = architecture.with_body_prefix(family, values)
    tensors = weights.with_tied_names(class_family, rows, tensors)
    heads: tuple[str, ...] = ()
    harmless = set(ignore)
    if head is None:
        heads = architecture.stored_heads(family, values, rows, tensors)
        rows = weights.select(rows, heads)
    else:
        harmless |= architecture.pooler_names(family, config)
    abstract = abstract_params(config, heads, head)
    if as_stored:
        abstract = weights.with_stored_dtypes(rows, tensors, abstract)
    params = weights.from_tensors(rows, tensors, abstract, config.vocab_size)
    leftovers = weights.leftovers(class_family, rows, tensors, abstract)
    unused = [name for name in leftovers if name not in harmless]
    if unused:
        raise DataError(architecture.unused_message(folder, family, values, unused))
    return Checkpoint(folder, family, config, heads, values, params, head)


def save_folder(
    folder: str | os.PathLike,
    family: Family | str,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    special: Mapping[str, Any] | None = None,
    dtype: Any = None,
    shard_bytes: int = safetensors.SHARD_BYTES,
    task_head: TaskHead | None = None,
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
        task_head: The head of a task in `params` that is written with the model; None writes no such head.

    Returns:
        The name of the Hugging Face class: that of the task's head, or the first of the family whose heads are
        all in `params`.

    Raises:
        ConfigError: If the family's config.json cannot represent the model, before anything is written.
    """
    family = as_family(family)
    flat = tree.flatten(params)
    values = architecture.written_values(family, config)
    name, rows = architecture.written_rows(family, config, flat, task_head)
    if task_head is not None:
        values |= task_heads.write(family.task_classes[name], task_head)
    if message := _missing_params(family, rows, flat):
        raise ConfigError(message)
    target_dtype = None if dtype is None else np.dtype(dtype)
    tensors = weights.to_tensors(rows, flat, config.vocab_size, target_dtype)
    safetensors.write(folder, list(tensors.items()), shard_bytes)
    class_keys = {"architectures": [name], "model_type": family.model_type}
    write_json(pathlib.Path(folder) / "config.json", class_keys | values | dict(special or {}))
    return name


def check_room(size: int, what: str) -> None:
    """Raise DeviceMemoryError with both numbers if `size` bytes exceed the available host memory."""
    free = available_bytes()
    if free is not None and size > free:
        raise DeviceMemoryError(
            f"{what} needs {size_text(size)} of memory, {size_text(free)} are free; "
            'dtype="bfloat16" needs half of float32, weights="int8" a quarter, weights="int4" an eighth'
        )


def count(config: ModelConfig, heads: Collection[str] = (), task_head: TaskHead | None = None) -> int:
    """Count the parameters of a model; tied ones once, without vocabulary padding.

    Args:
        config: The model config.
        heads: Parameter paths of its pretraining heads.
        task_head: The head of a task, in place of those; None for none.

    Returns:
        Number of scalars.
    """
    unpadded = dataclasses.replace(config, vocab_multiple=1)
    abstract = abstract_params(unpadded, tuple(heads), task_head)
    if task_head is not None:
        return tree.num_params(abstract)
    counted = [path for path in abstract if not path.startswith("heads/") or path.startswith(tuple(heads))]
    return tree.num_params({path: abstract[path] for path in counted})


def family_of(config: ModelConfig, params: Mapping[str, Any], task_head: TaskHead | None = None) -> str:
    """Find the first family whose files can hold the model unchanged.

    Args:
        config: The model config.
        params: {"model": ..., "heads": ...}, or {path: array}.
        task_head: The head of a task that is to be written with the model; None for none.

    Returns:
        The name of the family.

    Raises:
        ConfigError: If none can; it has the reason of each.
    """
    flat = tree.flatten(params)
    reasons = {}
    required: dict[str, Mapping[str, Any]] = {}
    for name in TABLE:
        family: Family = TABLE.load(name)
        if not family.architectures or not architecture.has_kind(family, config):
            continue
        try:
            architecture.written_values(family, config)
            _, rows = architecture.written_rows(family, config, flat, task_head)
        except ConfigError as error:
            reasons[name] = str(error)
            if isinstance(error, config_file.NotRepresentable):
                required[name] = error.required
            continue
        paths = {row.path for row in rows}
        # The head of a task stands in place of the output layer, of which a tied one may have a bias.
        unused = "model/output/" if task_head is not None else None
        unmapped = []
        for path in flat:
            if path.startswith("model/") and path not in paths and not (unused and path.startswith(unused)):
                unmapped.append(path)
        if unmapped:
            reason = f"it has no tensor for {', '.join(unmapped[:3])}"
        else:
            reason = _missing_params(family, rows, flat)
        if not reason:
            return name
        reasons[name] = reason
    raise ConfigError(f"no Hugging Face class computes what this model does.{_advice(reasons, required)}")


def _advice(reasons: Mapping[str, str], required: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the nearest family with what to change, where one is near, and why it is none of the others.

    Args:
        reasons: {family: why its files cannot hold the model}.
        required: {family: the values that it needs, by dotted key of the run's config}.

    Returns:
        The lines, of which the nearest family's is the first.
    """
    nearest = min(required, key=lambda family: len(required[family])) if required else None
    lines = []
    if nearest is not None:
        flags = " ".join(f"--config.{key}={value}" for key, value in required[nearest].items())
        lines.append(f" The nearest is {nearest}: {reasons[nearest]}. To export, train a run with: {flags}")
    lines += [f"  {family}: {reason}" for family, reason in reasons.items() if family != nearest]
    return "\n".join(lines) if nearest is not None else "\n".join(["", *lines])


def tied_as_stored(family: Family, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> ModelConfig:
    """Return the config with an output kernel of its own if the tensors hold one that differs from the token table.

    Args:
        family: A family whose files do not say whether the two are tied (`tied_by_tensors`).
        config: The model config, as config.json has it.
        tensors: {name: tensor} of the checkpoint.

    Returns:
        The config: tied where the tensors hold no kernel, and as before where they hold an equal one.
    """
    untied = dataclasses.replace(config, head=dataclasses.replace(config.head, tied=False))
    names = {row.path: row.name for row in family.rows(untied)}
    table = tensors.get(names["model/embedding/table"])
    kernel = tensors.get(names["model/output/kernel"])
    if table is None or kernel is None:
        tied = True
    elif np.array_equal(table, kernel):
        tied = config.head.tied
    else:
        tied = False
    return dataclasses.replace(config, head=dataclasses.replace(config.head, tied=tied))


def as_family(family: Family | str) -> Family:
    """Look up a family by name; a family is returned as it is."""
    return TABLE.load(family) if isinstance(family, str) else family


def class_of(family: str, params: Mapping[str, Any]) -> str:
    """Return the Hugging Face class for which `params` would be exported."""
    name, _ = architecture.find_class(TABLE.load(family), tree.flatten(params))
    return name


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


def _missing_params(family: Family, rows: list[WeightMapping], params: Mapping[str, Any]) -> str:
    """Return a message if the family's classes have parameters that the model lacks, else ""."""
    missing = [row.path for row in rows if row.path not in params]
    return f"the model has no {', '.join(missing[:3])}, which {family.name} has" if missing else ""
