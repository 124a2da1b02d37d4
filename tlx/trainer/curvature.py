"""Curvature of a trained model's loss by layer, on its own data: what mixed precision is chosen by (Q-BERT)."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from tlx.api.loaded_model import LoadedModel
from tlx.base.errors import ConfigError
from tlx.evaluation.curvature import LayerCurvature, curvature, mixed_bits, module_loss
from tlx.trainer.evaluate import EvaluationRequest, has_labels, open_records, open_text


@dataclasses.dataclass(frozen=True)
class CurvatureConfig:
    """Size of the measurement; the paper's is 10 parts of a tenth of the training data."""

    parts: int = 10
    """Parts of the data, each with an eigenvalue of its own, at least 1."""
    batches: int = 1
    """Batches of a part, at least 1."""
    iterations: int = 20
    """Power iterations, at least 1."""
    bits: tuple[int, int] = (2, 4)
    """Bits of the less and of the more sensitive half of the layers."""
    seed: int = 0
    """Seed of the first vectors."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        for name in ("parts", "batches", "iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 2 <= self.bits[0] <= self.bits[1] <= 8:
            raise ConfigError(f"bits = {self.bits} must be two numbers of 2 to 8, the smaller one first")


@dataclasses.dataclass(frozen=True)
class CurvatureResult:
    """Sensitivity of each layer, and the bits that follow."""

    rows: Sequence[LayerCurvature]
    """The layers of every stack."""
    bits: tuple[int, ...] | None
    """model.quantization.layer_bits; None for a model of several stacks."""


def measure(model: LoadedModel, request: EvaluationRequest, settings: CurvatureConfig) -> CurvatureResult:
    """Measure the curvature of a model's loss on a split of its data, or on that of `request.data`.

    Args:
        model: A model of stacked layers, not quantised.
        request: On what; its `batches` are not read.
        settings: Size of the measurement.

    Returns:
        The layers' sensitivities, and bits for them.

    Raises:
        ConfigError: The model is quantised, has no stack or carries a memory, or a setting is not legal.
        DataError: The data cannot be read.
    """
    settings.validate()
    config = model.config.model
    module: Any = model.module
    if config.quantization.bits:
        raise ConfigError(
            f"model.quantization.bits = {config.quantization.bits}: bits follow from the curvature of a model that "
            "is not quantised yet"
        )
    if config.kind == "bilstm" or config.share_layers or module.initial_carry(1) is not None:
        raise ConfigError(
            f"curvature by layer is of models with stacked layers of their own and without a memory, this is "
            f"{config.kind} trained for {model.config.objective.name}"
        )
    pipeline: Any = open_records(model, request) if has_labels(model) else open_text(model, request)
    batches = list(itertools.islice(pipeline.epoch_batches(), settings.parts * settings.batches))
    if len(batches) < settings.parts * settings.batches:
        raise ConfigError(
            f"parts = {settings.parts} of batches = {settings.batches} need {settings.parts * settings.batches} "
            f"batches, the split has {len(batches)}: ask for fewer, or set --batch_size"
        )
    parts = [batches[start : start + settings.batches] for start in range(0, len(batches), settings.batches)]
    rows = curvature(module_loss(module), model.params, parts, settings.iterations, settings.seed)
    is_single = len({row.stack for row in rows}) == 1
    return CurvatureResult(rows, mixed_bits(rows, *settings.bits) if is_single else None)
