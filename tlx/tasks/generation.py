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
from typing_extensions import override

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.data.readers import Record
from tlx.tasks.shared.base import Columns, Prediction, Scores, TaskSpec, languages_of
from tlx.tasks.shared.generative import (
    DecodingConfig,
    GenerationItem,
    GenerativeTask,
    source_ids,
    target_ids,
)
from tlx.tasks.shared.templates import columns_of, filled, texts_of
from tlx.tasks.shared.text_metrics import METRICS, majority_baseline
from tlx.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class GenerationColumns:
    """Templates that make sources and targets of records, and the metrics of generated texts."""

    source: str = "{source}"
    """Template of the source, in which {column} is a column's text."""
    language: str = ""
    """Column with the language of the source, of its control code or its mode, for a base model that was trained with
    those; "" is the default of the base model."""
    target_language: str = ""
    """Column with the same of the target; "" is that of the source."""
    target: str = "{target}"
    """Template of the target; one column with a list of texts has several references."""
    label_words: tuple[tuple[str, str], ...] = ()
    """Pairs (label, what is written for it); () writes targets as they are."""
    number_step: float = 0.0
    """Targets are numbers, rounded to multiples of this (T5: 0.2); 0: they are texts."""
    metrics: tuple[str, ...] = ("exact_match", "f1")
    """Metrics of text_metrics.py; the first is the primary one."""

    def check(self, field: str = "objective") -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
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
        """Return the source of a record."""
        return filled(self.source, record, f"{field}.source")

    def references(self, record: Record, field: str = "objective") -> list[str]:
        """Return the targets of a record, at least one."""
        texts = texts_of(self.target, record, f"{field}.target") or [""]
        if self.number_step:
            return [self._rounded(record, text, field) for text in texts]
        if not self.label_words:
            return texts
        words = dict(self.label_words)
        labels = [text.strip() for text in texts]
        for label in labels:
            if label not in words:
                raise DataError(f"{record.where}: " + one_of(f"{field}.label_words", label, words))
        return [words[label] for label in labels]

    def _rounded(self, record: Record, text: str, field: str) -> str:
        try:
            number = float(text)
        except ValueError:
            raise DataError(f"{record.where}: {text!r} is no number ({field}.number_step is set)") from None
        decimals = max(0, -math.floor(math.log10(self.number_step)))
        return f"{round(number / self.number_step) * self.number_step:.{decimals}f}"


@dataclasses.dataclass(frozen=True)
class Generation(DecodingConfig, GenerationColumns):
    """One set of templates for all records."""

    name: str = "generation"
    """Name in the table of tasks."""

    def validate(self) -> None:
        """Raise ConfigError as both base classes do."""
        DecodingConfig.validate(self)
        self.check()


def items_of(
    records: Sequence[Record],
    columns: Sequence[tuple[GenerationColumns, str]],
    tokenizer: Tokenizer,
    spec: TaskSpec,
    labelled: bool,
) -> list[GenerationItem]:
    """Make an item of each record.

    Args:
        records: The records.
        columns: For each record its templates, and what they are called in messages.
        tokenizer: The run's tokenizer.
        spec: What examples depend on.
        labelled: Whether targets are read.

    Returns:
        The items.
    """
    pairs = list(zip(records, columns, strict=True))
    sources = tokenizer.encode_batch([how.read(record, field) for record, (how, field) in pairs])
    references = [how.references(record, field) if labelled else [] for record, (how, field) in pairs]
    targets = iter(tokenizer.encode_batch([text for texts in references for text in texts]))
    items = []
    for number, (source, texts) in enumerate(zip(sources, references, strict=True)):
        how, _ = columns[number]
        (names,) = languages_of([records[number]], (how.language, how.target_language), spec)
        ids = source_ids(source, tokenizer, spec, names)
        written = tuple(target_ids(next(targets), spec, names) for _ in texts)
        items.append(GenerationItem(ids, written, number, names))
    return items


def text_scores(
    how: GenerationColumns, predictions: Sequence[Prediction], records: Sequence[Record], field: str
) -> Scores:
    """Score generated texts.

    Args:
        how: Templates and metrics of these records.
        predictions: One for each record.
        records: The records.
        field: What the templates are called in messages.

    Returns:
        The metrics.
    """
    texts = [prediction["answer"] for prediction in predictions]
    references = [how.references(record, field) for record in records]
    statistics = {name: METRICS[name](texts, references) for name in how.metrics}
    everything = np.arange(len(texts))
    main = how.metrics[0]
    figures = {name: statistic(everything) for name, statistic in statistics.items()}
    return Scores(figures, main, statistics[main], majority_baseline(main, references))


class GenerationTask(GenerativeTask):
    """A text from a text."""

    config_class = Generation

    @override
    def text_columns(self, config: Any) -> Columns:
        """Return the columns of the source."""
        return tuple((name, "objective.source") for name in columns_of(config.source))

    @override
    def target_columns(self, config: Any) -> Columns:
        """Return the columns of the target."""
        return tuple((name, "objective.target") for name in columns_of(config.target))

    @override
    def prepare(
        self, records: Sequence[Record], tokenizer: Tokenizer, spec: TaskSpec, labelled: bool = True
    ) -> list[GenerationItem]:
        """Make an item of each record."""
        return items_of(records, [(spec.config, "objective")] * len(records), tokenizer, spec, labelled)

    @override
    def predictions(
        self, outputs: Mapping[str, Any], items: Sequence[GenerationItem], spec: TaskSpec
    ) -> list[Prediction]:
        """Decode generated ids.

        outputs: "written", the ids that were generated for each item.

        Returns:
            {"answer": the text}.
        """
        del items
        assert spec.tokenizer is not None
        return [{"answer": spec.tokenizer.decode(ids).strip()} for ids in outputs["written"]]

    @override
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record], spec: TaskSpec) -> Scores:
        """Compute the config's metrics."""
        return text_scores(spec.config, predictions, records, "objective")


TASK = GenerationTask()
