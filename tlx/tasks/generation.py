"""A text from a text: summaries, translations, answers to questions, data put into words.

Source and target are templates of a record's columns, with whatever stands before them: "summarize:
{source}" is T5's prefix (Raffel et al. 2020), "{article} TL;DR:" is GPT-2's. Any task whose label can be
written is one of these: `label_words` are what the labels are called. Evaluated by what the model writes, by
greedy or beam search, against one reference or several.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.tasks.shared.base import Prediction, Scores, Task, TaskSpec
from tlx.tasks.shared.generative import (
    KINDS,
    DecodingConfig,
    GenerationItem,
    GenerationModule,
    asks,
    blank,
    ended,
    example,
    framed,
)
from tlx.tasks.shared.templates import columns_of, filled, texts_of
from tlx.tasks.shared.text_metrics import METRICS, majority_baseline
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class GenerationColumns:
    """source, target: templates, in which {column} stands for a column's text. A target that is one column
    with a list of texts has several references. label_words: (label, what is written for it) of labels.
    number_step: targets are numbers, rounded to its multiples (T5: 0.2); 0: they are texts. metrics: by
    text_scores.py, the first is the one that counts."""

    source: str = "{source}"
    target: str = "{target}"
    label_words: tuple[tuple[str, str], ...] = ()
    number_step: float = 0.0
    metrics: tuple[str, ...] = ("exact_match", "f1")

    def check(self, field: str = "objective") -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        for name in ("source", "target"):
            if not columns_of(getattr(self, name)):
                raise ConfigError(
                    f"{field}.{name} = {getattr(self, name)!r} names no column; write one as '{{{name}}}'"
                )
        if not self.metrics:
            raise ConfigError(f"{field}.metrics is empty; it may have {', '.join(METRICS)}")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(one_of(f"{field}.metrics", metric, METRICS))
        if self.number_step < 0:
            raise ConfigError(f"{field}.number_step = {self.number_step} must not be negative")

    def read(self, record: Record, field: str = "objective") -> str:
        """What the model reads."""
        return filled(self.source, record, f"{field}.source")

    def references(self, record: Record, field: str = "objective") -> list[str]:
        """What it may write, at least one text."""
        found = texts_of(self.target, record, f"{field}.target") or [""]
        if self.number_step:
            return [self._rounded(record, text, field) for text in found]
        if not self.label_words:
            return found
        words = dict(self.label_words)
        for text in found:
            if text.strip() not in words:
                raise DataError(f"{record.where}: " + one_of(f"{field}.label_words", text.strip(), words))
        return [words[text.strip()] for text in found]

    def _rounded(self, record: Record, text: str, field: str) -> str:
        try:
            number = float(text)
        except ValueError:
            raise DataError(f"{record.where}: {text!r} is no number ({field}.number_step is set)") from None
        decimals = max(0, -math.floor(math.log10(self.number_step)))
        return f"{round(number / self.number_step) * self.number_step:.{decimals}f}"


@dataclasses.dataclass(frozen=True)
class Generation(DecodingConfig, GenerationColumns):
    """One way of asking for all records."""

    name: str = "generation"

    def validate(self) -> None:
        """As its two halves."""
        DecodingConfig.validate(self)
        self.check()


def complete(config: Any, records: Sequence[Record]) -> Any:
    """Nothing is left open."""
    del records
    return config


def texts(config: Generation) -> tuple[tuple[str, str], ...]:
    """Columns of the source."""
    return tuple((name, "objective.source") for name in columns_of(config.source))


def written(config: Generation) -> tuple[tuple[str, str], ...]:
    """Columns of the target."""
    return tuple((name, "objective.target") for name in columns_of(config.target))


def prepare(
    records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
) -> list[GenerationItem]:
    """An item for each record."""
    return items_of(records, [(spec.config, "objective")] * len(records), tokenizer, spec, labelled)


def items_of(
    records: Sequence[Record],
    asking: Sequence[tuple[GenerationColumns, str]],
    tokenizer: Tokenizer,
    spec: TaskSpec,
    labelled: bool,
) -> list[GenerationItem]:
    """An item for each record, which is asked by its own config (of that name in messages)."""
    pairs = list(zip(records, asking, strict=True))
    sources = tokenizer.encode_batch([how.read(record, field) for record, (how, field) in pairs])
    known = [how.references(record, field) if labelled else [] for record, (how, field) in pairs]
    targets = iter(tokenizer.encode_batch([text for accepted in known for text in accepted]))
    return [
        GenerationItem(
            framed(source, tokenizer, spec), tuple(ended(next(targets), spec) for _ in accepted), number
        )
        for number, (source, accepted) in enumerate(zip(sources, known, strict=True))
    ]


def answers(outputs: Mapping[str, Any], items: Sequence[GenerationItem], spec: TaskSpec) -> list[Prediction]:
    """{"answer": what was written}."""
    del items
    return [{"answer": spec.tokenizer.decode(ids).strip()} for ids in outputs["written"]]


def score(answers: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
    """The config's metrics."""
    return scores_of(spec.config, answers, records, "objective")


def scores_of(
    how: GenerationColumns, answers: Sequence[Prediction], records: Sequence[Record], field: str
) -> Scores:
    """The metrics of answers to records that were asked like that."""
    said = [answer["answer"] for answer in answers]
    known = [how.references(record, field) for record in records]
    statistics = {name: METRICS[name](said, known) for name in how.metrics}
    everything, main = np.arange(len(said)), how.metrics[0]
    figures = {name: statistic(everything) for name, statistic in statistics.items()}
    return Scores(figures, main, statistics[main], majority_baseline(main, known))


TASK = Task(
    Generation,
    complete,
    texts,
    prepare,
    blank,
    example,
    GenerationModule,
    answers,
    score,
    KINDS,
    asks=asks,
    written=written,
)
