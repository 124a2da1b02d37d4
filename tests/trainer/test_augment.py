"""Copies of texts against a model whose candidates are known, and the command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests import stores
from tests.run_directory import write_run
from tlx import cli
from tlx.base import place as places
from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record
from tlx.trainer.augment import AugmentConfig, Augmenter, augmented, read_vectors

# Words of one piece, "##ing" that is none, and special ids first.
PIECES = ["[PAD]", "[MASK]", "[CLS]", "the", "cat", "dog", "bird", "sat", "ran", "walk", "##ing", "."]
NUMBER = {piece: i for i, piece in enumerate(PIECES)}


class WordPieces:
    """A tokenizer of these pieces."""

    starts_word = np.array([not piece.startswith("##") for piece in PIECES])
    vocab = SimpleNamespace(mask=1, pad=0, special=np.arange(len(PIECES)) < 3)

    def encode(self, text):
        ids = []
        for word in text.lower().replace(".", " .").split():
            stem = word.removesuffix("ing") if word != "ing" else word
            ids += [NUMBER[stem], NUMBER["##ing"]] if stem != word else [NUMBER[word]]
        return ids

    def decode(self, ids):
        return " ".join(PIECES[i] for i in ids)


class Model:
    """Its likeliest word after "the" is a noun, elsewhere a verb; the pieces are the likeliest of all."""

    tokenizer = WordPieces()
    frame = SimpleNamespace(before=(2,), after=())
    config = SimpleNamespace(data=SimpleNamespace(sequence_length=12))

    def __init__(self):
        angles = {
            "the": 0,
            "cat": 90,
            "dog": 95,
            "bird": 101,
            "sat": 200,
            "ran": 205,
            "walk": 207,
            "##ing": 220,
        }
        table = [[np.cos(a), np.sin(a)] for a in np.radians([angles.get(piece, 300) for piece in PIECES])]
        self.params = {"model": {"embedding": {"table": np.array(table)}}}
        self.rows = []

    def gap_logits(self, rows, gaps):
        self.rows.append(len(rows))
        nouns = {NUMBER[word]: 5.0 - i for i, word in enumerate(("cat", "dog", "bird"))}
        verbs = {NUMBER[word]: 5.0 - i for i, word in enumerate(("sat", "ran"))}
        logits = np.zeros((len(rows), len(PIECES)), np.float32)
        logits[:, [0, NUMBER["##ing"], NUMBER["."]]] = 9
        for number, (row, gap) in enumerate(zip(rows, gaps, strict=True)):
            if len(row) > 2:
                assert row[gap] == 1
            for index, value in (nouns if row[gap - 1] == NUMBER["the"] else verbs).items():
                logits[number, index] = value
        return logits


def words_of(text, **changes):
    augmenter = Augmenter(Model(), AugmentConfig(candidates=3, **changes))
    return {text[word.start : word.end]: set(word.candidates) for word in augmenter._words(text)}


def test_candidates_are_the_masked_models_or_neighbours(tmp_path):
    found = words_of("The cat sat. walking")
    assert found["cat"] == {"dog", "bird"} and found["sat"] == {"ran", "the"}
    # The mean of "walk" and "##ing" is at 213.5 degrees; "##ing" is no word.
    assert found["walking"] == {"walk", "ran", "sat"}
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("walking 1 0\nrunning 0.9 0.1\nflying 0 1\nsitting 1 0.2\n")
    found = words_of("the walking.", vectors=str(vectors))
    assert found["walking"] == {"running", "sitting", "flying"}
    bucket = stores.place("gs", tmp_path) / "vectors.txt"
    places.write(bucket, vectors.read_bytes())
    assert read_vectors(str(bucket)).words == read_vectors(str(vectors)).words
    vectors.write_text("walking 1 0\nrunning 0.9\n")
    with pytest.raises(DataError, match="vectors.txt:2: 1 numbers, the first line has 2"):
        read_vectors(str(vectors))


def test_copies_change_words_alone_and_not_each_other():
    text = "The cat sat. The dog ran."
    record = Record("a:1", {"text": text, "label": "x", "other": 3})
    settings = AugmentConfig(copies=200, probability=0.4, candidates=3)
    rows = list(augmented([record, record], ["text"], Model(), settings))
    copies = [row["text"] for row in rows]
    second = copies.index(text, 1)
    assert copies[0] == text and len(set(copies[:second])) == second > 20
    assert copies[1:second] != copies[second + 1 :], "each record has draws of its own"
    for copy in copies:
        words = copy.replace(".", "").split()
        assert copy.count(".") == 2 and len(words) == 6 and words[0][0].isupper() and words[3][0].isupper()
        assert words[1] in ("cat", "dog", "bird") and words[4] in ("cat", "dog", "bird")
    assert all(row["label"] == "x" and row["other"] == 3 for row in rows)
    again = list(augmented([record, record], ["text"], Model(), settings))
    assert again == rows


def test_a_word_is_replaced_with_the_probability():
    model = Model()
    augmenter = Augmenter(model, AugmentConfig(copies=1, probability=0.4, candidates=2))
    rng = np.random.default_rng(0)
    changed = [len(augmenter.copies(["the cat"], rng)) for _ in range(300)]
    # Two words, each replaced by one other word at 0.4, "the" by a verb.
    assert abs(np.mean(changed) - (1 - 0.6**2)) < 0.08
    # Batches have one size.
    assert set(model.rows) == {64}


def test_texts_that_are_too_long_keep_their_words():
    found = words_of("the cat sat " * 5)
    assert found == {"the": set(), "cat": set(), "sat": set()}
    with pytest.raises(ConfigError, match="probability = 0 must be above 0"):
        AugmentConfig(probability=0).validate()


@pytest.mark.slow
def test_the_command_writes_records_and_those_held_out(tmp_path, capsys, monkeypatch):
    base = write_run(tmp_path / "mlm", "mlm")
    lines = [json.dumps({"text": f"ab c{i}", "label": "yes" if i % 2 else "no"}) for i in range(30)]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    (tmp_path / "task.py").write_text(
        "from tlx.run import finetune_config\n\n"
        "def get_config(arg=''):\n"
        "    config = finetune_config('classification')\n"
        f"    config.data.records.train = ({str(tmp_path / 'records.jsonl')!r},)\n"
        "    return config\n"
    )
    words = [
        "data",
        "augment",
        f"--config={tmp_path / 'task.py'}",
        f"--from={base}",
        f"--to={tmp_path / 'more'}",
    ]
    assert cli.main([*words, "--copies=2"]) == 0
    out = capsys.readouterr().out
    train = (tmp_path / "more/train.jsonl").read_text().splitlines()
    held_out = (tmp_path / "more/validation.jsonl").read_text().splitlines()
    assert set(lines) <= {json.dumps(json.loads(line)) for line in (*train, *held_out)} and held_out
    assert "train on them: --config.data.records.format=jsonl" in out
    assert cli.main(words) == 64
    assert "is not empty" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    bucket = stores.place("gs", tmp_path) / "more"
    for code in (0, 64):
        assert cli.main([*words[:-1], f"--to={bucket}", "--copies=2"]) == code
    assert (bucket / "train.jsonl").read_text().splitlines() == train and not (tmp_path / "gs:").exists()
