"""What every objective is: a config, what it reads, an example in numpy, and a module with its loss.

An objective is one file. Its `example` runs in data workers: pure, fixed shapes, numpy only. Its module
owns the language model (submodule "model") and the heads it needs (submodule "heads", by objective), and
turns a batch of examples into Terms.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tlx.text.vocabulary import Vocabulary
from tlx.text.window import Reads, Window


@dataclasses.dataclass(frozen=True, eq=False)
class Spec:
    """What an example depends on besides its text and its randomness.

    `length` is the model's sequence length (the encoder's, where there are two). `starts_word` [V] is
    True for pieces that begin a word; None where the tokenizer does not know.
    """

    config: Any
    length: int
    vocab: Vocabulary
    starts_word: np.ndarray | None = None


class Objective(NamedTuple):
    """The halves of an objective, as its file exports them under the name OBJECTIVE.

    reads(spec) says which text one row needs, ConfigError if `spec` makes no sense. example(rng, window,
    spec) gives one row's arrays (int32 and float32, always of the same shapes). `module` is a subclass of
    ObjectiveModule. `kinds` are the values of ModelConfig.kind it works with.
    """

    config_class: type
    reads: Callable[[Spec], Reads]
    example: Callable[[np.random.Generator, Window, Spec], dict[str, np.ndarray]]
    module: type
    kinds: tuple[str, ...]


def sparse_targets(tokens: np.ndarray, positions: np.ndarray, size: int, pad: int) -> dict[str, np.ndarray]:
    """`target_positions`, `targets`, `weights`, each [size]: what stands at `positions`, then weight 0."""
    count = len(positions)
    target_positions = np.zeros(size, np.int32)
    target_positions[:count] = positions
    targets = np.full(size, pad, np.int32)
    targets[:count] = tokens[positions]
    weights = np.zeros(size, np.float32)
    weights[:count] = 1.0
    return {"target_positions": target_positions, "targets": targets, "weights": weights}
