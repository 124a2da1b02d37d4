"""Learning rates by depth: layer-wise decay and gradual unfreezing, as rules of the optimizer."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from tlx.adapt.config import AdaptConfig
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.optim.config import OptimizerConfig
from tlx.optim.leaves import STACK, Leaf, describe


def adapted_optimizer_config(
    optimizer: OptimizerConfig, adapt: AdaptConfig, model: ModelConfig, boxed: Any, steps: int
) -> OptimizerConfig:
    """Add the rules of layer-wise learning rate decay and gradual unfreezing to an optimizer's config.

    With decay d, a layer l below the top has d^(l + 2) of the learning rate, the embeddings d^(L + 2), the head
    and all else 1 (google-research/electra, layerwise learning rate decay). Gradual unfreezing trains the head
    first; each fraction `gradual_unfreezing` of the run adds a layer from the top, and at last the embeddings.

    Args:
        optimizer: The optimizer's config; its own rules come first.
        adapt: The adaptation's config.
        model: The model's config.
        boxed: The trained parameters, boxed with their logical names.
        steps: Steps of the run.

    Returns:
        The optimizer's config with the rules.

    Raises:
        ConfigError: All layers of the model share their parameters.
    """
    if adapt.layer_lr_decay == 1.0 and not adapt.gradual_unfreezing:
        return optimizer
    if model.share_layers:
        raise ConfigError(
            "adapt.layer_lr_decay and adapt.gradual_unfreezing differ by layer; this model shares one layer"
        )
    layers = _layers(model)
    rates = []
    begins = []
    for depth, pattern in enumerate((_EMBEDDINGS, *layers)):
        # 0 for the top layer, the number of layers for the embeddings.
        below = len(layers) - depth
        rates.append((pattern, adapt.layer_lr_decay ** (below + 2)))
        begins.append((pattern, round(adapt.gradual_unfreezing * (below + 1) * steps)))
    known = describe(boxed)
    changes: dict[str, Any] = {}
    if adapt.layer_lr_decay != 1.0:
        changes["lr_multipliers"] = (*optimizer.lr_multipliers, *_present(rates, known))
    if adapt.gradual_unfreezing:
        changes["unfreeze"] = (*optimizer.unfreeze, *_present(begins, known))
    return dataclasses.replace(optimizer, **changes)


# The parameters before the first layer of a stack.
_EMBEDDINGS = "^model/(embedding|query_embedding|((encoder|decoder)/)?(front|position_bias|distances))(/|$)"


def _layers(model: ModelConfig) -> list[str]:
    """Return the pattern of each layer, in the order in which the input passes them."""
    stacks = {
        "encoder": (("encoder", model.num_layers),),
        "decoder": (("decoder", model.num_layers),),
        "encoder_decoder": (("encoder", model.num_layers), ("decoder", model.decoder_layers)),
        "two_stream": (("", model.num_layers),),
    }[model.kind]
    names = ((f"{name}/" if name else "", count) for name, count in stacks)
    return [f"^model/{name}{STACK}[{i}]/" for name, count in names for i in range(count)]


def _present(rules: list[tuple[str, float]], leaves: Mapping[str, Leaf]) -> list[tuple[str, float]]:
    """Return the rules that match a trained parameter: with adapters the embeddings are not trained."""
    paths = list(leaves)
    return [rule for rule in rules if any(tree.matches(_any_layer(rule[0]), path) for path in paths)]


def _any_layer(pattern: str) -> str:
    return re.sub(STACK + r"\[\d+\]", STACK, pattern)
