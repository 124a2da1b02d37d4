"""Reader of CoNLL files: one token and its columns per line, an empty line after each sentence."""

import re
from collections.abc import Iterator, Sequence

from tlx.data.bad_records import BadRecord
from tlx.data.readers.record import Record

_COMMENT = re.compile(r"#[^\t]*($| )")


def read_conll(path: str, text: str, columns: Sequence[str]) -> Iterator[Record | BadRecord]:
    """Yield one record per sentence, with a list for each column.

    Columns are separated by tabs, or by white space in lines without a tab. Before the first token of a
    sentence, lines that start with # are comments, unless a tab ends their first word ("#tag<tab>O").

    Args:
        path: Path of the file, for messages.
        text: Content of the file.
        columns: Names of the columns, "" for one to skip; empty: the first is "tokens", the last is "tags".

    Yields:
        The records; a BadRecord for a sentence with a line of too few columns.
    """
    names = list(columns)
    rows: list[list[str]] = []
    begin = 0
    problem = ""  # of the sentence
    # Not splitlines(): it would cut a token at U+2028. The empty line ends a last sentence without one.
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.rstrip("\r")
        if not line.strip():
            if problem:
                yield BadRecord(problem)
            elif rows:
                yield Record(f"{path}:{begin}", _columns(rows, names))
            rows = []
            problem = ""
            continue
        if not rows and not problem and _COMMENT.match(line):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        wanted = max(len(names), 2)  # a token and a tag at least
        if len(fields) < wanted or (rows and not names and len(fields) != len(rows[0])):
            if names:
                expected = f"{wanted}: {', '.join(names)}"
            else:
                expected = str(len(rows[0]) if rows else 2)
            problem = problem or f"{path}:{number} has {len(fields)} columns, expected {expected}"
            continue
        begin = begin if rows else number
        rows.append(fields)


def _columns(rows: list[list[str]], names: Sequence[str]) -> dict[str, list[str]]:
    if not names:
        return {"tokens": [row[0] for row in rows], "tags": [row[-1] for row in rows]}
    return {name: [row[i] for row in rows] for i, name in enumerate(names) if name}
