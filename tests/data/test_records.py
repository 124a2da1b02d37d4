"""Which of the labelled records are trained on, and which are held out."""

import json

import pytest

from tlx.base.errors import DataError
from tlx.data.readers import RecordsConfig
from tlx.data.records import read_records

PREMISES = [f"premise {number}" for number in range(60)]


@pytest.fixture
def pairs(tmp_path):
    """Three hypotheses of each premise."""
    rows = [{"premise": premise, "label": label} for premise in PREMISES for label in "ync"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return RecordsConfig(train=(str(path),), validation_fraction=0.3)


def premises(config, part):
    return [record.values["premise"] for record in read_records(config, part, 0)]


def test_records_of_a_group_are_held_out_together(pairs):
    apart = [set(premises(pairs, part)) for part in ("train", "validation")]
    assert apart[0] & apart[1]  # by their places they are not
    grouped = RecordsConfig(**{**vars(pairs), "group_column": "premise"})
    train, validation = (premises(grouped, part) for part in ("train", "validation"))
    assert not set(train) & set(validation) and sorted(train + validation) == sorted(3 * PREMISES)
    assert 0.15 < len(validation) / 180 < 0.45


def test_a_group_that_is_no_column(pairs):
    with pytest.raises(DataError, match=r"pairs\.jsonl:1.*data\.records\.group.*premise, label"):
        premises(RecordsConfig(**{**vars(pairs), "group_column": "context"}), "train")
