"""Rates by depth: layer-wise decay and gradual unfreezing, as rules of the optimizer."""

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
    """The optimizer's config with the rules that `adapt` stands for, behind its own. boxed: what is trained.

    Decay d gives what is l layers below the top d^(l + 2) of the rate, the embeddings d^(L + 2), the head and
    all else 1 (google-research/electra, layerwise decay of the learning rate). Gradual unfreezing trains the
    head first; each share `gradual` of the run adds a layer from the top, and at last the embeddings.
    """
    if adapt.layer_lr_decay == 1.0 and not adapt.gradual_unfreezing:
        return optimizer
    if model.share_layers:
        raise ConfigError(
            "adapt.layer_lr_decay and adapt.gradual_unfreezing tell layers apart; this model shares one"
        )
    layers = _layers(model)
    rates, begins = [], []
    for depth, pattern in enumerate((_EMBEDDINGS, *layers)):
        below = len(layers) - depth  # the top layer: 0, the embeddings: all
        rates.append((pattern, adapt.layer_lr_decay ** (below + 2)))
        begins.append((pattern, round(adapt.gradual_unfreezing * (below + 1) * steps)))
    known = describe(boxed)
    changes: dict[str, Any] = {}
    if adapt.layer_lr_decay != 1.0:
        changes["lr_multipliers"] = (*optimizer.lr_multipliers, *_present(rates, known))
    if adapt.gradual_unfreezing:
        changes["unfreeze"] = (*optimizer.unfreeze, *_present(begins, known))
    return dataclasses.replace(optimizer, **changes)


# What comes before the first layer of a stack.
_EMBEDDINGS = "^model/(embedding|query_embedding|((encoder|decoder)/)?(front|position_bias|distances))(/|$)"


def _layers(model: ModelConfig) -> list[str]:
    """A rule's pattern for each layer, in the order in which the input passes them."""
    stacks = {
        "encoder": (("encoder", model.num_layers),),
        "decoder": (("decoder", model.num_layers),),
        "encoder_decoder": (("encoder", model.num_layers), ("decoder", model.decoder_layers)),
        "two_stream": (("", model.num_layers),),
    }[model.kind]
    names = ((f"{name}/" if name else "", count) for name, count in stacks)
    return [f"^model/{name}{STACK}[{i}]/" for name, count in names for i in range(count)]


def _present(rules: list[tuple[str, float]], leaves: Mapping[str, Leaf]) -> list[tuple[str, float]]:
    """Rules about something that is trained: with adapters the embeddings are not."""
    paths = list(leaves)
    return [rule for rule in rules if any(tree.matches(_any_layer(rule[0]), path) for path in paths)]


def _any_layer(pattern: str) -> str:
    return re.sub(STACK + r"\[\d+\]", STACK, pattern)
