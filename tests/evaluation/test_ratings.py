"""SSA from files of ratings: majorities, intervals, the command."""

import json

import numpy as np
import pytest

from tlx import cli
from tlx.base.errors import DataError
from tlx.evaluation.ratings import Rating, rated_models, read_ratings


def write(path, lines):
    path.write_text("model,answer,sensible,specific\n" + "\n".join(lines) + "\n")
    return str(path)


def test_a_majority_decides_and_specific_needs_sensible(tmp_path):
    lines = [
        *("meena,1,1,1", "meena,1,1,0", "meena,1,0,1"),  # sensible and specific
        *("meena,2,yes,no", "meena,2,1,0"),  # sensible alone
        *("meena,3,0,1", "meena,3,0,1", "meena,3,0,1", "meena,3,1,1"),  # neither: specific, but not sensible
        *("meena,4,1,1", "meena,4,0,0"),  # a tie is no majority
        "other,1,true,true",
    ]
    meena, other = rated_models(read_ratings([write(tmp_path / "a.csv", lines)]))
    assert (meena.answers, meena.ratings, other.answers) == (4, 11, 1)
    assert meena.sensibleness.value == 0.5 and meena.specificity.value == 0.25
    assert meena.average.value == 0.375 and other.average == (1.0, 1.0, 1.0)


def test_intervals_are_over_answers_and_not_over_ratings():
    """Ten raters who agree say no more than one: the interval is the binomial one of 100 answers."""
    rng = np.random.default_rng(0)
    truth = rng.random(100) < 0.7
    ratings = [Rating("", str(i), int(truth[i]), 0) for i in range(100) for _ in range(10)]
    (row,) = rated_models(ratings)
    p = truth.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / 100)
    assert row.sensibleness.value == p
    assert row.sensibleness.high - row.sensibleness.low == pytest.approx(2 * half, rel=0.15)


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    path = write(tmp_path / "a.csv", ["a,1,1,1", "a,2,0,0", "b,1,1,0"])
    assert cli.main(["report", "--ssa", path]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| model | sensibleness | specificity | average | answers | ratings |"
    assert table[2].startswith("| a | 0.500 (0.000 to 1.000) | 0.500") and table[3].startswith("| b | 1.000")
    assert cli.main(["report", "--ssa", path, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["average"] == [0.5, 0.0, 1.0] and rows[1]["specificity"] == [0.0, 0.0, 0.0]
    assert cli.main(["report", "--ssa", path, "--by=seed"]) != 0
    assert "--by is for runs" in capsys.readouterr().err


def test_a_label_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a.csv:2.*sensible = '2' must be 0 or 1"):
        read_ratings([write(tmp_path / "a.csv", ["a,1,2,1"])])
    (tmp_path / "b.csv").write_text("answer,sensible\n1,1\n")
    with pytest.raises(DataError, match="specific"):
        read_ratings([str(tmp_path / "b.csv")])
