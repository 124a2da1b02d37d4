"""Four tasks in one text-to-text model, as in T5: reviews, inference, similarity and questions.

    tlx finetune --config=configs/finetune/multitask.py:FOLDER --from=BASE

FOLDER (./data by default) holds NSMC's ratings_train.txt, KLUE's klue-nli-v1.1_train.json (or _dev), KorSTS'
sts-train.tsv and a SQuAD file named *train*.json, each in any folder below it (optionally with .gz).
For encoder-decoders and decoders. Rows are mixed as in T5, by the square root of the set sizes (temperature
2) with a limit of 2^21. A label is a word, a similarity is a number rounded to fifths. scores.json has each
task's scores and their mean; `predict({"task": "nli", "premise": ..., "hypothesis": ...})` predicts.
Hardware: any. Expected: no figures are recorded yet. ":tiny" after the name is a run of a few steps.
"""

import pathlib

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

_REVIEWS = {
    "name": "reviews",
    "source": "review: {document}",
    "target": "{label}",
    "label_words": (("0", "negative"), ("1", "positive")),
    "metrics": ("accuracy",),
}
_INFERENCE = {
    "name": "nli",
    "source": "nli hypothesis: {hypothesis} premise: {premise}",
    "target": "{gold_label}",
    "metrics": ("accuracy",),
}
_SIMILARITY = {
    "name": "sts",
    "source": "sts sentence1: {sentence1} sentence2: {sentence2}",
    "target": "{score}",
    "number_step": 0.2,
    "metrics": ("spearman", "pearson"),
}
_QUESTIONS = {
    "name": "questions",
    "source": "question: {question} context: {context}",
    "target": "{answers}",
    "metrics": ("f1", "exact_match"),
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is the folder with the records, "tiny", or both joined by a colon."""
    folders = [word for word in arg.split(":") if word and pathlib.Path(word).is_dir()]
    words = words_of(arg, ("tiny", *folders))
    config = finetune_config("multitask")
    config.objective.parts = (_REVIEWS, _INFERENCE, _SIMILARITY, _QUESTIONS)
    config.objective.target_length = 32
    records = config.data.records
    inside = f"{folders[0] if folders else 'data'}/**"
    records.sets = (
        {"name": "reviews", "train": (f"{inside}/ratings_train.txt*",), "format": "tsv"},
        {"name": "nli", "train": (f"{inside}/klue-nli-v1.1_*.json*",), "format": "json"},
        {"name": "sts", "train": (f"{inside}/sts-train.tsv*",), "format": "tsv", "quoting": False},
        {"name": "questions", "train": (f"{inside}/*train*.json*",), "format": "squad"},
    )
    records.temperature = 2.0
    records.max_set_size = 2**21
    config.data.sequence_length = 384
    config.eval.every = 0  # generation takes longer than training: once, at the end
    if "tiny" not in words:
        return config
    records.sets = tuple({**record_set, "limit": 8} for record_set in records.sets)
    return few_records(config)
