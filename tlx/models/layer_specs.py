"""One spec for each layer of a stack, and the groups of layers that one scan can run."""

import dataclasses
from collections.abc import Sequence

from tlx.nn.config import BlockConfig


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """Description of one layer. Layers with equal specs differ in their parameters only."""

    block: BlockConfig
    """The layer's own config: one window, one rotation."""

    attention_norm: bool = True
    """Whether attention reads norm(x); False: x as it is (ModernBERT's first layer)."""

    convolution: bool = False
    """Whether the convolution over the embeddings joins the layer's output (DeBERTa v2's first layer)."""

    query_passes: int = 0
    """Number of times that the layer runs on queries that attend to its input (DeBERTa's mask decoder); 0: once, on
    its input."""

    @property
    def in_pattern(self) -> bool:
        """Whether the layer is one of the repeating pattern, so that a scan may run it with others."""
        return self.attention_norm and not self.convolution and not self.query_passes


@dataclasses.dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers that one scan runs: a stretch of the pattern, or one layer unlike the others."""

    start: int
    """Index of the first layer."""

    specs: tuple[LayerSpec, ...]
    """One for each layer."""

    @property
    def stop(self) -> int:
        """Index after the last layer."""
        return self.start + len(self.specs)


def layer_specs(cfg: BlockConfig, *, convolution: bool = False, query_passes: int = 0) -> list[LayerSpec]:
    """Describe every layer of a stack.

    Args:
        cfg: what the layers share, and the pattern of windows that they repeat.
        convolution: whether a convolution joins the first layer's output.
        query_passes: how often the last layer runs on queries; 0: it runs on its input, as any other.

    Returns:
        One spec for each layer.
    """
    last = cfg.num_layers - 1
    return [
        LayerSpec(
            block=cfg.layer(index),
            attention_norm=cfg.norm.before_first_layer or index > 0,
            convolution=convolution and index == 0,
            query_passes=query_passes if index == last else 0,
        )
        for index in range(cfg.num_layers)
    ]


def group_layers(specs: Sequence[LayerSpec]) -> list[LayerGroup]:
    """Split the layers of a stack into groups of consecutive ones.

    Args:
        specs: one for each layer of the stack.

    Returns:
        The groups in order: each layer outside the pattern alone, the layers between them together.
    """
    groups: list[LayerGroup] = []
    for index, spec in enumerate(specs):
        # A layer outside the pattern ends the group before it and begins one of its own; layers without keys have
        # other parts than the pattern's before them.
        is_continued = groups and (groups[-1].specs[-1].block.keys == "shared") == (
            spec.block.keys == "shared"
        )
        if is_continued and spec.in_pattern and groups[-1].specs[-1].in_pattern:
            groups[-1] = LayerGroup(groups[-1].start, (*groups[-1].specs, spec))
        else:
            groups.append(LayerGroup(index, (spec,)))
    return groups
