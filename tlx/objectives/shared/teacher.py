"""Parts of objectives with a teacher: how it is named, and how its frozen parameters reach the module.

A run opens the teacher (training/teacher.py), fills in its config, and puts its parameters into the State's
frozen part as "teacher": they get no gradient, are in no checkpoint, and are sharded as the teacher's own
rules say. A module without them, as a loaded student is, has the terms that need no teacher.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.objectives.mlm import MaskedModule
from tlx.objectives.shared.base import Batch, Predictions, full_unembedding


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher of a student."""

    teacher: str = ""
    """A run directory, one of its checkpoints, or a Hugging Face directory."""
    teacher_model: ModelConfig | None = None
    """The teacher's model config; read when a run starts, and saved with the run."""
    teacher_hash: str = ""
    """Hash of the teacher's weights; read when a run starts, and saved with the run."""
    init_layers: tuple[int, ...] = ()
    """Layers of the teacher, from 0, that the student's are initialised from, with its embeddings and head;
    () draws the student's parameters."""


class TeacherModule(MaskedModule):
    """A masked model that predicts every token of a row."""

    def everywhere(self, batch: Batch, keys: jax.Array | None) -> tuple[jax.Array, Predictions]:
        """Return the hidden states [B, T, D], and what the token at each position is predicted from."""
        hidden_BTD = self.lm(batch, keys=keys)
        return hidden_BTD, Predictions(*self.heads.mlm(hidden_BTD, full_unembedding(self.lm.unembedding())))


class StudentModule(TeacherModule):
    """Base of masked models that learn from another one; the teacher's frozen parameters are "teacher"."""

    teacher_class: ClassVar[type[TeacherModule]] = TeacherModule

    @override
    def frozen(self) -> dict[str, Any]:
        """Return {"teacher": abstract, boxed parameters}; raises ConfigError where there is no teacher."""
        ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        names = ("tokens", "positions", "segments", "target_positions")
        batch = dict.fromkeys(names, ids)
        key = jax.eval_shape(lambda: jax.random.key(0))
        module = self.teacher()
        init = lambda key, batch: module.init(key, batch, None, None, method="predictions")  # noqa: E731
        return {"teacher": jax.eval_shape(init, key, batch)["params"]}

    @override
    def begin(self, params: Any, frozen: Any) -> Any:
        """Return parameters whose layers are some of the teacher's; ConfigError where they do not fit."""
        layers = self.config.init_layers
        teacher: ModelConfig = self.config.teacher_model
        if not layers:
            return params
        if len(layers) != self.model.num_layers or not all(0 <= i < teacher.num_layers for i in layers):
            raise ConfigError(
                f"objective.init_layers = {layers} must be {self.model.num_layers} (model.num_layers) of the "
                f"teacher's layers 0 to {teacher.num_layers - 1}"
            )
        if self.model.share_layers or teacher.share_layers:
            raise ConfigError(
                "objective.init_layers: layers that share their parameters cannot be chosen from"
            )
        return from_layers(params, frozen["teacher"], layers)

    def teacher(self) -> TeacherModule:
        """Return the teacher's module, executed as the student is; ConfigError where it does not fit."""
        config = self.config
        model: ModelConfig | None = config.teacher_model
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
        # Both see the same ids, and their logits are compared.
        names = ("execution", "dtype", "vocab_size", "vocab_multiple")
        changes = {name: getattr(self.model, name) for name in names}
        return self.teacher_class(None, dataclasses.replace(model, **changes), self.loss, parent=None)

    def teacher_params(self) -> Any:
        """Return the teacher's frozen parameters; None where there are none."""
        return None if self.is_initializing() else self.variables["params"].get("teacher")


def from_layers(params: Any, teacher: Any, layers: tuple[int, ...]) -> Any:
    """Initialise a student from some of its teacher's layers.

    Args:
        params: The student's parameters; those that the teacher lacks are kept.
        teacher: The teacher's parameters.
        layers: Index of the teacher's layer for each of the student's.

    Returns:
        The student's parameters, in their own dtypes.

    Raises:
        ConfigError: A shape differs.
    """
    wrong = []

    def taken(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        value = teacher
        for name in names:
            if not isinstance(value, dict) or name not in value:
                return leaf
            value = value[name]
        if "blocks" in names:  # stacked over the layers
            value = value[jnp.array(layers)]
        if value.shape != leaf.shape:
            wrong.append(f"{'/'.join(names)}: {leaf.shape}, the teacher's {value.shape}")
            return leaf
        return value.astype(leaf.dtype)

    initialized = jax.tree_util.tree_map_with_path(taken, params)
    if wrong:
        raise ConfigError(
            "objective.init_layers: a student's layers are as large as its teacher's; " + wrong[0]
        )
    return initialized
