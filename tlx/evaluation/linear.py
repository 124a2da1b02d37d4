"""Linear baseline of a classification task: tf-idf weights of a record's words or characters.

A one-against-the-rest support vector machine on sublinear term frequencies of n-grams: the strong simple
baseline of text classification (Joachims 1998; Wang and Manning 2012), in seconds, by scikit-learn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.data.readers import Record
from tlx.evaluation.answers import Evaluation
from tlx.metrics.libraries import library
from tlx.tasks.classification import Classes
from tlx.tasks.shared.base import Task, TaskSpec
from tlx.tasks.shared.labels import class_of
from tlx.text.vocabulary import Vocabulary

# The n-grams counted; character n-grams stay inside words, padded with a space at each end.
UNITS = {
    "words": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\S+"},
    "characters": {"analyzer": "char_wb", "ngram_range": (1, 4), "min_df": 2},
}


def check(config: Any, unit: str) -> None:
    """Raise ConfigError unless the task has one class per record, `unit` is known and scikit-learn exists."""
    if unit not in UNITS:
        raise ConfigError(one_of("--linear", unit, UNITS))
    if not isinstance(config, Classes) or config.multi_label:
        raise ConfigError("--linear is for tasks of one class a record: classification, pair_classification")
    library("sklearn", "scikit-learn", "--linear")


def linear_scores(
    task: Task, config: Classes, train: Sequence[Record], evaluated: Sequence[Record], unit: str
) -> Evaluation:
    """Fit the baseline to training records and score its predictions.

    Args:
        task: The classification task, which scores.
        config: Its config, with the labels.
        train: Training records.
        evaluated: Records to predict.
        unit: "words" or "characters".

    Returns:
        Predictions for `evaluated` and their scores.

    Raises:
        ConfigError: as `check` does.
    """
    check(config, unit)
    text = library("sklearn.feature_extraction.text", "scikit-learn", "--linear")
    svm = library("sklearn.svm", "scikit-learn", "--linear")
    vectorizer = text.TfidfVectorizer(sublinear_tf=True, **UNITS[unit])
    columns = task.text_columns(config)
    labels = np.array([class_of(record, config.label, config.labels) for record in train])
    classifier = svm.LinearSVC(random_state=0).fit(vectorizer.fit_transform(_texts(train, columns)), labels)
    predicted = classifier.predict(vectorizer.transform(_texts(evaluated, columns)))
    answers = [{"label": config.labels[number]} for number in predicted]
    # Scoring reads only the config of the spec; the other values are placeholders.
    spec = TaskSpec(config, 0, Vocabulary(7, num_sentinels=0), "encoder")
    scores = task.score(answers, evaluated, spec)
    return Evaluation(scores.figures, scores, answers, evaluated)


def _texts(records: Sequence[Record], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [" ".join(record.joined(name, field) for name, field in columns) for record in records]
