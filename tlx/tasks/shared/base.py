"""What every task is: an objective with labels. Its config, what it makes of records, an example in numpy,
a module with its loss and its predictions, and how the predictions score.

Keys of a batch, each with a leading batch dim: those of objectives (tokens, positions, segments, types, with
encoder_ and decoder_ in front for two towers), and

    place       int32 [B]: where the hidden state stands that speaks for the row
    label       int32 or float32 [B, ...]
    weights     float32 [B]: 0 for rows that only fill a batch

Where an example is several rows of tokens (both orders of a pair, the choices of a question) they have a dim
behind the batch's: tokens [B, R, T], place [B, R]. Where a row holds several examples (joined.py), place,
label and weights have one: tokens [B, T], place [B, M].
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from tlx.base.term import Terms
from tlx.data.readers import Record
from tlx.metrics.resampling import Statistic
from tlx.models.config import ModelConfig
from tlx.nn.losses import LossConfig
from tlx.text.tokenizer import Tokenizer
from tlx.text.vocabulary import Vocabulary

Batch = dict[str, jax.Array]
Prediction = dict[str, Any]  # what is written down as the prediction for a record: JSON


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSpec:
    """What examples and scores depend on besides the records. `length` is the model's sequence length, of
    each of its towers; `kind` its shape; `prompt` the ids of a trained prompt, which stand before texts.
    `tokenizer`: for answers that are texts; data workers, which make examples alone, have none."""

    config: Any
    length: int
    vocab: Vocabulary
    kind: str
    prompt: tuple[int, ...] = ()
    tokenizer: Tokenizer | None = None


class Item(NamedTuple):
    """A record as an example is made of it: its texts as ids, its label (None: not known), and from which
    record it comes."""

    texts: tuple[np.ndarray, ...]
    label: Any
    record: int = 0


class GenerationRequest(NamedTuple):
    """What a model is to write for items: what it goes on from, its decoder's side where it has two, and how
    the text is searched for."""

    prompts: Sequence[Sequence[int]]
    sources: Sequence[Sequence[int]] | None  # for the encoder
    max_tokens: int  # eos included
    num_beams: int = 0  # 0: greedy
    length_penalty: float = 1.0
    end: int | None = None  # the id that ends a text; None: eos
    stop: str = ""  # a text that does so too


class Scores(NamedTuple):
    """How good answers are: figures, the one that counts most, that one as a function of the records that it
    is computed from (for its interval), what it is where every record gets the same answer, and whether less
    of it is better."""

    figures: dict[str, float]
    main: str
    statistic: Statistic
    majority_baseline: float = 0.0
    lower_is_better: bool = False


class TaskModule(nn.Module):
    """The base of every task's module. Parameters are {"model": ...} and {"heads": {task: ...}}."""

    config: Any
    model: ModelConfig
    loss: LossConfig = LossConfig()

    def initial_carry(self, batch_size: int) -> None:
        """Rows of tasks have no memory."""
        return None

    def outputs(self, batch: Batch, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """What predictions and losses are made of, float32 [B, ...] each. keys: as in __call__."""
        raise NotImplementedError

    def terms(self, outputs: dict[str, jax.Array], batch: Batch) -> Terms:
        """The term "loss" and what else is to be known of a batch. Weights are a function of it alone."""
        raise NotImplementedError

    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """(terms, None). keys: a PRNG key for each row; None draws nothing."""
        return self.terms(self.outputs(batch, keys), batch), None

    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """(terms, outputs) without dropout."""
        outputs = self.outputs(batch)
        return self.terms(outputs, batch), outputs


class Task(NamedTuple):
    """The halves of a task, as its file exports them under the name TASK.

    complete(config, records) fills in what only the training data say (the names of the classes).
    prepare(records, tokenizer, spec) makes items, DataError naming the record that does not fit; `labelled`
    False wants no labels. texts(config) are the columns that hold text, (name, the config's field).
    example(rng, item, spec) gives one row's arrays (int32 and float32, always of the same shapes).
    blank(spec) is an item of no record. answers(outputs, items, spec): one for each record.
    score(answers, records, spec), and draw(answers, records, spec, path) a picture, where there is one.
    `kinds` are the values of ModelConfig.kind it works with.

    Of a task whose answers are written, asks(items, spec) says from what, and outputs["written"] are the ids,
    a list for each item; written(config) are columns with answers, which a vocabulary has to know too.
    `cuts`: a record may be several items (windows, pieces).
    Of one that packs where its config says `packing`, size(item, spec) are the places that an item takes in a
    row of training, and join(items) is one item of several.
    """

    config_class: type
    complete: Callable[[Any, Sequence[Record]], Any]
    texts: Callable[[Any], tuple[tuple[str, str], ...]]
    prepare: Callable[..., list[Any]]
    blank: Callable[[TaskSpec], Any]
    example: Callable[[np.random.Generator, Any, TaskSpec], dict[str, np.ndarray]]
    module: type[TaskModule]
    answers: Callable[[Mapping[str, np.ndarray], Sequence[Any], TaskSpec], list[Prediction]]
    score: Callable[[Sequence[Prediction], Sequence[Record], TaskSpec], Scores]
    kinds: tuple[str, ...]
    draw: Callable[..., None] | None = None
    asks: Callable[[Sequence[Any], TaskSpec], GenerationRequest | None] | None = None
    written: Callable[[Any], tuple[tuple[str, str], ...]] = lambda config: ()
    size: Callable[[Any, TaskSpec], int] | None = None
    join: Callable[[Sequence[Any]], Any] | None = None
    cuts: bool = False
    fills_gaps: bool = False  # as an objective's


def encode_columns(
    records: Sequence[Record], columns: Sequence[tuple[str, str]], tokenizer: Tokenizer
) -> list[tuple[np.ndarray, ...]]:
    """For each record the ids of its columns (name, field of the config), no special ids among them."""
    encoded = [
        tokenizer.encode_batch([record.text(name, field) for record in records]) for name, field in columns
    ]
    return list(zip(*encoded, strict=True))
