"""What the trainer can be told: length and batch, evaluation, logging."""

import dataclasses

from tlx.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length of a run and how a step is made."""

    steps: int = 1000  # batches to train on
    batch_size: int = 8  # sequences in the global batch
    microbatches: int = 1  # parts that the batch is worked through in, one after the other
    clip_norm: float | None = 1.0  # largest global norm of the gradient; None: never clipped
    max_skipped: int = 20  # non-finite steps in a row after which the run stops with exit 76
    stall_seconds: float | None = 600.0  # so long without progress and the process leaves (170); None: never
    compare_every: int = 100  # steps after which several processes compare what must agree; 0: never
    profile_steps: tuple[int, int] = (10, 15)  # --profile traces from the end of one to that of the other

    def validate(self) -> None:
        """Raises ConfigError for values that no run can have."""
        _at_least("train.steps", self.steps, 1)
        _at_least("train.batch_size", self.batch_size, 1)
        _at_least("train.microbatches", self.microbatches, 1)
        _at_least("train.max_skipped", self.max_skipped, 1)
        _at_least("train.compare_every", self.compare_every, 0)
        if self.stall_seconds is not None and not self.stall_seconds > 0:
            raise ConfigError(
                f"train.stall_seconds = {self.stall_seconds} must be above 0, or None for never"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"train.clip_norm = {self.clip_norm} must be above 0, or None for no clipping")
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

    every: int = 0  # steps between evaluations; 0: none while training
    batches: int = 20  # batches of an evaluation while training
    final: bool = True  # whether the run ends with a long evaluation, baselines, a plot and samples
    final_batches: int = 2000  # batches of that evaluation, at most

    def validate(self) -> None:
        """Raises ConfigError for values that no run can have."""
        _at_least("eval.every", self.every, 0)
        _at_least("eval.batches", self.batches, 1)
        _at_least("eval.final_batches", self.final_batches, 1)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written down while training; metrics.jsonl and events.jsonl always are."""

    every: int = 10  # steps between lines of metrics.jsonl
    print_every: int = 100  # steps between lines on the terminal or in its log
    tensorboard: bool = True  # also write TensorBoard files, where a writer for them is installed
    wandb_project: str | None = None  # also log to this Weights & Biases project

    def validate(self) -> None:
        """Raises ConfigError for values that no run can have."""
        _at_least("log.every", self.every, 1)
        _at_least("log.print_every", self.print_every, 1)


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """The model that a fine-tuning began from: its directory, and the sha256 of its parameters. Empty: from
    fresh parameters."""

    path: str = ""
    hash: str = ""


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{field} = {value} must be {least} or more")
