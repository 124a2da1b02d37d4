"""The frozen reference that a language model is compared with: another model, or its base with the adapters off.

A config that has one has the fields `reference`, `reference_model` and `reference_hash` of training/teacher.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tlx.adapt.config import AdaptConfig
from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.nn.config import AdapterConfig

# Methods that leave every parameter of the base as it is: without their modules the model is the base.
_REMOVABLE = ("lora", "pfeiffer", "prefix", "fl")


def is_removable(adapt: AdaptConfig) -> bool:
    """Return whether a model that is adapted so is its base once the adapters are off."""
    return adapt.method in _REMOVABLE and not adapt.also_train


def reference_model(config: Any, model: ModelConfig) -> ModelConfig:
    """Return the architecture of the reference, executed as the policy is.

    Args:
        config: Config with the fields of a reference.
        model: Architecture of the policy.

    Returns:
        That of `config.reference_model`, or the policy's without adapters where there is none.

    Raises:
        ConfigError: The two do not read the same rows.
    """
    reference: ModelConfig | None = config.reference_model
    if reference is None:
        return dataclasses.replace(model, adapters=AdapterConfig())
    if reference.kind != model.kind or reference.vocab_size not in (0, model.vocab_size):
        raise ConfigError(
            f"objective.reference = {config.reference!r} is {reference.kind} with {reference.vocab_size} ids, the "
            f"model {model.kind} with {model.vocab_size}: both read the same rows"
        )
    names = ("execution", "dtype", "vocab_size", "vocab_multiple")
    return dataclasses.replace(reference, **{name: getattr(model, name) for name in names})


def abstract_reference(module: Any) -> Any:
    """Return the abstract, boxed parameters of a reference's module, a GenerationModule."""
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    prefixes = ("encoder_", "decoder_") if module.model.kind == "encoder_decoder" else ("",)
    names = [prefix + name for prefix in prefixes for name in ("tokens", "positions", "segments")]
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = lambda key, batch: module.init(key, batch, method="predictions")  # noqa: E731
    return jax.eval_shape(init, key, dict.fromkeys(names, ids))["params"]
