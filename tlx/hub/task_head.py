"""The head of a task in a Hugging Face directory: what its config.json says, and where its tensors are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tlx.base.errors import ConfigError, one_of
from tlx.hub import config_file
from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    ACTIVATIONS_WITH_TANH,
    Family,
    TaskClass,
    WeightMapping,
    linear,
    norm,
    written_name,
)
from tlx.models.heads import TaskHeadConfig

# Tasks that read what a class computes; the first is the one where nobody chooses.
TASKS = {
    "sequence": ("classification", "pair_classification"),
    "number": ("regression", "similarity"),
    "token": ("token_classification",),
    "span": ("question_answering",),
}


@dataclasses.dataclass(frozen=True)
class TaskHead:
    """A head with the names of its outputs."""

    task: str
    """Name of the task in tlx, under which the parameters stand ("heads/classification")."""
    kind: Literal["sequence", "token", "span"]
    """Outputs for each text, for each token, or for the first and last token of an answer."""
    labels: tuple[str, ...]
    """Names of the outputs in order; () for a number and for spans."""
    shape: TaskHeadConfig
    """Layers of the head."""
    multi_label: bool = False
    """Whether a text has any number of labels."""
    mean: bool = False
    """Whether the mean over a text is read, not the state of one position."""

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        if self.kind == "span":
            return 2
        return len(self.labels) or 1


def read(
    family: Family, values: Mapping[str, Any], tensors: Mapping[str, Any], task: str | None = None
) -> TaskHead | None:
    """Read the head that the class of a config.json has.

    Args:
        family: The family of the model.
        values: The parsed config.json.
        tensors: Tensors by name, which say which biases there are.
        task: Name of the task to read it as; None takes the usual one.

    Returns:
        The head; None for a class without the head of a task.

    Raises:
        ConfigError: If tlx has no such head or task, or if the labels are not usable.
    """
    name = config_file.named_class(values)
    task_class = family.task_classes.get(name)
    if task_class is None:
        if task is not None:
            raise ConfigError(
                f"task = {task!r}: config.json names the class {name or 'none'}, which has no head of a task that "
                f"tlx reads; those of {family.name} are: {', '.join(family.task_classes) or 'none'}"
            )
        return None
    _check_fixed(task_class, values)
    labels = () if task_class.kind == "span" else _labels(values, tensors, task_class)
    problem = values.get("problem_type")
    is_number = task_class.kind == "sequence" and (len(labels) == 1 or problem == "regression")
    if is_number and len(labels) > 1:
        raise ConfigError(
            f"config.json: problem_type = 'regression' with {len(labels)} outputs: tlx's tasks of numbers have one"
        )
    legal = TASKS["number" if is_number else task_class.kind]
    if task is not None and task not in legal:
        raise ConfigError(f"the class {name}: " + one_of("task", task, legal))
    return TaskHead(
        task=task or legal[0],
        kind=task_class.kind,
        labels=() if is_number else labels,
        shape=TaskHeadConfig(
            dense="yes" if _has_dense(task_class, values) else "no",
            activation=_activation(task_class, values),
            dense_bias=not _has_dense(task_class, values) or f"{task_class.dense}.bias" in tensors,
            norm=bool(task_class.norm),
            bias=f"{task_class.classifier}.bias" in tensors,
        ),
        multi_label=task_class.kind == "sequence" and problem == "multi_label_classification",
        mean=bool(task_class.mean_key) and values.get(task_class.mean_key) == "mean",
    )


def choose_class(family: Family, config: ModelConfig, head: TaskHead) -> tuple[str, TaskClass]:
    """Choose the class of a family that computes a head.

    Args:
        family: The family.
        config: The model config.
        head: The head.

    Returns:
        Its name, and where its head is.

    Raises:
        ConfigError: If no class does; it says why.
    """
    reasons = []
    for name, candidate in family.task_classes.items():
        if candidate.kind != head.kind:
            continue
        reason = _difference(candidate, config, head)
        if not reason:
            return name, candidate
        reasons.append(f"{name} {reason}")
    raise ConfigError("; ".join(reasons) or f"it has no class with a head for {head.task}")


def write(task_class: TaskClass, head: TaskHead) -> dict[str, Any]:
    """Return the keys of config.json that describe a head."""
    names = head.labels or tuple(f"LABEL_{index}" for index in range(head.outputs))
    values: dict[str, Any] = {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    if head.kind == "sequence":
        kind = "multi_label_classification" if head.multi_label else "single_label_classification"
        values["problem_type"] = kind if head.labels else "regression"
    if task_class.activation_key:
        values[task_class.activation_key] = written_name(ACTIVATIONS_WITH_TANH, head.shape.activation)
    if task_class.dense_key:
        values[task_class.dense_key] = head.shape.dense == "yes"
    if task_class.mean_key:
        values[task_class.mean_key] = "mean" if head.mean else "cls"
    return values | {key: legal[0] for key, legal in task_class.fixed.items()}


def rows(task_class: TaskClass, head: TaskHead, config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a head.

    Args:
        task_class: The class that stores it.
        head: The head.
        config: The model config, for the bias of its norms.

    Returns:
        The mappings.
    """
    path = f"heads/{head.task}"
    mappings = linear(f"{path}/classifier", task_class.classifier, bias="f" if head.shape.bias else "")
    has_dense = head.shape.has_dense(config, per_token=head.kind != "sequence")
    if task_class.dense and has_dense:
        bias = "f" if head.shape.dense_bias else ""
        mappings += linear(f"{path}/pooler", task_class.dense, bias=bias)
    if task_class.norm:
        mappings += norm(f"{path}/norm", task_class.norm, config.norm.bias)
    return mappings


def body_rows(table: Sequence[WeightMapping], family: Family, task_class: TaskClass) -> list[WeightMapping]:
    """Return the rows of the model alone, with the names that they have in a class with a head.

    Args:
        table: The key table of the family.
        family: The family.
        task_class: The class with a head.

    Returns:
        The rows.
    """
    body = [row for row in table if row.path.startswith("model/")]
    if task_class.body is None:
        return body
    return [
        dataclasses.replace(row, name=task_class.body + row.name.removeprefix(family.prefix)) for row in body
    ]


def _difference(candidate: TaskClass, config: ModelConfig, head: TaskHead) -> str:
    """Return how a class differs from a head, for a message; "" where it computes the same."""
    shape = head.shape
    has_dense = shape.has_dense(config, per_token=head.kind != "sequence")
    if has_dense != bool(candidate.dense) and not (candidate.dense_key and candidate.dense):
        return f"has {'a' if candidate.dense else 'no'} dense layer, the head {'a' if has_dense else 'none'}"
    pairs: dict[str, tuple[Any, Any]] = {"objective.head.bias": (shape.bias, candidate.bias)}
    if candidate.dense and has_dense:
        pairs["objective.head.dense_bias"] = (shape.dense_bias, candidate.dense_bias(config))
        pairs["objective.head.norm"] = (shape.norm, bool(candidate.norm))
        if not candidate.activation_key:
            pairs["objective.head.activation"] = (shape.activation, candidate.activation)
    if head.mean and not candidate.mean_key:
        return "reads one position, the head the mean over the text (objective.pooling = 'mean')"
    for field, (value, other) in pairs.items():
        if value != other:
            return f"has {other!r} where {field} = {value!r}; fine-tune with {field} = {other!r} to export it"
    return ""


def _has_dense(task_class: TaskClass, values: Mapping[str, Any]) -> bool:
    """Return whether the class of a config.json has a dense layer before the last one."""
    return bool(task_class.dense) and bool(values.get(task_class.dense_key, True))


def _check_fixed(task_class: TaskClass, values: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of config.json with which the head would compute something else."""
    for key, legal in task_class.fixed.items():
        value = values.get(key, legal[0])
        if value not in legal:
            raise ConfigError("config.json: " + one_of(key, value, legal))


def _labels(values: Mapping[str, Any], tensors: Mapping[str, Any], task_class: TaskClass) -> tuple[str, ...]:
    """Return the names of the outputs, from id2label or as transformers calls them (LABEL_0)."""
    named = values.get("id2label")
    if not named:
        weight = tensors.get(f"{task_class.classifier}.weight")
        count = values.get("num_labels") or (2 if weight is None else weight.shape[0])
        named = {index: f"LABEL_{index}" for index in range(count)}
    try:
        by_index = {int(index): str(name) for index, name in dict(named).items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.json: id2label = {named!r} must map numbers to names") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise ConfigError(f"config.json: id2label = {named!r} must name 0 to {len(by_index) - 1}")
    labels = tuple(by_index[index] for index in range(len(by_index)))
    if len(set(labels)) != len(labels):
        raise ConfigError(f"config.json: id2label = {named!r} names two outputs alike")
    return labels


def _activation(task_class: TaskClass, values: Mapping[str, Any]) -> Any:
    """Return the activation of the dense layer in tlx's names."""
    name = values.get(task_class.activation_key) if task_class.activation_key else None
    if name is None:
        return task_class.activation
    if name not in ACTIVATIONS_WITH_TANH:
        raise ConfigError("config.json: " + one_of(task_class.activation_key, name, ACTIVATIONS_WITH_TANH))
    return ACTIVATIONS_WITH_TANH[name]
