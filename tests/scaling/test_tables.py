"""Tables of runs as people export them: the right numbers or one message; what is left out is counted."""

import json
import warnings

import numpy as np
import pytest

from tlx import cli
from tlx.base.errors import NOT_IDENTIFIED, ConfigError, DataError
from tlx.scaling import compare, fit, isoflop, load_runs
from tlx.scaling.cells import decimal_mark, number
from tlx.scaling.simulation import BESIROGLU, draw, grid

N = [19596245.0, 35608741.0, 1.3e9]
LOSS = [3.70965, 3.57032, 2.5]
PLAIN = "N,D,loss\n19596245,8.5e9,3.70965\n35608741,4.7e9,3.57032\n1300000000,2.5e9,2.5\n"


def read(tmp_path, text, name="runs.csv", **choose):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = load_runs(path, **choose)
    return runs, " ".join(str(warning.message) for warning in caught)


def sweep(**change):
    return draw(grid(np.geomspace(1e18, 6.4e19, 4), 7), BESIROGLU, noise=0.002) | change


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (PLAIN, "runs.csv"),
        ("\ufeff" + PLAIN, "runs.CSV"),
        (PLAIN.encode("utf-16"), "runs.csv"),
        (PLAIN.replace("\n", "\r\n"), "runs.csv"),
        ("\n\n" + PLAIN + "\n,,\n\n", "runs.csv"),
        (PLAIN.replace(",", ";"), "runs.csv"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "runs.csv"),
        (PLAIN.replace(",", "\t"), "runs.tsv"),
        (PLAIN.replace(",", " | "), "runs.txt"),
        (PLAIN.replace(",", ";").replace(".", ","), "runs.csv"),
        ('N,D,loss\n"19.596.245",8500M,"3,70965"\n35608741,4700M,"3,57032"\n1300000000,2500M,"2,5"\n', "a.csv"),
        ('N,D,loss\n"19,596,245",8.5B,3.70965\n"35,608,741",4.7B,3.57032\n1.30B,2.5 B tokens,2.5\n', "a.csv"),
        ("N;D;loss\n19 596 245;8.5e9;3.70965\n35'608'741;4.7e9;3.57032\n1_300_000_000;2.5e9;2.5\n", "a.csv"),
        ("params (M),D (billions),eval/loss\n19.596245,8.5,3.70965\n35.608741,4.7,3.57032\n1300,2.5,2.5\n", "a.csv"),
        ("Params,D_Tokens,Final Loss\n19.596245m,8.5bn,3.70965\n35608741,4.7G,3.57032\n1.3B,2.5e9,2.5\n", "a.csv"),
    ],
)  # fmt: skip
def test_ways_to_write_one_table(tmp_path, text, name):
    runs, said = read(tmp_path, text, name)
    np.testing.assert_allclose(runs["N"], N, rtol=1e-12)
    np.testing.assert_allclose(runs["D"], [8.5e9, 4.7e9, 2.5e9], rtol=1e-12)
    np.testing.assert_allclose(runs["loss"], LOSS, rtol=1e-12)
    assert said == ""


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"N": {"0": 1e6, "1": 2e6}, "loss": {"0": 3.5, "1": 3.25}}, "pandas.json"),
        ({"N": ["1M", 2000000], "loss": [3.5, "3.25"]}, "columns.json"),
        ([{"N": 1e6, "loss": 3.5}, {"loss": 3.25, "N": 2e6}], "rows.json"),
    ],
)
def test_ways_to_write_json(tmp_path, table, name):
    runs, _ = read(tmp_path, json.dumps(table), name)
    assert runs["N"].tolist() == [1e6, 2e6] and runs["loss"].tolist() == [3.5, 3.25]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (bytes(range(256)), "runs.csv", "not a table"),
        (bytes(range(128, 256)), "runs.csv", "not a table: byte 0"),
        ("", "runs.csv", "the table of runs is empty"),
        ("N,D,loss\n\n", "runs.csv", "no rows"),
        ("1e6,2e7,3.5\n2e6,4e7,3.4\n", "runs.csv", "first line must name the columns"),
        ("N,D,loss,loss\n1,2,3,4\n", "runs.csv", "name that stands twice: 'loss'"),
        ("N,D,loss\n1,95962e+07,2e9,3,7\n", "runs.csv", "row 1 has 5 cells and the table 3 names.*needs quotes"),
        ("N,loss\n1e6,3.5\nabc,3.4\n", "runs.csv", "runs.csv: row 2: N = 'abc' is not a number"),
        ("N,loss\n1e6,3.5M\n", "runs.csv", "row 1: loss = '3.5M' is not a number"),
        ("N;loss\n1e6;3,5\n2e6;3.25\n", "runs.csv", "'3,5' has a decimal comma and '3.25' a decimal point"),
        ("N;loss\n1000;3,509\n", "runs.csv", "'3,509' may be a thousand or a decimal comma"),
        ("N,loss\n1e6,diverged\n2e6,NaN\n", "runs.csv", "no row with a loss"),
        ('N,loss\n1e6,"3.5', "runs.csv", "not a table"),
        ("N,loss,status\n1e6,3.5,crashed\n2e6,3.4,running\n", "a.csv", r"no run is done.*\(crashed 1, running 1\)"),
        ('{"N": 1e6, "loss": 3.5}\n{"N": 1e6, "lo', "runs.jsonl", "line 2: not JSON"),
        ("[" * 100000, "runs.json", "not JSON"),
        ("3", "runs.json", "not int"),
        ("[3, 4]", "runs.json", "row 1 of the table of runs is 3"),
        ('{"N": [1, 2], "loss": [3]}', "runs.json", "unequal lengths"),
        ('{"N": 1, "loss": 3}', "runs.json", "column 'N' of the table is 1"),
        (PLAIN, "runs.xlsx", "a table of runs is a .csv"),
    ],
)  # fmt: skip
def test_what_is_no_table_has_one_message(tmp_path, text, name, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, name)


def test_what_is_left_out_is_counted(tmp_path):
    rows = "N,loss,State\n1e6,3.5,finished\n2e6,,Finished\n3e6,3.3,crashed\n4e6,diverged,completed\n"
    runs, said = read(tmp_path, rows)
    assert runs["N"].tolist() == [1e6]
    assert (
        "1 of 4 runs are not done (crashed 1)" in said and "runs.csv: 2 of 3 rows have no finite loss" in said
    )
    assert "row 2 (N 2e+06" in said


def test_copies_are_left_out_and_seeds_are_kept(tmp_path):
    runs, said = read(tmp_path, "N,loss\n1e6,3.70965\n1e6,3.70965\n1e6,3.70966\n")
    assert runs["loss"].tolist() == [3.70965, 3.70966] and "1 of 3 rows are equal to another one" in said
    runs, said = read(tmp_path, "N,loss\n1e6,3.7\n1e6,3.7\n")
    assert len(runs["loss"]) == 2 and "other seeds" in said
    runs, said = read(tmp_path, "N,loss,run\n1e6,3.70965,a\n1e6,3.70965,b\n")
    assert len(runs["loss"]) == 2 and said == ""


def test_two_columns_of_one_meaning(tmp_path):
    runs, said = read(tmp_path, "N,D,tokens,loss\n1e6,1e9,1,3.5\n")
    assert runs["D"].tolist() == [1e9] and "D is read from the column 'D', not from 'tokens'" in said
    runs, said = read(tmp_path, "N,D,budget,loss\n1e6,1e9,small,3.5\n")  # words are no FLOPs
    assert "flops" not in runs and said == ""


def test_the_choice_of_rows_reads_cells_as_the_table_does(tmp_path):
    rows = "N,loss,model\n1.3B,2.5,125M\n125M,3.25,small\n"
    assert read(tmp_path, rows, N="1.30B")[0]["loss"].tolist() == [2.5]
    assert read(tmp_path, rows, model="125M")[0]["loss"].tolist() == [2.5]
    with pytest.raises(DataError, match="no row has model = 'big'; the column holds 125M, small"):
        read(tmp_path, rows, model="big")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"N": np.nan}, r"N must be positive and finite; 1 row is not, the first is row 4 \(N nan, D"),
        ({"D": 0.0}, "D must be positive and finite"),
        ({"flops": -1e18}, "flops must be positive and finite"),
        ({"flops": np.nan}, "flops must be positive and finite"),
        ({"loss": 0.0}, "loss must be positive and finite"),
    ],
)
def test_a_value_that_no_run_has_is_named(change, message):
    runs = sweep()
    for name, value in change.items():
        runs[name] = runs[name].copy()
        runs[name][3] = value
    with pytest.raises(DataError, match=message):
        fit(runs, boot=0, starts=10)


def test_more_active_parameters_than_all_are_named():
    runs = sweep()
    runs["N_active"] = np.where(np.arange(len(runs["N"])) == 2, 2.0, 0.5) * runs["N"]
    with pytest.raises(DataError, match=r"N_active must be N or less; 1 row is not, the first is row 3 \("):
        fit(runs, "moe", boot=0, starts=10)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"N": 1e-6, "D": 1e-9, "flops": 1e-20},
            "D is read as tokens, and its largest value is .*'D .billions.'",
        ),
        ({"N": 1e-6}, "flops are 1e.06 times 6 N D in the median run"),
        ({"flops": 1e-18}, "flops is read as FLOPs"),
        ({"N": 1e30, "D": 1e30, "flops": 1e60}, "N is read as parameters.*which no run has"),
    ],
)
def test_units_are_checked(factors, message):
    runs = sweep()
    for name, factor in factors.items():
        runs[name] = runs[name] * factor
    with pytest.raises(DataError, match=message):
        fit(runs, boot=0, starts=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"N": r["D"], "D": r["N"]}, "are the columns N and D swapped"),
        (lambda r: {"loss": np.exp(r["loss"])}, "if it is a perplexity, its logarithm"),
        (lambda r: {"loss": 1 - r["loss"] / 6}, "the loss rises with compute"),
        (
            lambda r: {"loss": np.where(np.arange(28) == 3, 10.8, r["loss"])},
            "1 row is far from the fit.*loss 10.8",
        ),
    ],
    ids=["swapped", "perplexity", "accuracy", "diverged"],
)
def test_what_is_unlikely_is_a_warning(change, message):
    runs = sweep()
    with pytest.warns(UserWarning, match=message):
        fit(runs | change(runs), boot=0, starts=10)


def test_integers_do_not_overflow():
    runs = sweep()
    whole = {name: runs[name].astype(np.int64) for name in ("N", "D")} | {"loss": runs["loss"]}
    whole["D"] *= 1000  # 6 N D is beyond int64
    exact = fit({name: column.astype(float) for name, column in whole.items()}, boot=0, starts=10)
    assert exact.runs["flops"].max() > 2**63
    np.testing.assert_array_equal(fit(whole, boot=0, starts=10).runs["flops"], exact.runs["flops"])


def test_the_reason_says_what_does_not_vary():
    runs = sweep()
    same = runs | {"D": 20 * runs["N"], "flops": 120 * runs["N"] ** 2}
    with pytest.warns(UserWarning, match="every run has D / N = 20"):
        fit(draw(same, BESIROGLU), boot=0, starts=20)
    with pytest.warns(UserWarning, match="every run has loss = 3"):
        fit(runs | {"loss": np.full(28, 3.0)}, boot=0, starts=20)


def test_noise_is_that_of_seeds_and_of_single_runs():
    """Five seeds of one size are no five sizes; the estimate is the planted noise with either."""
    base = grid(np.geomspace(1e18, 1e21, 40), 7)
    single = isoflop.pooled_noise(draw(base, BESIROGLU, noise=0.01))
    seeds = {name: np.repeat(column, 5) for name, column in base.items()}
    assert single == pytest.approx(0.01, rel=0.15)
    assert isoflop.pooled_noise(draw(seeds, BESIROGLU, noise=0.01)) == pytest.approx(0.01, rel=0.05)
    five = {name: np.repeat(column, 5) for name, column in grid(np.geomspace(1e18, 1e21, 5), 7).items()}
    runs = draw(five, noise=0.001)
    result = fit(runs, approach=2, boot=50)
    assert result.exponents[0] == pytest.approx(0.5126, abs=0.02) and result.ci["a"][0] < result.exponents[0]


def test_warnings_and_errors_of_two_tables_name_theirs(tmp_path, capsys):
    runs = sweep()
    rows = zip(runs["N"], runs["D"], runs["loss"], strict=True)
    lines = [",".join(map(str, row)) for row in rows]
    (tmp_path / "two.csv").write_text("\n".join(["N,D,loss", *lines]))
    (tmp_path / "one.csv").write_text("\n".join(["N,D,loss", "1e8,1e10,nan", *lines]))
    words = ["scale", "compare", f"--runs={tmp_path}/two.csv", "--boot=30"]
    assert cli.main([*words, f"--with={tmp_path}/one.csv"]) == 0
    assert "one.csv: 1 of 29 rows have no finite loss" in capsys.readouterr().err
    (tmp_path / "one.csv").write_text("N,D,loss\n1,2,3\n")
    assert cli.main([*words, f"--with={tmp_path}/one.csv"]) == 64
    assert "one.csv: N is read as parameters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--N=1e9"],
        ["--flops=-1"],
        ["--times=0"],
        ["--flops=nan"],
        ["--boot=-1"],
        ["--where=N"],
        ["--law=kaplan_d"],
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, capsys, words):
    runs = sweep()
    lines = [",".join(map(str, row)) for row in zip(runs["N"], runs["D"], runs["loss"], strict=True)]
    (tmp_path / "runs.csv").write_text("\n".join(["N,D,loss", *lines]))
    code = cli.main(["scale", "predict", f"--runs={tmp_path}/runs.csv", "--boot=0", *words])
    assert code in (ConfigError.code, NOT_IDENTIFIED) and capsys.readouterr().err.count("\n") <= 2


@pytest.mark.parametrize(
    ("cell", "mark", "value"),
    [
        ("1.30B", ".", 1.3e9), ("2.1T tokens", ".", 2.1e12), ("3 EFLOPs", ".", 3e18), ("1,3 Mrd", ",", None),
        ("−3.5", ".", -3.5), ("1.234", ",", None), ("1.234,5", ",", 1234.5), ("1,23,456", ".", None),
        ("12 345", ".", 12345.0), ("12 34", ".", None), ("1e18", ".", 1e18), ("1,5e18", ",", 1.5e18),
        (True, ".", None), ("0x10", ".", None), (10**400, ".", np.inf), ("2 potatoes", ".", None), ("", ".", np.nan),
    ],
)  # fmt: skip
def test_numbers_of_cells(cell, mark, value):
    result = number(cell, mark, units=True)
    assert result == pytest.approx(value, rel=1e-12, nan_ok=True) if value is not None else result is None


def test_the_decimal_mark_is_found_or_refused():
    assert decimal_mark(["1,95962e+07", "3,709", 4]) == ","
    assert (
        decimal_mark(["19,596,245", "3,709"])
        == "."
        == decimal_mark(["1,234", "3.7"])
        == decimal_mark(["3.709"])
    )
    with pytest.raises(DataError, match="may be a thousand"):
        decimal_mark(["3,709", "7"])


def test_compare_refuses_a_law_without_an_optimum():
    with pytest.raises(ConfigError, match="no optimum"):
        compare(sweep(), sweep(), law="kaplan_d", boot=20)
