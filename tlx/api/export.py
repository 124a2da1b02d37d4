"""The head and the special tokens with which a loaded model is exported."""

import dataclasses
from typing import Any

import numpy as np

from tlx.api.loaded_model import LoadedModel
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.hub.task_head import TASKS, TaskHead
from tlx.nn.weight_formats import dequantized_tree
from tlx.run.config import get_objective
from tlx.run.spec import spec_of
from tlx.tasks.shared.base import TaskSpec, is_supervised
from tlx.tasks.shared.frames import frames_of, task_frame
from tlx.tasks.shared.inputs import input_row
from tlx.text.frames import RowFrame
from tlx.text.generation_rules import rules_of

SidesOfText = tuple[list[int], list[int]]
_WITHOUT = "--without-head writes the model alone"


def exported_head(model: LoadedModel, without_head: bool = False) -> tuple[dict[str, Any], TaskHead | None]:
    """Return the parameters to export, and the head of the task that the model is fine-tuned for.

    Args:
        model: The model.
        without_head: Whether the head of a task is left out.

    Returns:
        ({path: array}, the head); None for a model without the head of a task.

    Raises:
        ConfigError: If no Hugging Face class has such a head, or if it would read texts in another form.
    """
    params = tree.flatten(dequantized_tree(model.standalone_params))
    objective = get_objective(model.config)
    path = f"heads/{model.config.objective.name}/"
    if not is_supervised(objective) or not any(name.startswith(path) for name in params):
        return params, None
    if without_head:
        return {name: leaf for name, leaf in params.items() if name.startswith("model/")}, None
    config = model.config.objective
    kinds = {task: kind for kind, tasks in TASKS.items() for task in tasks}
    if config.name not in kinds:
        raise ConfigError(
            f"the head of {config.name} has no Hugging Face class; those of {', '.join(kinds)} do; {_WITHOUT}"
        )
    _check_rows(model)
    kind: Any = kinds[config.name]
    is_number = kind == "number"
    is_class = kind == "sequence"
    head = TaskHead(
        task=config.name,
        kind="sequence" if is_number else kind,
        labels=() if is_number or kind == "span" else tuple(config.labels),
        shape=config.head,
        multi_label=is_class and config.multi_label,
        mean=is_class and config.pooling == "mean",
    )
    kept = {name: leaf for name, leaf in params.items() if name.startswith(("model/", path))}
    return (_with_scale(kept, path, config) if is_number else kept), head


def exported_frame(model: LoadedModel) -> SidesOfText:
    """Return the special tokens before and after a text, as the model was trained."""
    frame = model.frame.named()
    kind = model.kind
    if model.config.objective.name in (task for tasks in TASKS.values() for task in tasks):
        # The form in which a class with a head reads a text.
        frame = task_frame(frame, kind, model.tokenizer.vocab)
    elif kind == "decoder":
        return list(frame.prompt), []
    return list(frame.before), list(frame.after)


def special_ids(model: LoadedModel) -> dict[str, Any]:
    """Return the ids of special tokens for config.json, those of an encoder-decoder's decoder among them.

    eos_token_id is a list where several ids end a text.
    """
    vocab = model.tokenizer.vocab
    frame = model.frame.named()
    ids: dict[str, Any] = {"pad_token_id": vocab.pad, "eos_token_id": vocab.eos}
    if model.kind == "encoder_decoder":
        ids["decoder_start_token_id"] = frame.start[0]
        if frame.begin:
            ids["bos_token_id"] = ids["forced_bos_token_id"] = frame.begin[0]
    else:
        ids["bos_token_id"] = vocab.bos
    if frame.vectors and frame.marks[0][0]:
        ids["lang2id"] = dict(frame.marks)
        return ids
    # Ids that tlx added to the vocabulary are outside the exported embedding.
    ids = {key: index for key, index in ids.items() if index < vocab.size - vocab.added}
    ends = rules_of(model.tokenizer).ends
    return ids | ({"eos_token_id": list(ends)} if len(ends) > 1 else {})


def _check_rows(model: LoadedModel) -> None:
    """Raise ConfigError if the exported tokenizer would frame texts in another way than the task did."""
    task = get_objective(model.config)
    spec = spec_of(model.config, model.tokenizer)
    assert is_supervised(task)
    columns = len(task.text_columns(model.config.objective))
    if spec.frames:
        return
    # Rows of one text and of two may differ in their form: a task has the one or the other.
    text = np.flatnonzero(~model.tokenizer.vocab.special)[:1].astype(np.int32)
    ours = input_row((text,) * columns, spec)
    theirs = input_row((text,) * columns, dataclasses.replace(spec, frames=_template(model, columns)))
    compared = [name for name in ours if name.endswith(("tokens", "positions"))]
    if model.config.model.embedding.num_types > 1 or model.kind == "two_stream":
        compared.append("types")
    if all(np.array_equal(ours[name], theirs[name]) for name in compared) and _same_place(spec, ours, theirs):
        return
    raise ConfigError(
        f"this run reads texts in another form than the exported tokenizer gives them: {_shown(model, ours)}, and "
        f"not {_shown(model, theirs)}. A model fine-tuned with objective.frame = 'tokenizer' (an imported "
        f"tokenizer's own form) can be exported with its head; {_WITHOUT}"
    )


def _same_place(spec: TaskSpec, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Tell whether the position that a classifier of texts reads is the same."""
    return spec.config.name in TASKS["token"] or ours["place"] == theirs["place"]


def _template(model: LoadedModel, num_texts: int) -> tuple[RowFrame, ...]:
    """Return the rows that the exported tokenizer makes."""
    if hasattr(model.tokenizer, "row_frame"):
        return frames_of(model.tokenizer, num_texts)
    before, behind = map(tuple, exported_frame(model))
    frames = []
    for number in range(1, num_texts + 1):
        ids = (before, *(behind,) * number)
        frames.append(RowFrame(ids, tuple((0,) * len(group) for group in ids), (0,) * number))
    return tuple(frames)


def _shown(model: LoadedModel, row: dict[str, np.ndarray]) -> str:
    """Return a row for a message, as the pieces that an encoder or a decoder reads."""
    name = "decoder_tokens" if "decoder_tokens" in row else "tokens"
    count = int(row[name.replace("tokens", "segments")].sum())
    return " ".join(model.tokenizer.piece(int(index)) or "?" for index in row[name][:count])


def _with_scale(params: dict[str, Any], path: str, config: Any) -> dict[str, Any]:
    """Put the scale of a number, on which the head gives 0 to 1, into its last layer."""
    extent = config.max_score - config.min_score
    if (config.min_score, extent) == (0.0, 1.0):
        return params
    kernel = f"{path}classifier/kernel"
    bias = f"{path}classifier/bias"
    scaled = {kernel: np.asarray(params[kernel]) * np.float32(extent)}
    if bias in params:
        scaled[bias] = np.asarray(params[bias]) * np.float32(extent) + np.float32(config.min_score)
    elif config.min_score:
        raise ConfigError(
            f"objective.min_score = {config.min_score}: the head has no bias that could hold it; {_WITHOUT}"
        )
    return params | scaled
