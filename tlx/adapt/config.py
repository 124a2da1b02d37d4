"""Config of the adaptation of a base model: what is added to it, and what is trained."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError
from tlx.nn.config import AdapterConfig

Method = Literal["full", "head", "lora", "houlsby", "pfeiffer", "prefix", "prompt", "bitfit", "fl"]


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """Which parameters of a base model are trained, and how fast.

    Method "full" trains all. The others train the task's head and

        head      nothing else
        lora      low-rank updates of lora_targets, rank `size`, scale lora_alpha / size (Hu et al. 2022)
        houlsby   bottleneck adapters of width `size` after attention and feed-forward network, and all norms
                  (Houlsby et al. 2019)
        pfeiffer  bottleneck adapters after the feed-forward network only (Pfeiffer et al. 2021)
        prefix    `size` keys and values in each layer (Li and Liang 2021)
        prompt    `size` vectors before the text (Lester et al. 2021)
        bitfit    all biases (Ben Zaken et al. 2022)
        fl        `size` hidden units added to each feed-forward network (FL-tuning, Liu et al. 2022)

    Further parameters are frozen with optimizer.freeze.
    """

    method: Method = "full"
    """full, head, lora, houlsby, pfeiffer, prefix, prompt, bitfit or fl, as above."""
    size: int = 0
    """Rank, width or number of vectors of the method; 0 is its default: lora 8, houlsby and pfeiffer 64, prefix 5,
    prompt 20, fl 160."""
    prefix_hidden: int = 0
    """Hidden width of the network that makes a prefix in training (Li and Liang 2021: 512 or 800), which `tlx convert
    merge` replaces by the prefix; 0: the prefix itself is trained (P-tuning v2, Liu et al. 2022)."""
    lora_alpha: float = 16.0
    """LoRA's updates are scaled by lora_alpha / size."""
    lora_dropout: float = 0.0
    """Rate of the dropout of what LoRA's matrices read, in [0, 1) (Hu et al. 2022: 0.1 for GPT-2, 0 for RoBERTa)."""
    lora_targets: tuple[str, ...] = ("attention/query", "attention/value")
    """Matrices of a layer that LoRA updates."""
    base_weights: Literal["", "int8", "int4", "nf4"] = ""
    """Format in which matrices of the base model that are not trained are kept in memory: int8, int4 or nf4, of
    nn/weight_formats.py; "": as they are stored. Methods other than "full" (QLoRA, Dettmers et al. 2023: "nf4" under
    "lora")."""
    prompt_init: Literal["frequent", "labels"] = "frequent"
    """First values of a prompt's vectors: those of random frequent ids, or of the names of the task's labels in turn,
    the mean of each name's ids, and frequent ids for further vectors (Lester et al. 2021, 3.2)."""
    also_train: tuple[str, ...] = ()
    """Regular expressions of paths of further parameters that are trained."""
    reinit_layers: int = 0
    """Number of top layers of each stack that begin anew, and the pooler with them (Zhang et al. 2021, 4); method
    "full" only; 0: none."""
    layer_lr_decay: float = 1.0
    """Learning rate of each layer over that of the layer above, more than 0 and at most 1 (ELECTRA: 0.8)."""
    gradual_unfreezing: float = 0.0
    """Fraction of the run after which one more layer from the top is trained, below 1 (Howard and Ruder 2018); 0
    trains all from the start."""

    def validate(self) -> None:
        """Raise ConfigError, naming the field, its value and the legal ones, where a value is not usable."""
        if self.size < 0:
            raise ConfigError(f"adapt.size = {self.size} must not be negative; 0 is the method's default")
        if self.reinit_layers < 0 or (self.reinit_layers and self.method != "full"):
            raise ConfigError(
                f"adapt.reinit_layers = {self.reinit_layers} must not be negative, and 0 for adapt.method = "
                f"{self.method!r}, which does not train layers"
            )
        if self.prefix_hidden < 0 or (self.prefix_hidden and self.method != "prefix"):
            raise ConfigError(
                f"adapt.prefix_hidden = {self.prefix_hidden} must not be negative, and 0 for adapt.method = "
                f"{self.method!r}, which has no prefix"
            )
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"adapt.lora_dropout = {self.lora_dropout} must be at least 0 and below 1")
        if not 0 < self.layer_lr_decay <= 1:
            raise ConfigError(f"adapt.layer_lr_decay = {self.layer_lr_decay} must be above 0 and at most 1")
        if not 0 <= self.gradual_unfreezing < 1:
            raise ConfigError(
                f"adapt.gradual_unfreezing = {self.gradual_unfreezing} must be a fraction of the run "
                "from 0 up to 1"
            )
        if self.method == "full" and self.base_weights:
            raise ConfigError(
                f"adapt.base_weights = {self.base_weights!r}: method 'full' trains all matrices, and those in fewer "
                "bits cannot be trained; choose '', or a method such as 'lora'"
            )
        if self.method == "full" and self.also_train:
            raise ConfigError("adapt.also_train adds to what the method trains; method 'full' trains all")

    @property
    def adapters(self) -> AdapterConfig:
        """The adapter modules that the method adds to the model."""
        size = self.size or _SIZES.get(self.method, 0)
        if self.method == "lora":
            return AdapterConfig(
                lora_rank=size,
                lora_alpha=self.lora_alpha,
                lora_dropout=self.lora_dropout,
                lora_targets=self.lora_targets,
            )
        if self.method in ("houlsby", "pfeiffer"):
            return AdapterConfig(bottleneck_dim=size, bottleneck_after_attention=self.method == "houlsby")
        if self.method == "prefix":
            return AdapterConfig(prefix_length=size, prefix_hidden=self.prefix_hidden)
        if self.method == "prompt":
            return AdapterConfig(prompt_length=size)
        if self.method == "fl":
            return AdapterConfig(extra_ff_dim=size)
        return AdapterConfig()


# The size of each method where the config says 0.
_SIZES = {"lora": 8, "houlsby": 64, "pfeiffer": 64, "prefix": 5, "prompt": 20, "fl": 160}
