"""Config of the trainer: length and batch size, evaluation, logging."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class SpikeConfig:
    """Loss spikes, whose update is skipped like one that is not finite."""

    window: int = 0
    """Number of accepted steps whose losses a loss is compared with, 8 or more; 0 looks for no spikes."""
    threshold: float = 6.0
    """Number of scaled median absolute deviations above the window's median from which on a loss is a spike,
    above 0."""
    warmup_cap: float | None = None
    """Largest loss that is accepted until the window is full, in nats and above 0; None accepts any."""

    def validate(self) -> None:
        """Raise ConfigError for values that no run can have."""
        if self.window != 0 and self.window < 8:
            raise ConfigError(
                f"train.spike.window = {self.window} must be 8 or more, or 0 for no look at spikes"
            )
        if not self.threshold > 0:
            raise ConfigError(f"train.spike.threshold = {self.threshold} must be above 0")
        if self.warmup_cap is not None and not self.warmup_cap > 0:
            raise ConfigError(
                f"train.spike.warmup_cap = {self.warmup_cap} must be above 0, or None for any loss"
            )


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    """Exponential moving average of the trained parameters, saved beside them: tlx.load(run, params="ema")."""

    decay: float = 0.0
    """Weight of the average so far, below 1 (0.999 averages about the last 1,000 steps); after few steps it is
    smaller, (n + 1) / (n + 10). 0 keeps no average."""

    def validate(self) -> None:
        """Raise ConfigError for values that no run can have."""
        if not 0 <= self.decay < 1:
            raise ConfigError(
                f"train.ema.decay = {self.decay} must be above 0 and below 1, or 0 for no average"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length of a run, and how a step is computed."""

    steps: int = 1000
    """Number of batches to train on, 1 or more."""
    batch_size: int = 8
    """Number of sequences in the global batch, over all devices and microbatches."""
    microbatches: int = 1
    """Number of parts of the batch that are computed one after the other, their gradients accumulated; it
    must divide batch_size."""
    rows_per_device: int = 0
    """Most sequences that a device computes at once: the batch is divided into more microbatches where it takes them,
    so that a run goes on with fewer devices of the same memory, and back with more. 0 is any number."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradients, above 0; None does not clip."""
    clip_groups: tuple[str, ...] = ()
    """Regular expressions that divide the parameters into groups, each clipped by its own norm, as with an optimizer
    for each (DeBERTa v3's generator and discriminator): those that the first one matches, those of the others that
    the second one matches and so on, and the rest. () clips all together. optimizer.lr_multipliers gives groups
    learning rates."""
    mixout: float = 0.0
    """Probability with which an entry of a kernel is replaced, for a step, by that of the base model (Lee et al.
    2020: 0.7 to 0.9, with model.dropout = 0), in [0, 1); see training/mixout.py. Fine-tuning of all parameters."""
    layer_norms: bool = False
    """Whether the metrics hold the norm of each layer's gradient, "grad_norm/encoder/00" and so on from below."""
    max_skipped: int = 20
    """Number of skipped steps in a row (loss or gradient not finite, or a loss spike) after which the run has
    diverged: it goes back to the last good checkpoint, or stops (exit code 76). 1 or more."""
    max_rollbacks: int = 3
    """Number of times that a run which has diverged goes back to the last good checkpoint and leaves out the batches
    read since; 0 stops the first time (exit code 76)."""
    spike: SpikeConfig = dataclasses.field(default_factory=SpikeConfig)
    """Rule by which a loss is a spike; off by default."""
    ema: EmaConfig = dataclasses.field(default_factory=EmaConfig)
    """Moving average of the parameters; off by default."""
    stall_seconds: float | None = 600.0
    """Watchdog timeout in seconds without a step; the process then exits with code 170. None turns it off."""
    compare_every: int = 100
    """Number of steps between comparisons of the replicas of several processes, which are made after the first step
    and before each save too; 0 never compares."""
    profile_steps: tuple[int, int] = (10, 15)
    """(first, last) step of this start between whose ends --profile records a trace."""

    @property
    def skip_reason(self) -> str:
        """Why an update of the run may be skipped, for messages."""
        return "loss or gradient not finite" + (", or a loss spike" if self.spike.window else "")

    def validate(self) -> None:
        """Raise ConfigError for values that no run can have."""
        _at_least("train.steps", self.steps, 1)
        _at_least("train.batch_size", self.batch_size, 1)
        _at_least("train.microbatches", self.microbatches, 1)
        _at_least("train.rows_per_device", self.rows_per_device, 0)
        _at_least("train.max_skipped", self.max_skipped, 1)
        _at_least("train.max_rollbacks", self.max_rollbacks, 0)
        if not 0 <= self.mixout < 1:
            raise ConfigError(f"train.mixout = {self.mixout} must be at least 0 and below 1")
        self.spike.validate()
        self.ema.validate()
        _at_least("train.compare_every", self.compare_every, 0)
        if self.stall_seconds is not None and not self.stall_seconds > 0:
            raise ConfigError(
                f"train.stall_seconds = {self.stall_seconds} must be above 0, or None for never"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"train.clip_norm = {self.clip_norm} must be above 0, or None for no clipping")
        if self.clip_groups and self.clip_norm is None:
            raise ConfigError(
                f"train.clip_groups = {self.clip_groups} are clipped by norms of their own, and "
                "train.clip_norm = None clips none; set it to 1.0, say, or the groups to ()"
            )
        if not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise ConfigError(
                f"train.profile_steps = {self.profile_steps} must be (first, last), from step 1"
            )
        if self.batch_size % self.microbatches:
            legal = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
            raise ConfigError(
                f"train.microbatches = {self.microbatches} does not divide train.batch_size = "
                f"{self.batch_size}; it may be {', '.join(map(str, legal))}"
            )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation on the validation split."""

    every: int = 0
    """Number of steps between evaluations; 0 does not evaluate while training."""
    batches: int = 20
    """Number of batches of an evaluation while training, 1 or more."""
    final: bool = True
    """Whether the run ends with a long evaluation, baselines, a plot and samples."""
    final_batches: int = 2000
    """Largest number of batches of the evaluation at the end, 1 or more."""
    metric: str = "loss"
    """Validation metric by which checkpoint.keep_best and `patience` compare evaluations: "loss",
    "bits_per_byte", or a score of the task such as "accuracy"."""
    lower_is_better: bool | None = None
    """Whether a smaller `metric` is better; None decides by its name (losses, perplexities, errors and bits are
    better lower, all others higher)."""
    patience: int = 0
    """Number of evaluations in a row without an improvement of `metric` after which training stops early; 0
    never stops early."""
    min_delta: float = 0.0
    """Smallest change of `metric` that counts as an improvement for `patience`, 0 or more."""
    params: Literal["trained", "ema"] = "trained"
    """Parameters that are evaluated, and that write samples: the trained ones, or their moving average of
    train.ema. The model that tlx.train returns has the trained ones."""

    def validate(self) -> None:
        """Raise ConfigError for values that no run can have."""
        _at_least("eval.every", self.every, 0)
        _at_least("eval.batches", self.batches, 1)
        _at_least("eval.final_batches", self.final_batches, 1)
        _at_least("eval.patience", self.patience, 0)
        if not self.min_delta >= 0:
            raise ConfigError(f"eval.min_delta = {self.min_delta} must be 0 or more")
        if self.patience and not self.every:
            raise ConfigError(
                f"eval.patience = {self.patience} counts evaluations, but eval.every = 0 makes none; set it to "
                "the number of steps between them"
            )


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """Logging during training; metrics.jsonl and events.jsonl are always written."""

    every: int = 10
    """Number of steps between lines of metrics.jsonl, 1 or more."""
    print_every: int = 100
    """Number of steps between lines on the terminal or in its log, 1 or more."""
    tensorboard: bool | None = None
    """Whether TensorBoard files are written too, to tensorboard/ in the run directory; None writes them where
    tensorboardX is installed, True is an error where it is not."""
    wandb_project: str | None = None
    """Weights & Biases project to log to; None does not log there. wandb must be installed."""
    samples: int = 0
    """Number of texts that the model continues, or fills, at every evaluation, for samples.jsonl and the
    trackers: beginnings of documents of the validation split, or a task's first validation records. 0: none."""
    sample_prompts: tuple[str, ...] = ()
    """Further prompts of one's own for the samples of a pretraining; an encoder's hold "[MASK]"."""
    sample_tokens: int = 48
    """Largest number of new tokens of a sample, 1 or more."""

    def validate(self) -> None:
        """Raise ConfigError for values that no run can have."""
        _at_least("log.every", self.every, 1)
        _at_least("log.print_every", self.print_every, 1)
        _at_least("log.samples", self.samples, 0)
        _at_least("log.sample_tokens", self.sample_tokens, 1)

    @property
    def samples_wanted(self) -> bool:
        """Whether samples are written at evaluations."""
        return bool(self.samples or self.sample_prompts)


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """Base model of a fine-tuning, filled in when the run starts; empty for fresh parameters."""

    path: str = ""
    """Directory of the base model."""
    hash: str = ""
    """sha256 of the base model's parameters."""
    param_dtype: Literal["", "float32", "bfloat16"] = ""
    """Dtype of the base model's frozen parameters, float32 or bfloat16; empty for that of model.param_dtype."""


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{field} = {value} must be {least} or more")
