"""How a trained model is adapted: the part of a run's config that says what is added and what is trained."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError
from tlx.nn.config import AdapterConfig

Method = Literal["full", "head", "lora", "houlsby", "pfeiffer", "prefix", "prompt", "bitfit", "fl"]


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """What is trained of a base model, and how fast.

    method: "full" trains all; the others train the task's head and

        head      nothing else
        lora      low-rank updates of lora_targets, rank `size`, scale lora_alpha / size (Hu et al. 2022)
        houlsby   bottlenecks of width `size` behind attention and feed-forward network, and all norms
                  (Houlsby et al. 2019)
        pfeiffer  bottlenecks behind the feed-forward network only (Pfeiffer et al. 2021)
        prefix    `size` keys and values in each layer (Li and Liang 2021)
        prompt    `size` vectors before the text (Lester et al. 2021)
        bitfit    all biases (Ben Zaken et al. 2022)
        fl        `size` hidden units added to each feed-forward network (FL-tuning, Liu et al. 2022)

    size 0 is the method's own: 8, 64, 64, 5, 20, -, 160. also_train: regular expressions of further
    parameters that are trained. layer_lr_decay: each layer's rate is that of the one above times this
    (ELECTRA: 0.8). gradual_unfreezing: fraction of the run after which one more layer from the top joins in
    (Howard and Ruder 2018); 0: all from the start. Parts of a model are kept as they are with
    optimizer.freeze.
    """

    method: Method = "full"
    size: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("attention/query", "attention/value")
    also_train: tuple[str, ...] = ()
    layer_lr_decay: float = 1.0
    gradual_unfreezing: float = 0.0

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if self.size < 0:
            raise ConfigError(f"adapt.size = {self.size} must not be negative; 0 is the method's own")
        if not 0 < self.layer_lr_decay <= 1:
            raise ConfigError(f"adapt.layer_lr_decay = {self.layer_lr_decay} must be above 0 and at most 1")
        if not 0 <= self.gradual_unfreezing < 1:
            raise ConfigError(
                f"adapt.gradual_unfreezing = {self.gradual_unfreezing} must be a fraction of the run "
                "from 0 up to 1"
            )
        if self.method == "full" and self.also_train:
            raise ConfigError("adapt.also_train adds to what the method trains; method 'full' trains all")

    @property
    def adapters(self) -> AdapterConfig:
        """What the method adds to the model."""
        size = self.size or _SIZES.get(self.method, 0)
        if self.method == "lora":
            return AdapterConfig(lora_rank=size, lora_alpha=self.lora_alpha, lora_targets=self.lora_targets)
        if self.method in ("houlsby", "pfeiffer"):
            return AdapterConfig(bottleneck_dim=size, bottleneck_after_attention=self.method == "houlsby")
        field = {"prefix": "prefix_length", "prompt": "prompt_length", "fl": "extra_ff_dim"}.get(self.method)
        return AdapterConfig(**{field: size}) if field else AdapterConfig()


_SIZES = {"lora": 8, "houlsby": 64, "pfeiffer": 64, "prefix": 5, "prompt": 20, "fl": 160}
