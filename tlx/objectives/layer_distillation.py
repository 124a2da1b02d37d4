"""Distillation layer by layer, as TinyBERT's: attention logits, hidden states, embeddings, predictions.

Jiao et al. 2020, section 3, and huawei-noah/Pretrained-Language-Model TinyBERT/general_distill.py. Student
layer m of M learns from teacher layer g(m), `layer_map` (from 1; none is the uniform map m N / M):

    attention_weight sum_m MSE(A_m, A'_g(m))  +  hidden_weight sum_m MSE(H_m W, H'_g(m))
    + embedding_weight MSE(H_0 W, H'_0)  +  prediction_weight T^2 KL(p_T || q_T)  +  loss_weight MLM

A are the logits of all heads before the softmax, H_0 what the first layer reads, H_m what layer m gives. Its
general stage has the first three alone, on masked text; the prediction's is that of a task, at T = 1. W is
one linear map with a bias to the teacher's width ("heads/projection"), as in the code; the paper has one for
the embeddings and one for the layers. Means are over tokens and over pairs of tokens that see each other;
the official ones count padding too.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Terms
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead
from tlx.models.transformer import Transformer
from tlx.nn.linear import Linear
from tlx.nn.losses import cross_entropy, soft_cross_entropy
from tlx.objectives.distillation import at_targets
from tlx.objectives.mlm import MLMObjective
from tlx.objectives.shared.base import Batch, Predictions, full_unembedding
from tlx.objectives.shared.layer_matching import (
    LayerOutputs,
    MatchingWeights,
    checked_layer_map,
    layer_outputs,
    matching_terms,
)
from tlx.objectives.shared.masking import Masking
from tlx.objectives.shared.teacher import StudentModule, TeacherConfig, TeacherModule

_WEIGHTS = ("attention_weight", "hidden_weight", "embedding_weight", "prediction_weight", "loss_weight")


@dataclasses.dataclass(frozen=True)
class LayerDistillation(TeacherConfig, Masking):
    """A teacher, what is learned from which of its layers, and what is masked (see Masking)."""

    name: str = "layer_distillation"
    """Name in the table of objectives."""
    layer_map: tuple[int, ...] = ()
    """The teacher's layer, from 1, for each of the student's; () is the uniform map."""
    attention_weight: float = 1.0
    """Weight of the attention logits in the loss."""
    hidden_weight: float = 1.0
    """Weight of the layers' outputs in the loss."""
    embedding_weight: float = 1.0
    """Weight of the first layer's input in the loss."""
    prediction_weight: float = 0.0
    """Weight of the teacher's distribution in the loss, times T^2; 0 leaves it out."""
    temperature: float = 1.0
    """Temperature T of both distributions, above 0."""
    loss_weight: float = 0.0
    """Weight of the masked tokens in the loss."""

    def validate(self) -> None:
        """Raise ConfigError as Masking does, and for a temperature not above 0 or a negative weight."""
        super().validate()
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature = {self.temperature} must be above 0")
        for name in _WEIGHTS:
            if getattr(self, name) < 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must not be negative")


class LayerDistillationHeads(nn.Module):
    """The parameters "heads/mlm" and "heads/projection"."""

    model: ModelConfig
    width: int
    """Width of the teacher."""

    def setup(self) -> None:
        """Build both heads."""
        block = self.model.block("encoder")
        self.mlm = MaskedHead(self.model)
        self.projection = Linear(
            (block.width,),
            (self.width,),
            ("embed", None),
            block.std(block.width),
            True,
            block.dtype,
            self.model.param_dtype,
        )


class LayerTeacherModule(TeacherModule):
    """A masked model that shows its layers."""

    def layers(
        self, batch: Batch, layers: tuple[int, ...], keys: jax.Array | None
    ) -> tuple[LayerOutputs, Predictions]:
        """Return what is compared of some layers.

        Args:
            batch: Arrays of masked language modelling, with a batch dim.
            layers: The layers, counted from 1.
            keys: A PRNG key for each row; None draws nothing.

        Returns:
            The outputs of the layers, and what every token is predicted from.
        """
        outputs = layer_outputs(self.lm, batch, layers, keys)
        predictions = Predictions(*self.heads.mlm(outputs.hidden, full_unembedding(self.lm.unembedding())))
        return outputs, predictions


class LayerDistillationModule(LayerTeacherModule, StudentModule):
    """The student; the teacher's parameters are "teacher"."""

    teacher_class: ClassVar[type[TeacherModule]] = LayerTeacherModule

    @override
    def setup(self) -> None:
        """Build the language model and the heads."""
        teacher = self.config.teacher_model
        self.lm = Transformer(self.model, name="model")
        self.heads = LayerDistillationHeads(self.model, teacher.width if teacher else self.model.width)

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms of the loss.

        "loss" and "accuracy" of the masked tokens; "attention_loss", "hidden_loss", "embedding_loss" and
        "prediction_loss".
        """
        config = self.config
        teacher = self.teacher_params()
        if teacher is None:
            hidden, student = self.everywhere(batch, keys)
            self.heads.projection(hidden)  # so that initialisation draws it
            outputs = None
        else:
            every_layer = tuple(range(1, self.model.num_layers + 1))
            outputs, student = self.layers(batch, every_layer, keys)
        masked = at_targets(student, batch)
        terms = cross_entropy(*masked, batch["targets"], batch["weights"], self.loss)
        terms = {
            name: term._replace(loss_weight=term.loss_weight * config.loss_weight)
            for name, term in terms.items()
        }
        if outputs is None:
            return terms, None
        variables: Any = {"params": teacher}
        result: Any = self.teacher().apply(variables, batch, self.layer_map(), None, method="layers")
        known_outputs, known = result
        outputs = outputs._replace(states=[self.heads.projection(x) for x in outputs.states])
        weights = MatchingWeights(config.attention_weight, config.hidden_weight, config.embedding_weight)
        terms |= matching_terms(outputs, known_outputs, batch["segments"], weights)
        if config.prediction_weight:
            real = (batch["segments"] > 0).astype(jnp.float32)
            soft = soft_cross_entropy(
                student.hidden,
                full_unembedding(student.unembedding),
                known.hidden,
                full_unembedding(known.unembedding),
                real,
                config.temperature,
                self.loss,
            )
            terms["prediction_loss"] = soft._replace(
                loss_weight=config.prediction_weight * config.temperature**2
            )
        return terms, None

    def layer_map(self) -> tuple[int, ...]:
        """Return g(1), ..., g(M).

        Raises:
            ConfigError: There is no such map, or the layers cannot be compared.
        """
        config = self.config
        return checked_layer_map(config.layer_map, self.model, config.teacher_model, "objective.layer_map")


class LayerDistillationObjective(MLMObjective):
    """TinyBERT's layer-by-layer distillation, on rows of masked language modelling."""

    config_class = LayerDistillation
    module = LayerDistillationModule


OBJECTIVE = LayerDistillationObjective()
