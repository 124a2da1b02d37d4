"""Which parts of a model a Hugging Face class stores, and which class stores a given model."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError
from tlx.hub import config_file, weights
from tlx.hub import task_head as task_heads
from tlx.hub.task_head import TaskHead
from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, WeightMapping, replaced

_OUTPUT = "model/output/"
_DECODER = "model/decoder/"


def is_bare(name: str) -> bool:
    """Tell whether a class is the model without a head, whose tensor names have no prefix."""
    return name.endswith("Model") and not name.endswith(("HeadModel", "MTModel"))


def is_without_output(family: Family, values: Mapping[str, Any]) -> bool:
    """Tell whether config.json names a class that has no output layer: a bare one, or one with a task's head."""
    name = config_file.named_class(values)
    return is_bare(name) or name in family.task_classes


def stored_part(
    family: Family, config: ModelConfig, values: Mapping[str, Any], tensors: Collection[str]
) -> ModelConfig:
    """Return the config of the part of a model that a directory stores.

    Args:
        family: The family.
        config: The whole model's config.
        values: The parsed config.json.
        tensors: Names of the tensors.

    Returns:
        An encoder where only that of an encoder-decoder is stored; head.absent where the output layer is not.
    """
    name = config_file.named_class(values)
    if family.encoder_class and name == family.encoder_class:
        return replaced(
            config, {"kind": "encoder", "num_decoder_layers": 0, "head.tied": True, "head.scale": False}
        )
    has_own_kernel = config.kind != "encoder" or config.head.half_tied or not config.head.tied
    if not has_own_kernel or name and not is_without_output(family, values):
        return config
    output = [row for row in family.rows(config) if row.path.startswith(_OUTPUT) and row.fill is None]
    if output and not any(row.name in tensors for row in output):
        return replaced(config, {"head.absent": True})
    return config


def stored_rows(
    family: Family,
    config: ModelConfig,
    values: Mapping[str, Any],
    tensors: Collection[str],
    head: TaskHead | None,
) -> list[WeightMapping]:
    """Return the key table of what a directory stores, with the names that its class gives the tensors.

    Args:
        family: The family.
        config: Config of the stored part.
        values: The parsed config.json.
        tensors: Names of the tensors.
        head: The head of a task; None for none.

    Returns:
        The rows of the model and of this head, or of all pretraining heads.
    """
    rows = _table(family, config)
    if head is None:
        return _matching_prefix(rows, family, tensors)
    task_class = family.task_classes[config_file.named_class(values)]
    body = task_heads.body_rows(rows, family, task_class)
    if task_class.body is None:
        body = _matching_prefix(body, family, tensors)
    return [*body, *task_heads.rows(task_class, head, config)]


def stored_heads(
    family: Family, values: Mapping[str, Any], rows: Sequence[WeightMapping], tensors: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the heads whose tensors are all present, and those that the class of config.json must have.

    Args:
        family: The family.
        values: The parsed config.json.
        rows: The key table.
        tensors: Tensors by name.

    Returns:
        Parameter paths of the heads.
    """
    name = config_file.named_class(values)
    known = {head for heads in family.architectures.values() for head in heads}
    heads = {head for head in known if weights.complete(rows, tensors, head)}
    required = set(family.architectures.get(name, ()))
    if is_bare(name):
        # A bare encoder may be stored without its pooler, which most uses do not read.
        required = {head for head in required if _any_stored(rows, tensors, head)}
    heads |= required
    # A whole head ("heads/nsp") includes its parts ("heads/nsp/pooler").
    whole = [head for head in heads if not any(head.startswith(f"{other}/") for other in heads)]
    return tuple(sorted(whole))


def with_body_prefix(family: Family, values: Mapping[str, Any]) -> Family:
    """Return the family with the names of copied tensors as its class with a head has them."""
    task_class = family.task_classes.get(config_file.named_class(values))
    if task_class is None or task_class.body is None:
        return family
    copies = {
        task_class.body + copy.removeprefix(family.prefix): task_class.body + name.removeprefix(family.prefix)
        for copy, name in family.copies.items()
    }
    return dataclasses.replace(family, copies=copies, prefix="")


def pooler_names(family: Family, config: ModelConfig) -> set[str]:
    """Return the tensors of poolers, which files of classes with another head may hold and no class reads."""
    return {row.name for row in family.rows(config) if "/pooler/" in row.path}


def unused_message(
    folder: pathlib.Path, family: Family, values: Mapping[str, Any], unused: Sequence[str]
) -> str:
    """Return the message for tensors that no parameter reads.

    Args:
        folder: The directory.
        family: The family.
        values: The parsed config.json.
        unused: Names of the tensors.

    Returns:
        The message, which says what to do.
    """
    name = config_file.named_class(values)
    known = (*family.architectures, *family.task_classes, family.encoder_class)
    message = (
        f"{folder}: {len(unused)} tensors are not part of the family {family.name}: {', '.join(unused[:10])}. "
        f"Pass ignore= (--ignore={unused[0]}) for what does not matter"
    )
    if name and name not in known:
        classes = ", ".join(known).removesuffix(", ")
        message += f"; config.json names the class {name}, tlx reads the heads of: {classes}"
    return message


def has_kind(family: Family, config: ModelConfig) -> bool:
    """Tell whether a family has a class for models of this kind."""
    return family.base.kind == config.kind or bool(family.encoder_class) and config.kind == "encoder"


def written_values(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Convert a model config, perhaps of a stored part, to the keys of a family's config.json.

    Raises ConfigError naming the first field that the family's format cannot represent.
    """
    changes: dict[str, Any] = {"head.absent": False}
    if family.base.kind != config.kind:
        changes["kind"] = family.base.kind
    return config_file.write(family, replaced(config, changes))


def written_rows(
    family: Family, config: ModelConfig, params: Mapping[str, Any], head: TaskHead | None
) -> tuple[str, list[WeightMapping]]:
    """Choose the class that stores a model.

    Args:
        family: The family.
        config: The model config.
        params: {path: array}.
        head: The head of a task that is to be stored too; None for none.

    Returns:
        The name of the class and its key table.

    Raises:
        ConfigError: If the family has no such class.
    """
    table = _table(family, config)
    if head is not None:
        name, task_class = task_heads.choose_class(family, config, head)
        body = [
            row for row in task_heads.body_rows(table, family, task_class) if not row.path.startswith(_OUTPUT)
        ]
        return name, [*body, *task_heads.rows(task_class, head, config)]
    if family.base.kind != config.kind:
        return family.encoder_class, weights.select(table, ())
    name, heads = find_class(family, params, config.head.absent)
    rows = weights.select(table, heads)
    if not is_bare(name):
        return name, rows
    rows = [row for row in rows if not row.path.startswith(_OUTPUT)]
    return name, weights.without_prefix(rows, family.prefix)


def find_class(family: Family, params: Mapping[str, Any], bare: bool = False) -> tuple[str, tuple[str, ...]]:
    """Return the first class whose heads are all in `params`, and these heads.

    Args:
        family: The family.
        params: {path: array}.
        bare: Whether only a class without a head is suitable.

    Returns:
        The name of the class, and its heads: () for an encoder that has no heads, not even a pooler.

    Raises:
        ConfigError: If there is none.
    """
    bare_classes = [name for name in family.architectures if is_bare(name)]
    for name, heads in family.architectures.items():
        if bare and name not in bare_classes:
            continue
        if all(any(path.startswith(f"{head}/") for path in params) for head in heads):
            return name, heads
    if bare_classes and not any(path.startswith("heads/") for path in params):
        return bare_classes[0], ()
    raise ConfigError(
        f"the family {family.name} has no Hugging Face class for a model with these parameters; "
        f"its classes: {', '.join(family.architectures) or 'none'}"
    )


def _table(family: Family, config: ModelConfig) -> list[WeightMapping]:
    """Return the rows of the parts that a config has."""
    rows = family.rows(replaced(config, {"kind": family.base.kind}))
    if config.kind == "encoder":
        rows = [row for row in rows if not row.path.startswith(_DECODER)]
    if config.head.absent:
        rows = [row for row in rows if not row.path.startswith(_OUTPUT)]
    return list(rows)


def _matching_prefix(
    rows: list[WeightMapping], family: Family, tensors: Collection[str]
) -> list[WeightMapping]:
    """Return the rows with the names of a bare model, where no tensor has the prefix."""
    if family.prefix and not any(name.startswith(family.prefix) for name in tensors):
        return weights.without_prefix(rows, family.prefix)
    return rows


def _any_stored(rows: Sequence[WeightMapping], tensors: Collection[str], head: str) -> bool:
    return any(row.name in tensors for row in rows if row.path.startswith(f"{head}/"))
