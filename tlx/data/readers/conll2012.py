"""Reader of the columns of CoNLL-2012: documents with coreference (Pradhan et al. 2012)."""

import re
from collections.abc import Iterator

from tlx.base.errors import DataError
from tlx.data.bad_records import BadRecord
from tlx.data.readers.record import Record

_BEGIN = re.compile(r"#begin document \((.*)\);(?: part (\d{1,9})\b)?")
_END = "#end document"
_MENTION = re.compile(r"(\()?(\d{1,9})(\))?")
_WORD = 3
_SPEAKER = 9
_LEAST_COLUMNS = 12
# Marks of speech that the release writes with a slash.
_ESCAPED = {"/.": ".", "/?": "?"}


def read_conll2012(path: str, text: str) -> Iterator[Record | BadRecord]:
    """Yield one record per document, or per part of one.

    Columns: id ("bc/cctv/00/cctv_0000_0", with the number of the part), genre (the id's first two letters), text
    (words with spaces between), sentences [[start, stop]], speakers [[start, stop, name]] of stretches of words,
    clusters [[[start, stop]]]: characters of each mention of each entity, in the order of the entities' numbers, and
    mentions [[start, stop]]: the same in the order of the text. Entities that share a mention are one.

    Args:
        path: Path of the file, for messages.
        text: Content of the file.

    Yields:
        The records; a BadRecord for a document that has a line of too few columns, or brackets that do not match.
    """
    where = ""
    name = ""
    rows: list[list[str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        begin = _BEGIN.match(line)
        if begin:
            if where:
                yield BadRecord(f"{where}: document {name} has no {_END!r}")
            where = f"{path}:{number}"
            name = f"{begin[1]}_{int(begin[2] or 0)}"
            rows = []
        elif line.startswith(_END):
            if where:
                yield _document(where, name, rows)
            where = ""
        elif where:
            rows.append(line.split())
    if where:
        yield BadRecord(f"{where}: document {name} has no {_END!r}")


def _document(where: str, name: str, rows: list[list[str]]) -> Record | BadRecord:
    """Make the record of a document; `rows` are its lines, [] between sentences."""
    texts: list[str] = []
    begin = 0
    sentences: list[list[int]] = []
    speakers: list[list[int | str]] = []
    mentions = _Mentions()
    is_new = True
    for offset, row in enumerate(rows, start=1):
        if not row:
            is_new = True
            continue
        if len(row) < _LEAST_COLUMNS:
            return BadRecord(
                f"{where}: line {offset} of document {name} has {len(row)} columns, expected "
                f"{_LEAST_COLUMNS} or more of CoNLL-2012"
            )
        word = _ESCAPED.get(row[_WORD], row[_WORD])
        span = [begin, begin + len(word)]
        texts.append(word)
        if is_new:
            sentences.append([*span])
        elif row[_SPEAKER] == speakers[-1][2]:
            speakers[-1][1] = span[1]
        if is_new or row[_SPEAKER] != speakers[-1][2]:
            speakers.append([*span, row[_SPEAKER]])
        sentences[-1][1] = span[1]
        try:
            mentions.read(row[-1], span)
        except DataError as error:
            return BadRecord(f"{where}: line {offset} of document {name}: {error}")
        is_new = False
        begin = span[1] + 1
    if mentions.open:
        return BadRecord(f"{where}: document {name} does not close entities {sorted(mentions.open)}")
    clusters = mentions.clusters()
    return Record(
        where,
        {
            "id": name,
            "genre": name[:2],
            "text": " ".join(texts),
            "sentences": sentences,
            "speakers": speakers,
            "clusters": clusters,
            "mentions": sorted(mention for cluster in clusters for mention in cluster),
        },
    )


class _Mentions:
    """The mentions of a document, read word by word."""

    def __init__(self) -> None:
        self.open: dict[int, list[int]] = {}
        self._closed: dict[int, list[list[int]]] = {}

    def read(self, column: str, span: list[int]) -> None:
        """Read the last column of a word; raises DataError where it does not say mentions."""
        if column in ("-", "_", "*"):
            return
        for part in column.split("|"):
            match = _MENTION.fullmatch(part)
            if match is None or not (match[1] or match[3]):
                raise DataError(
                    f"coreference {column[:40]!r} is not '-' or entities such as '(0', '0)' and '(0)'"
                )
            entity = int(match[2])
            if match[1]:
                self.open.setdefault(entity, []).append(span[0])
            if match[3]:
                self._close(entity, span[1])

    def _close(self, entity: int, stop: int) -> None:
        if entity not in self.open:
            raise DataError(f"coreference closes entity {entity}, which is not open")
        # Mentions of one entity may be nested: the last one that was opened is closed first.
        start = self.open[entity].pop()
        if not self.open[entity]:
            del self.open[entity]
        self._closed.setdefault(entity, []).append([start, stop])

    def clusters(self) -> list[list[list[int]]]:
        """Return the mentions of each entity, those that share one joined, each mention once."""
        merged: list[list[list[int]]] = []
        for _, mentions in sorted(self._closed.items()):
            shared = [cluster for cluster in merged if any(mention in cluster for mention in mentions)]
            joined = [mention for cluster in shared for mention in cluster]
            merged = [cluster for cluster in merged if cluster not in shared]
            unique: list[list[int]] = []
            for mention in [*joined, *mentions]:
                if mention not in unique:
                    unique.append(mention)
            merged.append(sorted(unique))
        return merged
