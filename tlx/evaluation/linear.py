"""Linear baselines of classification and of reward models: tf-idf weights of words or characters.

A one-against-the-rest support vector machine on sublinear term frequencies of n-grams: the strong simple
baseline of text classification (Joachims 1998; Wang and Manning 2012), in seconds, by scikit-learn. Of compared
answers it is a linear Bradley-Terry model: a logistic regression on differences of the answers' weights, or of the
logarithms of their lengths alone.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, one_of
from tlx.data.readers import Record
from tlx.evaluation.answers import Evaluation
from tlx.metrics.libraries import library
from tlx.tasks.classification import Classes
from tlx.tasks.reward import Reward, RewardTask
from tlx.tasks.shared.answers import read_answers
from tlx.tasks.shared.base import Prediction, Task, TaskSpec
from tlx.tasks.shared.labels import class_of
from tlx.text.vocabulary import Vocabulary

# The n-grams counted; character n-grams stay inside words, padded with a space at each end.
UNITS = {
    "words": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\S+"},
    "characters": {"analyzer": "char_wb", "ngram_range": (1, 4), "min_df": 2},
}


# Reward models alone: how long an answer is.
LENGTH = "length"


def check(config: Any, unit: str) -> None:
    """Raise ConfigError for a task without such a baseline, an unknown `unit`, and without scikit-learn."""
    compared = isinstance(config, Reward) and config.records != "rated"
    units = [*UNITS, LENGTH] if compared else [*UNITS]
    if unit not in units:
        raise ConfigError(one_of("--linear", unit, units))
    if not compared and (not isinstance(config, Classes) or config.multi_label):
        raise ConfigError(
            "--linear is for tasks of one class a record (classification, pair_classification) and for reward "
            "models of compared answers"
        )
    library("sklearn", "scikit-learn", "--linear")


def linear_scores(
    task: Task, config: Any, train: Sequence[Record], evaluated: Sequence[Record], unit: str
) -> Evaluation:
    """Fit the baseline to training records and score its predictions.

    Args:
        task: The task, which scores.
        config: Its config, with the labels of classes.
        train: Training records.
        evaluated: Records to predict.
        unit: "words", "characters" or, of reward models, "length".

    Returns:
        Predictions for `evaluated` and their scores.

    Raises:
        ConfigError: as `check` does.
    """
    check(config, unit)
    if isinstance(config, Reward):
        answers = _rewards(config, train, evaluated, unit)
    else:
        answers = _labels(task, config, train, evaluated, unit)
    # Scoring reads only the config of the spec; the other values are placeholders.
    spec = TaskSpec(config, 0, Vocabulary(7, num_sentinels=0), "encoder")
    scores = task.score(answers, evaluated, spec)
    return Evaluation(scores.figures, scores, answers, evaluated)


def _labels(
    task: Task, config: Classes, train: Sequence[Record], evaluated: Sequence[Record], unit: str
) -> list[Prediction]:
    """Return the predicted class of each record."""
    text = library("sklearn.feature_extraction.text", "scikit-learn", "--linear")
    svm = library("sklearn.svm", "scikit-learn", "--linear")
    vectorizer = text.TfidfVectorizer(sublinear_tf=True, **UNITS[unit])
    columns = task.text_columns(config)
    labels = np.array([class_of(record, config.label, config.labels) for record in train])
    classifier = svm.LinearSVC(random_state=0).fit(vectorizer.fit_transform(_texts(train, columns)), labels)
    predicted = classifier.predict(vectorizer.transform(_texts(evaluated, columns)))
    return [{"label": config.labels[number]} for number in predicted]


def _rewards(
    config: Reward, train: Sequence[Record], evaluated: Sequence[Record], unit: str
) -> list[Prediction]:
    """Return the rewards of the answers of each record: r = w f(y), fitted to the comparisons of training records."""
    regression = library("sklearn.linear_model", "scikit-learn", "--linear")
    texts = [_answer_texts(record, config) for record in train]
    if unit == LENGTH:
        features = _log_lengths
    else:
        text = library("sklearn.feature_extraction.text", "scikit-learn", "--linear")
        vectorizer = text.TfidfVectorizer(sublinear_tf=True, **UNITS[unit])
        vectorizer.fit([answer for answers in texts for answer in answers])
        features = vectorizer.transform
    better: list[str] = []
    worse: list[str] = []
    for record, answers in zip(train, texts, strict=True):
        ranks = RewardTask().ranks(record, config, len(answers))
        for i, j in itertools.permutations(range(len(answers)), 2):
            if ranks[i] < ranks[j]:
                better.append(answers[i])
                worse.append(answers[j])
    difference: Any = features(better) - features(worse)
    # Each pair in both orders, since a classifier needs two classes.
    signs = np.arange(len(better)) % 2 * 2 - 1
    rows = difference.multiply(signs[:, None]).tocsr() if unit != LENGTH else difference * signs[:, None]
    model = regression.LogisticRegression(fit_intercept=False, max_iter=1000).fit(rows, signs)
    predictions: list[Prediction] = []
    for record in evaluated:
        rewards = features(_answer_texts(record, config)) @ model.coef_[0]
        predictions.append({"rewards": rewards.tolist()})
    return predictions


def _log_lengths(texts: Sequence[str]) -> np.ndarray:
    return np.log1p([[len(text)] for text in texts])


def _answer_texts(record: Record, config: Reward) -> list[str]:
    answers = read_answers(record, config, config.answer_columns, config.records == "ranked").answers
    return [" ".join(message.content for message in turns) for turns in answers]


def _texts(records: Sequence[Record], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [" ".join(record.joined(name, field) for name, field in columns) for record in records]
