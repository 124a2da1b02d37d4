"""Reader of the JSON format of SQuAD, versions 1.1 and 2.0."""

import json
from collections.abc import Iterator
from typing import Any

from tlx.base.errors import DataError
from tlx.data.readers.record import Record


def read_squad(path: str, text: str) -> Iterator[Record]:
    """Yield one record per question: id, title, context, question, answers (texts), starts (characters).

    Both lists are empty for an unanswerable question of SQuAD 2 (is_impossible). Raises DataError where the
    file has another structure.
    """
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    for a, article in enumerate(_get(root, "data", list, path)):
        at = f"{path}: data[{a}]"
        for p, paragraph in enumerate(_get(article, "paragraphs", list, at)):
            inside = f"{at}.paragraphs[{p}]"
            context = _get(paragraph, "context", str, inside)
            for q, question in enumerate(_get(paragraph, "qas", list, inside)):
                where = f"{inside}.qas[{q}]"
                answers, starts = _answers(question, where)
                values = {
                    "id": str(question.get("id", where)),
                    "title": article.get("title", ""),
                    "context": context,
                    "question": _get(question, "question", str, where),
                    "answers": answers,
                    "starts": starts,
                }
                yield Record(where, values)


def _answers(question: dict[str, Any], where: str) -> tuple[list[str], list[int]]:
    """Texts of the answers, and their first characters in the context."""
    # SQuAD 2 gives such questions plausible answers, which must not be learned.
    if question.get("is_impossible"):
        return [], []
    answers = _get(question, "answers", list, where)
    texts = [_get(answer, "text", str, where) for answer in answers]
    return texts, [_get(answer, "answer_start", int, where) for answer in answers]


def _get(value: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(key), kind):
        raise DataError(f"{where} has no {key!r}, expected SQuAD's json: {key!r} is a {kind.__name__} there")
    return value[key]
