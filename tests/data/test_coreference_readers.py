"""Documents of CoNLL-2012 and of GAP, made by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tests.shared_data import SHARED_DATA
from tlx.base.errors import DataError
from tlx.data.bad_records import BadRecord
from tlx.data.readers import RecordFiles, read_files
from tlx.data.readers.conll2012 import read_conll2012
from tlx.data.readers.gap import read_gap
from tlx.metrics import coreference


def line(word, speaker, entities):
    return f"bc/x/00/x_0000 0 0 {word} NN * - - - {speaker} * * {entities}"


DOCUMENT = "\n".join(
    [
        "#begin document (bc/x/00/x_0000); part 003",
        line("Ann", "A", "(0"),
        line("Lee", "A", "0)|(7)"),
        line("ran", "A", "-"),
        line("/.", "A", "-"),
        "",
        line("She", "B", "(0)"),
        line("saw", "B", "-"),
        line("her", "A", "(3|(0)"),
        line("dog", "A", "3)"),
        "",
        "#end document",
        "",
    ]
)


def test_columns_of_conll_2012():
    (record,) = read_conll2012("x.conll", DOCUMENT)
    assert record.where == "x.conll:1"
    values = record.values
    text = values["text"]
    assert text == "Ann Lee ran . She saw her dog"
    assert (values["id"], values["genre"]) == ("bc/x/00/x_0000_3", "bc")
    pieces = lambda spans: [text[start:stop] for start, stop, *_ in spans]  # noqa: E731
    assert [pieces(cluster) for cluster in values["clusters"]] == [
        ["Ann Lee", "She", "her"],
        ["her dog"],
        ["Lee"],
    ]
    assert pieces(values["sentences"]) == ["Ann Lee ran .", "She saw her dog"]
    assert pieces(values["speakers"]) == ["Ann Lee ran .", "She saw", "her dog"]
    assert [name for *_, name in values["speakers"]] == ["A", "B", "A"]


def test_the_scores_of_hand_made_columns():
    """Key {a b c} {d e}, response {a b} {c d e}: two links of three, as Pradhan et al. 2014 count."""
    columns = {"key": ["(0)", "(0)", "(0)", "(1)", "(1)"], "response": ["(5)", "(5)", "(2)", "(2)", "(2)"]}
    clusters = {}
    for name, entities in columns.items():
        rows = [line(word, "-", entity) for word, entity in zip("abcde", entities, strict=True)]
        (record,) = read_conll2012(
            "x", "\n".join(["#begin document (nw/x); part 000", *rows, "#end document"])
        )
        clusters[name] = [[tuple(mention) for mention in cluster] for cluster in record.values["clusters"]]
    found = coreference.figures(coreference.document_counts(clusters["response"], clusters["key"])[None])
    assert found["muc_precision"] == found["muc_recall"] == found["muc_f1"] == pytest.approx(2 / 3)
    # By mention: a and b 1 and 2/3, c 1/3, d and e 2/3 and 1.
    assert found["b3_precision"] == pytest.approx((1 + 1 + 1 / 3 + 2 / 3 + 2 / 3) / 5)
    assert found["b3_recall"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 1) / 5)
    # Clusters: 2 * 2 / 5 for either pair, of two and two.
    assert found["ceaf_precision"] == found["ceaf_recall"] == pytest.approx(0.8)
    assert found["conll_f1"] == pytest.approx((2 / 3 + 11 / 15 + 0.8) / 3)


def test_entities_that_share_a_mention_are_one():
    words = [line("a", "-", "(1)|(2)"), line("b", "-", "(2)"), line("c", "-", "(3)"), line("d", "-", "(1)")]
    (record,) = read_conll2012("x", "\n".join(["#begin document (nw/x); part 000", *words, "#end document"]))
    assert record.values["clusters"] == [[[0, 1], [2, 3], [6, 7]], [[4, 5]]]


def test_mentions_of_one_entity_may_be_nested():
    words = [line("a", "-", "(1"), line("b", "-", "(1)"), line("c", "-", "1)")]
    (record,) = read_conll2012("x", "\n".join(["#begin document (nw/x);", *words, "#end document"]))
    assert record.values["clusters"] == [[[0, 5], [2, 3]]] and record.values["id"] == "nw/x_0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([line("a", "-", "(1")], r"does not close entities \[1\]"),
        ([line("a", "-", "1)")], "line 1 of document nw/x_0: coreference closes entity 1, which is not open"),
        ([line("a", "-", "1")], "coreference '1' is not '-' or entities"),
        (["nw/x 0 0 a NN"], "has 5 columns, expected 12 or more"),
    ],
)
def test_a_damaged_document_is_named(words, message):
    good = ["#begin document (nw/y); part 000", line("a", "-", "-"), "#end document"]
    bad, other = read_conll2012("x", "\n".join(["#begin document (nw/x);", *words, "#end document", *good]))
    assert isinstance(bad, BadRecord) and other.values["text"] == "a"
    assert re.search(message, bad.message)


HEADER = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL"
TEXT = 'Ann saw "Kim" as she ran.'


def row(**changes):
    values = {
        "ID": "t-1", "Text": TEXT, "Pronoun": "she", "Pronoun-offset": "17", "A": "Ann", "A-offset": "0",
        "A-coref": "TRUE", "B": "Kim", "B-offset": "9", "B-coref": "FALSE", "URL": "u",
    }  # fmt: skip
    return "\t".join({**values, **changes}.values())


def test_rows_of_gap():
    records = list(read_gap("g.tsv", "\n".join([HEADER, row(), row(**{"A-coref": "False"}), ""])))
    assert [record.where for record in records] == ["g.tsv:2", "g.tsv:3"]
    values = records[0].values
    assert values["text"] == TEXT and values["clusters"] == [[[0, 3], [17, 20]]]
    assert values["gap"] == {"pronoun": "she", "spans": [[17, 20], [0, 3], [9, 12]], "coref": [True, False]}
    assert records[1].values["clusters"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A-offset": "1"}, "A = 'Ann' does not stand at character 1"),
        ({"B-offset": "x"}, "B-offset = 'x' is no character position"),
        ({"B-coref": "maybe"}, "B-coref = 'maybe'"),
        ({"URL": "u\tv"}, "has 12 fields separated by a tab, expected 11"),
    ],
)
def test_a_damaged_row_is_named(changes, message):
    bad, _ = read_gap("g.tsv", "\n".join([HEADER, row(**changes), row()]))
    assert isinstance(bad, BadRecord) and message in bad.message
    with pytest.raises(DataError, match="names no column 'ID'"):
        list(read_gap("g.tsv", row()))


@pytest.mark.parametrize(("reader", "original"), [(read_conll2012, DOCUMENT), (read_gap, "")])
def test_mutated_files_are_read_or_refused(reader, original):
    """Every document and every row is a record or a message; nothing else is raised."""
    original = original or "\n".join([HEADER, row(), row(**{"A-coref": "FALSE"})])

    @fuzzed(100)
    @given(data=st.data())
    def read(data):
        text = original
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            stop = data.draw(st.integers(start, min(len(text), start + 12)))
            noise = st.sampled_from(
                ["", "\n", "\t", " ", "(", ")", "|", "-", "9" * 5000, "\0", "\u0663", text]
            )
            text = text[:start] + data.draw(noise) + text[stop:]
        try:
            records = list(reader("x", text))
        except DataError as error:
            assert str(error).startswith("x:1 names no column")
            return
        for record in records:
            if isinstance(record, BadRecord):
                assert record.message.startswith("x:") and len(record.message) < 30_000
                continue
            content = record.values["text"]
            for start, stop in [mention for cluster in record.values["clusters"] for mention in cluster]:
                assert 0 <= start < stop <= len(content)

    read()


def test_the_files_of_gap():
    folder = SHARED_DATA / "coreference"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    config = RecordFiles(format="gap")
    records = read_files((str(folder / "gap-development.tsv"),), config, "train")
    assert len(records) == 2000
    assert sum(record.values["gap"]["coref"] == [True, False] for record in records) == 874
