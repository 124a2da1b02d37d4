"""GPT-3: GPT-2's block with alternating dense and locally banded attention."""

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, WeightMapping, resized
from tlx.models.families.gpt2 import BASE as GPT2
from tlx.models.families.gpt2 import rows as gpt2_rows

# The paper gives no bandwidth ("similar to the Sparse Transformer"): 256 is a choice of tlx.
BASE = resized(
    GPT2, position__max_length=2048, attention__window_pattern=(0, 256), dropout=0.0, attention__dropout=0.0
)


def size(layers: int, width: int, heads: int, head_dim: int) -> ModelConfig:
    """Resize the base model; the feed-forward has four times the width.

    Args:
        layers: Number of layers.
        width: Model width.
        heads: Number of attention heads.
        head_dim: Size of an attention head.

    Returns:
        The resized model config.
    """
    return resized(
        BASE,
        num_layers=layers,
        width=width,
        attention__num_heads=heads,
        attention__head_dim=head_dim,
        feedforward__ff_dim=4 * width,
    )


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model, which is that of GPT-2."""
    return gpt2_rows(config)


FAMILY = Family(
    name="gpt3",
    citation="Brown et al. 2020, Language Models are Few-Shot Learners, NeurIPS",
    base=BASE,
    sizes={
        "small": size(12, 768, 12, 64),
        "medium": size(24, 1024, 16, 64),
        "large": size(24, 1536, 16, 96),
        # The paper prints 24 heads of 128, which is 3072 and not the width of 2048; 16 heads are.
        "xl": size(24, 2048, 16, 128),
        "2.7b": size(32, 2560, 32, 80),
        "6.7b": size(32, 4096, 32, 128),
        "13b": size(40, 5140, 40, 128),  # as printed in the paper
        "175b": size(96, 12288, 96, 128),
    },
    rows=rows,
)
