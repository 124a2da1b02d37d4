"""Distillation of a task: a student learns from a fine-tuned teacher of the same task, on the same rows.

With the teacher's distribution p and the student's q at temperature T (Hinton et al. 2015, section 2), the loss is

    soft_weight T^2 mean KL(p_T || q_T)  +  hard_weight times the task's own loss
    + attention_weight sum_m MSE(A_m, A'_g(m))  +  hidden_weight sum_m MSE(H_m W, H'_g(m))
    + embedding_weight MSE(H_0 W, H'_0)

The first mean is over what the task's loss is a mean of: examples, tokens, or positions of an answer; of numbers
(similarity, regression) it is the squared difference, without T^2. The last three are TinyBERT's of a task (Jiao et
al. 2020, section 3.2; layer_matching.py), whose stages are these alone, then the first alone at T = 1. W is one
linear map with a bias to the teacher's width, "distillation/projection", and none where the widths are equal.

The module is that of the task, with the same parameters: what is trained is a run of the task like any other. The
teacher is frozen state (training/teacher.py). With `top_k`, its largest log-probabilities were computed once, before
training, and stand in the batch (trainer/teacher_log_probs.py):

    teacher_ids           int32 [B, T, k]
    teacher_log_probs     float32 [B, T, k]: at temperature T

The rest of the vocabulary then counts as one outcome, so that the divergence is that of k + 1 outcomes: 0 where both
models are the same, and at most the whole one.
"""

import dataclasses
import functools
import json
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.config import from_dict
from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.models.config import ModelConfig
from tlx.nn.linear import Linear
from tlx.nn.losses import LossConfig
from tlx.objectives.shared.layer_matching import (
    MatchingWeights,
    checked_layer_map,
    layer_outputs,
    matching_terms,
)
from tlx.tasks.shared.base import Batch, Task, TaskModule
from tlx.tasks.shared.frames import task_frame, tlx_frame
from tlx.text.frames import Frame
from tlx.text.vocabulary import Vocabulary

TEACHER_IDS = "teacher_ids"
"""Key of a batch: the ids of the teacher's largest log-probabilities."""
TEACHER_LOG_PROBS = "teacher_log_probs"
"""Key of a batch: these log-probabilities."""

_WEIGHTS = ("soft_weight", "hard_weight", "attention_weight", "hidden_weight", "embedding_weight")
_TRACED_LENGTH = 512  # of the row that the teacher's parameters are traced with; none depends on it


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """The teacher of a task, and what is learned from it."""

    teacher: str = ""
    """Run of the same task, or one of its checkpoints; for tasks without a head also a Hugging Face directory. "" has
    no teacher."""
    temperature: float = 1.0
    """Temperature T of both distributions, above 0."""
    soft_weight: float = 1.0
    """Weight of the teacher's distribution in the loss, times T^2; 0 leaves it out."""
    hard_weight: float = 0.0
    """Weight of the task's own loss."""
    attention_weight: float = 0.0
    """Weight of the attention logits, of encoders; with 0 for all three of them no layer is compared."""
    hidden_weight: float = 0.0
    """Weight of the layers' outputs, of encoders."""
    embedding_weight: float = 0.0
    """Weight of the first layer's input, of encoders."""
    layer_map: tuple[int, ...] = ()
    """The teacher's layer, from 1, for each of the student's; () is the uniform map."""
    top_k: int = 0
    """Largest log-probabilities of the teacher that are computed once for each token, before training, and kept in
    the user's cache with its hash, in place of its parameters: of tasks without a head. 0 has the teacher in
    memory."""
    teacher_model: ModelConfig | None = None
    """The teacher's model config; read when a run starts, and saved with the run."""
    teacher_task: str = ""
    """The teacher's own objective, as JSON; read when a run starts, and saved with the run."""
    teacher_frame: Frame | None = None
    """Form of the teacher's texts; read when a run starts, and saved with the run."""
    teacher_hash: str = ""
    """Hash of the teacher's weights; read when a run starts, and saved with the run."""

    config_group: ClassVar[str] = "distill"
    """Group of a run's config that this is, for messages."""

    @property
    def matching(self) -> MatchingWeights:
        """Coefficients of the terms of layers."""
        return MatchingWeights(self.attention_weight, self.hidden_weight, self.embedding_weight)

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if not self.temperature > 0:
            raise ConfigError(f"distill.temperature = {self.temperature} must be above 0")
        for name in _WEIGHTS:
            if getattr(self, name) < 0:
                raise ConfigError(f"distill.{name} = {getattr(self, name)} must not be negative")
        if self.top_k < 0:
            raise ConfigError(f"distill.top_k = {self.top_k} must be 0 or more")
        if not self.teacher:
            self._check_unused()
            return
        if not any(getattr(self, name) for name in _WEIGHTS):
            raise ConfigError(
                f"distill.teacher = {self.teacher!r}: all weights are 0, so that nothing is learned"
            )
        if self.top_k and (any(self.matching) or not self.soft_weight):
            raise ConfigError(
                f"distill.top_k = {self.top_k} keeps log-probabilities alone: distill.soft_weight must be above 0, "
                "and the weights of layers 0"
            )

    def _check_unused(self) -> None:
        """Raise ConfigError where something is said of a teacher and there is none."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                raise ConfigError(
                    f"distill.{field.name} = {value} needs a teacher: name its run, distill.teacher = 'runs/NAME'"
                )


def no_log_probs(length: int, count: int) -> dict[str, np.ndarray]:
    """Return the arrays of a row whose log-probabilities are not known: `length` positions of `count` ids."""
    return {
        TEACHER_IDS: np.zeros((length, count), np.int32),
        TEACHER_LOG_PROBS: np.zeros((length, count), np.float32),
    }


class Forward(NamedTuple):
    """A model's results on a batch."""

    outputs: Any
    """`TaskModule.soft_inputs`; None where they were not asked for."""
    layers: Any
    """LayerOutputs; None where they were not asked for."""


@functools.cache
def student_class(module: type[TaskModule]) -> type["StudentModule"]:
    """Return the class of a task's module with a teacher."""
    joined: Any = type(f"Student{module.__name__}", (StudentModule, module), {})
    return joined


def make_student(
    task: Task, objective: Any, model: ModelConfig, loss: LossConfig, distill: DistillConfig
) -> TaskModule:
    """Build a task's module with a teacher.

    Args:
        task: The task.
        objective: Its config.
        model: Architecture of the student.
        loss: Computation of the cross-entropy.
        distill: The teacher.

    Returns:
        The module.

    Raises:
        ConfigError: The two cannot be compared.
    """
    if not issubclass(task.module, TaskModule) or not task.module.can_distill:
        raise ConfigError(
            f"distill.teacher = {distill.teacher!r}: objective.name = {objective.name!r} has no distribution that a "
            "student learns; objectives of text have their own (distillation, layer_distillation)"
        )
    if distill.top_k and task.module.has_head:
        raise ConfigError(
            f"distill.top_k = {distill.top_k} is for tasks that predict tokens; objective.name = {objective.name!r} "
            "has few outcomes, and its teacher stays in memory with distill.top_k = 0"
        )
    if getattr(objective, "lm_loss_weight", 0.0):
        raise ConfigError(
            f"objective.lm_loss_weight = {objective.lm_loss_weight} must be 0 with a distill.teacher"
        )
    module: Any = task.module
    return student_class(module)(objective, model, loss, distill=distill, task=task)


def check_rows(
    objective: Any, frame: Frame | None, distill: DistillConfig, kind: str, vocab: Vocabulary
) -> None:
    """Raise ConfigError where teacher and student would need different rows of the same texts.

    Args:
        objective: Config of the student's task.
        frame: The form of the texts of the student's base model; None has tlx's rows.
        distill: The teacher, opened.
        kind: ModelConfig.kind.
        vocab: The vocabulary of both.
    """
    theirs = json.loads(distill.teacher_task) if distill.teacher_task else {}
    # A pretrained model or an imported one was trained on no rows of the task.
    if theirs.get("name") != objective.name:
        return

    def form(choice: str, trained: Frame | None) -> Any:
        """Return what the rows of a task have around its texts."""
        if choice == "tokenizer":
            return choice
        if choice == "tlx" or trained is None:
            trained = tlx_frame(kind, vocab)
        rows = task_frame(trained, kind, vocab)
        return rows.row(1), rows.row(2), rows.start, rows.begin, rows.end, rows.place, rows.restarts

    ours = form(getattr(objective, "frame", "model"), frame)
    if ours != form(theirs.get("frame", "model"), distill.teacher_frame):
        raise ConfigError(
            f"distill.teacher = {distill.teacher!r} reads its texts in another form (special ids around them) than "
            "the student's base model: both see the same rows. Start from a base model that was trained with the "
            "teacher's, or set objective.frame = 'tlx' for both"
        )


class StudentModule(TaskModule):
    """The losses that a teacher adds to a task's module.

    `student_class` joins the two, so that `super()` is the task's.
    """

    distill: DistillConfig = DistillConfig()
    """The teacher, and what is learned from it."""
    task: Any = None
    """The task, whose module the teacher's is."""

    def setup(self) -> None:
        """Build the task's module, and the map to the teacher's width."""
        parent: Any = super()  # the base class of both has no setup
        parent.setup()
        if self._is_projected:
            self.distillation = Projection(self.model, self._teacher_model().width)

    @property
    def _matches_layers(self) -> bool:
        return any(self.distill.matching)

    @property
    def _is_projected(self) -> bool:
        return self._matches_layers and self.model.width != self._teacher_model().width

    def _teacher_model(self) -> ModelConfig:
        model = self.distill.teacher_model
        if model is None:
            raise ConfigError(
                f"distill.teacher = {self.distill.teacher!r} must be a run directory or a Hugging Face directory"
            )
        if model.kind != self.model.kind or model.vocab_size not in (0, self.model.vocab_size):
            raise ConfigError(
                f"distill.teacher = {self.distill.teacher!r} is {model.kind} with {model.vocab_size} ids, the model "
                f"{self.model.kind} with {self.model.vocab_size}: both read the same rows"
            )
        # Both see the same ids, and their logits are compared.
        names = ("execution", "dtype", "vocab_size", "vocab_multiple")
        return dataclasses.replace(model, **{name: getattr(self.model, name) for name in names})

    def teacher_module(self) -> "StudentModule":
        """Return the teacher's module; ConfigError where it is of another task."""
        settings = self.config
        if self.task.module.has_head:
            settings = self._teacher_settings()
        return student_class(self.task.module)(
            settings, self._teacher_model(), self.loss, distill=self.distill, task=self.task, parent=None
        )

    def _teacher_settings(self) -> Any:
        distill = self.distill
        theirs = json.loads(distill.teacher_task) if distill.teacher_task else {}
        if theirs.get("name") != self.config.name:
            raise ConfigError(
                f"distill.teacher = {distill.teacher!r} must be a run of objective.name = {self.config.name!r}; it "
                + (f"is of {theirs['name']!r}" if theirs else "is a directory without a head")
            )
        for name in ("labels", "multi_label", "no_answer"):
            ours = getattr(self.config, name, None)
            if name in theirs and _plain(theirs[name]) != _plain(ours):
                raise ConfigError(
                    f"distill.teacher = {distill.teacher!r} has objective.{name} = {theirs[name]}, the student {ours}"
                )
        return from_dict(type(self.config), theirs, "the teacher's objective")

    @override
    def frozen(self) -> dict[str, Any]:
        """Return {"teacher": abstract, boxed parameters}; none where its log-probabilities are stored."""
        others = super().frozen()
        if self.distill.top_k:
            return others
        return others | {"teacher": self.teacher_params()}

    def teacher_params(self) -> Any:
        """Return the teacher's abstract, boxed parameters."""
        module = self.teacher_module()
        model = module.model
        length = model.position.max_length if model.position.kind == "learned" else _TRACED_LENGTH
        spec = self.task.abstract_spec(module.config, model, length, (), Vocabulary(model.vocab_size))
        example = self.task.abstract_example(spec)
        batch = {name: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype) for name, leaf in example.items()}
        init = lambda key, batch: module.init(key, batch, None, method="soft_inputs")  # noqa: E731
        return jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), batch)["params"]

    def forward(
        self, batch: Batch, layers: tuple[int, ...], outputs: bool, keys: jax.Array | None
    ) -> Forward:
        """Compute what is compared.

        Args:
            batch: Arrays of a batch.
            layers: Layers that are compared, from 1; () compares none.
            outputs: Whether the outputs are compared.
            keys: A PRNG key for each example; None draws nothing.

        Returns:
            The outputs and the layers.
        """
        results = self.soft_inputs(batch, keys) if outputs else None
        lm: Any = getattr(self, "lm")  # noqa: B009 (each task's module has one, the base class does not)
        return Forward(results, layer_outputs(lm, batch, layers, keys) if layers else None)

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the task's terms, "soft_loss", and those of layers; without a teacher the task's alone."""
        distill = self.distill
        teacher = None if self.is_initializing() else self.variables["params"].get("teacher")
        is_stored = TEACHER_IDS in batch
        if teacher is None and not is_stored:
            if self._matches_layers:
                self._layer_map(
                    batch
                )  # raises where the layers cannot be compared, before anything is compiled
            if self._is_projected:
                self.distillation(jnp.zeros((1, self.model.width)))  # initialisation draws it
            return super().__call__(batch, carry, keys)
        layers = ()
        if self._matches_layers:
            layers = tuple(range(1, self.model.num_layers + 1))
        ours = self.forward(batch, layers, True, keys)
        terms = {
            name: term._replace(loss_weight=term.loss_weight * distill.hard_weight)
            for name, term in self.hard_terms(ours.outputs, batch).items()
        }
        if is_stored:
            terms["soft_loss"] = self._weighted(self.stored_loss(ours.outputs, batch, distill.temperature))
            return terms, None
        theirs = self._layer_map(batch) if layers else ()
        with_outputs = distill.soft_weight > 0
        variables: Any = {"params": jax.lax.stop_gradient(teacher)}
        known: Any = self.teacher_module().apply(
            variables, batch, theirs, with_outputs, None, method="forward"
        )
        if with_outputs:
            soft_loss = self.soft_loss(ours.outputs, known.outputs, batch, distill.temperature)
            terms["soft_loss"] = self._weighted(soft_loss)
        if layers:
            matched = ours.layers
            if self._is_projected:
                matched = matched._replace(states=[self.distillation(x) for x in matched.states])
            terms |= matching_terms(matched, known.layers, batch["segments"], distill.matching)
        return terms, None

    def _weighted(self, term: Term) -> Term:
        return term._replace(loss_weight=term.loss_weight * self.distill.soft_weight)

    def _layer_map(self, batch: Batch) -> tuple[int, ...]:
        if self.model.kind != "encoder" or batch["tokens"].ndim != 2:
            raise ConfigError(
                "distill.attention_weight, hidden_weight and embedding_weight compare the layers of encoders that "
                f"read one row an example; the model is {self.model.kind!r} of objective.name = {self.config.name!r}"
            )
        return checked_layer_map(
            self.distill.layer_map, self.model, self._teacher_model(), "distill.layer_map"
        )


class Projection(nn.Module):
    """The parameters "distillation": a linear map with a bias to the teacher's width."""

    model: ModelConfig
    """The student's architecture."""
    width: int
    """Width of the teacher."""

    def setup(self) -> None:
        """Build the map."""
        block = self.model.block("encoder")
        self.projection = Linear(
            (block.width,),
            (self.width,),
            ("embed", None),
            block.std(block.width),
            True,
            block.dtype,
            self.model.param_dtype,
        )

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Return [..., width]."""
        return self.projection(hidden)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
