"""What a model has to beat: a linear classifier of tf-idf weights of a record's words or characters.

Support vector machine, one against the rest, on sublinear term frequencies of n-grams: the strong simple
baseline of text classification (Joachims 1998; Wang and Manning 2012), in seconds and by scikit-learn.
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

# The n-grams that are counted; those of characters stay inside words, with the spaces around them.
UNITS = {
    "words": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\S+"},
    "characters": {"analyzer": "char_wb", "ngram_range": (1, 4), "min_df": 2},
}


def check(config: Any, unit: str) -> None:
    """Raises ConfigError for a task that is no choice of one class, a unit that there is not, and where
    scikit-learn is missing."""
    if unit not in UNITS:
        raise ConfigError(one_of("--linear", unit, UNITS))
    if not isinstance(config, Classes) or config.multi_label:
        raise ConfigError("--linear is for tasks of one class a record: classification, pair_classification")
    library("sklearn", "scikit-learn", "--linear")


def linear_scores(
    task: Task, config: Classes, train: Sequence[Record], judged: Sequence[Record], unit: str
) -> Evaluation:
    """Fitted to `train`, whose labels `config` has; answers to `judged` and their scores."""
    check(config, unit)
    text = library("sklearn.feature_extraction.text", "scikit-learn", "--linear")
    svm = library("sklearn.svm", "scikit-learn", "--linear")
    vectorizer = text.TfidfVectorizer(sublinear_tf=True, **UNITS[unit])
    columns = task.text_columns(config)
    known = np.array([class_of(record, config.label, config.labels) for record in train])
    classifier = svm.LinearSVC(random_state=0).fit(vectorizer.fit_transform(_texts(train, columns)), known)
    found = classifier.predict(vectorizer.transform(_texts(judged, columns)))
    answers = [{"label": config.labels[number]} for number in found]
    spec = TaskSpec(config, 0, Vocabulary(7, num_sentinels=0), "encoder")  # of which scores need the config
    scores = task.score(answers, judged, spec)
    return Evaluation(scores.figures, scores, answers, judged)


def _texts(records: Sequence[Record], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [" ".join(record.joined(name, field) for name, field in columns) for record in records]
