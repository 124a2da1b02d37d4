"""What objectives with a teacher share: how it is named, and how its frozen parameters reach the module.

A run opens the teacher (training/teacher.py), fills in what it is, and puts its parameters into the State's
frozen part as "teacher": they get no gradient, are in no checkpoint, and are split over the mesh as the
teacher's own rules say. A module without them, as a loaded student is, has the terms that need no teacher.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.objectives.mlm import MaskedModule
from tlx.objectives.shared.base import Batch, Predictions


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """teacher: a run directory, one of its checkpoints, or a Hugging Face directory. What is in it is read
    when a run starts and kept with the run's config: `teacher_model`, and `teacher_hash` of its weights.
    init_layers: the teacher's layers that the student begins as, with its tables and head; none: as drawn."""

    teacher: str = ""
    teacher_model: ModelConfig | None = None
    teacher_hash: str = ""
    init_layers: tuple[int, ...] = ()


class TeacherModule(MaskedModule):
    """A masked model whose head reads every place."""

    def everywhere(self, batch: Batch, keys: jax.Array | None) -> tuple[jax.Array, Predictions]:
        """(hidden states [B, T, D], what predicts the token of every place)."""
        hidden_BTD = self.lm(batch, keys=keys)
        return hidden_BTD, Predictions(*self.heads.mlm(hidden_BTD, self.lm.unembedding()))


class StudentModule(TeacherModule):
    """A masked model that learns from another one; subclasses say what."""

    teacher_class: ClassVar[type[TeacherModule]] = TeacherModule

    def frozen(self) -> dict[str, Any]:
        """Abstract parameters in boxes, {"teacher": ...}; ConfigError where there is no teacher."""
        ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        names = ("tokens", "positions", "segments", "target_positions")
        batch, key = dict.fromkeys(names, ids), jax.eval_shape(lambda: jax.random.key(0))
        module = self.teacher()
        init = lambda key, batch: module.init(key, batch, None, None, method="predictions")  # noqa: E731
        return {"teacher": jax.eval_shape(init, key, batch)["params"]}

    def begin(self, params: Any, frozen: Any) -> Any:
        """The student as some of the teacher's layers; ConfigError where these do not fit."""
        layers, theirs = self.config.init_layers, self.config.teacher_model
        if not layers:
            return params
        if len(layers) != self.model.num_layers or not all(0 <= i < theirs.num_layers for i in layers):
            raise ConfigError(
                f"objective.init_layers = {layers} must be {self.model.num_layers} (model.num_layers) of the "
                f"teacher's layers 0 to {theirs.num_layers - 1}"
            )
        if self.model.share_layers or theirs.share_layers:
            raise ConfigError(
                "objective.init_layers: layers that share their parameters cannot be chosen from"
            )
        return from_layers(params, frozen["teacher"], layers)

    def teacher(self) -> TeacherModule:
        """Its module, computed as the student is; ConfigError where it cannot teach this model."""
        config, model = self.config, self.config.teacher_model
        if model is None:
            raise ConfigError(
                f"objective.teacher = {config.teacher!r} must be a run directory or a Hugging Face directory"
            )
        if model.kind != "encoder":
            raise ConfigError(f"objective.teacher = {config.teacher!r} is no encoder but {model.kind!r}")
        if model.vocab_size not in (0, self.model.vocab_size):
            raise ConfigError(
                f"objective.teacher = {config.teacher!r} has a vocabulary of {model.vocab_size} ids, the "
                f"model one of {self.model.vocab_size}; tokenizer.path takes the teacher's tokenizer"
            )
        same = ("execution", "dtype", "vocab_size", "vocab_multiple")
        alike = {name: getattr(self.model, name) for name in same}
        return self.teacher_class(None, dataclasses.replace(model, **alike), self.loss, parent=None)

    def teacher_params(self) -> Any:
        """The frozen parameters; None where there are none."""
        return None if self.is_initializing() else self.variables["params"].get("teacher")


def from_layers(params: Any, teacher: Any, layers: tuple[int, ...]) -> Any:
    """The student's parameters with all that the teacher has too taken from it, of its layers those given.

    ConfigError where a shape differs; what the teacher lacks stays as it was drawn.
    """
    wrong = []

    def taken(path: tuple[Any, ...], own: jax.Array) -> jax.Array:
        found = teacher
        names = [key.key for key in path]
        for name in names:
            if not isinstance(found, dict) or name not in found:
                return own
            found = found[name]
        found = found[jnp.array(layers)] if "blocks" in names else found
        if found.shape != own.shape:
            wrong.append(f"{'/'.join(names)}: {own.shape}, the teacher's {found.shape}")
            return own
        return found.astype(own.dtype)

    begun = jax.tree_util.tree_map_with_path(taken, params)
    if wrong:
        raise ConfigError(
            "objective.init_layers: a student's layers are as large as its teacher's; " + wrong[0]
        )
    return begun
