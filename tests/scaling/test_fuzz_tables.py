"""Tables of runs with cells, names and lines that nobody would write: numbers or one message, nothing unsaid."""

import contextlib
import io
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tlx import cli
from tlx.base.errors import CONFIG, NOT_IDENTIFIED, UserError
from tlx.scaling import load_runs
from tlx.scaling.simulation import draw, grid

FUZZ = fuzzed(300, deadline=5000)
NUMBERS = st.floats(1e-3, 1e15).map(lambda x: float(f"{x:.6g}"))
WRONG_CELLS = (
    *"nan inf -inf 0 -1 1e400 1,5 1.234 1,234 1.2.3 12% 1e 1_000 0x10 True diverged n/a 1.3B B".split(),
    *"-,;'\"\\\0",
)
CELLS = st.one_of(
    NUMBERS.map(repr),
    st.sampled_from(WRONG_CELLS),
    st.text(max_size=5),
    st.just(""),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            "N",
            "D",
            "loss",
            "flops",
            "run",
            "status",
            "State",
            "tokens",
            "N (M)",
            "C",
            "val_loss",
            "name",
            "",
            "lr",
        ]
    ),
    st.text(max_size=4),
)


def scale(verb, path, *words):
    out = io.StringIO()
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["scale", verb, f"--runs={path}", *words])
    return code, out.getvalue(), err.getvalue()


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, float) else []


def load(path):
    """The table and what was said; None where it was refused."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return load_runs(path), " ".join(str(warning.message) for warning in caught)
        except UserError as error:
            assert str(error).startswith(str(path)) and len(str(error)) < 4000
            return None, str(error)


@pytest.mark.slow
@FUZZ
@given(
    names=st.lists(NAMES, min_size=1, max_size=5),
    rows=st.lists(st.lists(CELLS, max_size=6), max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_cells_and_names(tmp_path_factory, names, rows, delimiter, end):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    lines = [delimiter.join(row) for row in [names, *rows]]
    path.write_text(end.join(lines), encoding="utf-8", newline="")
    runs, said = load(path)
    if runs is None:
        return
    assert len({len(column) for column in runs.values()}) == 1
    # Quotes join lines, a line of blanks is no header, and one name does not tell what separates its cells; else what
    # is left out (no loss, a copy) is counted.
    is_single = len(names) == 1 and delimiter != ","
    if set('"\r\n') & set("".join(lines)) or not any(name.strip() for name in names) or is_single:
        return
    written = sum(any(cell.strip() for cell in row) for row in rows)
    assert len(next(iter(runs.values()))) == written or "left out" in said


@pytest.mark.slow
@FUZZ
@given(data=st.binary(max_size=200), suffix=st.sampled_from(["csv", "tsv", "json", "jsonl"]))
def test_bytes(tmp_path_factory, data, suffix):
    path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
    path.write_bytes(data)
    load(path)


@pytest.mark.slow
@FUZZ
@given(
    table=st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=12,
    ),
    lines=st.booleans(),
)
def test_json(tmp_path_factory, table, lines):
    path = tmp_path_factory.getbasetemp() / ("table.jsonl" if lines else "table.json")
    path.write_text(json.dumps(table))
    load(path)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_one_wrong_cell_of_a_sound_table(tmp_path_factory, data):
    """One cell of 28 rows is replaced: refused, left out and said so, or read as the number that it is."""
    runs = draw(grid(np.geomspace(1e18, 6.4e19, 4), 7), noise=0.002)
    names = ["N", "D", "flops", "loss"]
    rows = [[repr(float(runs[name][i])) for name in names] for i in range(28)]
    row = data.draw(st.integers(0, 27))
    column = data.draw(st.integers(0, 3))
    cell = data.draw(CELLS)
    rows[row][column] = '"' + cell.replace('"', '""') + '"'
    path = tmp_path_factory.getbasetemp() / "one.csv"
    path.write_text("\n".join(",".join(line) for line in [names, *rows]), encoding="utf-8", newline="")
    table, said = load(path)
    if table is None:
        return
    expected = runs[names[column]].copy()
    if len(table["loss"]) == 27:
        assert names[column] == "loss" and "left out" in said
        return
    value = table[names[column]][row]
    others = np.arange(28) != row
    np.testing.assert_array_equal(table[names[column]][others], expected[others])
    with contextlib.suppress(ValueError):
        assert value == float(cell.strip()) or math.isnan(value)


@pytest.mark.slow
@fuzzed(100, deadline=5000)
@given(data=st.data())
def test_verbs(tmp_path_factory, data):
    """fit, backtest, predict and compare answer a table of wild values, with finite numbers or none."""
    verb = data.draw(st.sampled_from(["fit", "backtest", "predict", "compare"]))
    law = data.draw(
        st.sampled_from(["chinchilla", "chinchilla", "kaplan", "overtrain", "kaplan_n", "kaplan_c"])
    )
    approach = data.draw(st.sampled_from(["3", "2", "1"]))
    count = data.draw(st.integers(1, 12))
    span = st.sampled_from([1e-3, 1.0, 1e6, 1e7, 3e7, 1e8, 1e9, 1e12])
    wild = st.sampled_from([1.0, 2.0, 3.0, 3.5, 3.25, 40.0, 1e-3])
    base = draw(grid(np.geomspace(1e18, 6.4e19, 4), 3), noise=0.002)
    rows = []
    for i in range(count):
        if data.draw(st.booleans()):
            rows.append([data.draw(span), data.draw(span), data.draw(wild)])
        else:
            rows.append([float(base[name][i]) for name in ("N", "D", "loss")])
    path = tmp_path_factory.getbasetemp() / "wild.csv"
    path.write_text("\n".join(["N,D,loss", *(",".join(map(repr, row)) for row in rows)]))
    as_json = data.draw(st.booleans())
    words = [f"--law={law}", f"--approach={approach}", "--boot=20", *(["--json"] if as_json else [])]
    if verb == "compare":
        words.append(f"--with={path}")
    code, out, err = scale(verb, path, *words)
    assert code in (0, CONFIG, NOT_IDENTIFIED), (code, err)
    if code == CONFIG:
        assert out == "" and err.startswith("tlx scale: ")
    if code == 0 and verb == "fit" and as_json:
        result = json.loads(out)
        assert all(map(math.isfinite, numbers_in([result["params"], result["exponents"]]))), rows
