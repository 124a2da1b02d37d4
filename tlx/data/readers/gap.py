"""Reader of GAP's tsv: a pronoun and two names in a text (Webster et al. 2018)."""

from collections.abc import Iterator

from tlx.base.errors import DataError, one_of
from tlx.data.bad_records import BadRecord
from tlx.data.readers.record import Record

_COLUMNS = ("ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref", "B", "B-offset", "B-coref")
_MOST_DIGITS = 9  # of an offset


def read_gap(path: str, text: str) -> Iterator[Record | BadRecord]:
    """Yield one record per row.

    Columns: id, text, clusters [[[start, stop]]] (characters of the pronoun and of the names that it means; none
    where it means neither), mentions [[start, stop]] of all three in the order of the text, and gap: {"pronoun": its
    text, "spans": [[start, stop]] of the pronoun, of A and of B, "coref": whether it means A, and B}.

    Args:
        path: Path of the file, for messages.
        text: Content of the file. Quotes are text.

    Yields:
        The records; a BadRecord for a row of another number of fields, or whose names are not at their offsets.

    Raises:
        DataError: The first row does not name GAP's columns.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    names = lines[0].split("\t")
    for name in _COLUMNS:
        if name not in names:
            raise DataError(f"{path}:1 names no column {name!r} of GAP's: " + one_of("column", name, names))
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        where = f"{path}:{number}"
        fields = line.split("\t")
        if len(fields) != len(names):
            yield BadRecord(f"{where} has {len(fields)} fields separated by a tab, expected {len(names)}")
            continue
        try:
            yield _record(where, dict(zip(names, fields, strict=True)))
        except DataError as error:
            yield BadRecord(f"{where}: {error}")


def _record(where: str, row: dict[str, str]) -> Record:
    spans = [_span(row, name) for name in ("Pronoun", "A", "B")]
    coref = [_is_true(row, name) for name in ("A-coref", "B-coref")]
    named = [span for span, is_meant in zip(spans[1:], coref, strict=True) if is_meant]
    gap = {"pronoun": row["Pronoun"], "spans": spans, "coref": coref}
    clusters = [sorted([spans[0], *named])] if named else []
    values = {
        "id": row["ID"],
        "text": row["Text"],
        "clusters": clusters,
        "mentions": sorted(spans),
        "gap": gap,
    }
    return Record(where, values)


def _span(row: dict[str, str], name: str) -> list[int]:
    offset = row[f"{name}-offset"]
    if not offset.isdecimal() or len(offset) > _MOST_DIGITS:
        raise DataError(f"{name}-offset = {offset[:40]!r} is no character position")
    start = int(offset)
    stop = start + len(row[name])
    if not row[name] or row["Text"][start:stop] != row[name]:
        raise DataError(f"{name} = {row[name]!r} does not stand at character {start} of its text")
    return [start, stop]


def _is_true(row: dict[str, str], name: str) -> bool:
    value = row[name].upper()
    if value not in ("TRUE", "FALSE"):
        raise DataError(one_of(name, row[name], ("TRUE", "FALSE")))
    return value == "TRUE"
