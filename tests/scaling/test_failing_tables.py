"""A folder of tables as people export them (skipped where it is absent): what each gives."""

import json
import re

import pytest

from tests.scaling.published import table
from tlx import cli
from tlx.base.errors import NOT_IDENTIFIED, ConfigError

# Exponents a of the laws that the tables were drawn from, and what each table's output must hold.
A_FINE = 0.5126
A_REPORT = 0.28 / 0.62
FITS = {
    "scaling_tables": (
        A_FINE,
        {
            **dict.fromkeys(
                "fine bom semicolons tabs decimal_comma thousands units_text status_text bits".split(), ""
            ),
            "checkpoints": "",
            "five_seeds": "",
            "duplicates": "56 of 84 rows are equal",
            "nan_loss": "2 of 28 rows have no finite loss",
            "inf_loss": "1 of 28 rows have no finite loss",
            "diverged_row": "1 row is far from the fit",
            "not_bracketed": "",
            "two_points_each": "",
            # Not the law's exponent: the reader is told why.
            "swapped_N_D": "columns N and D swapped",
            "perplexity": "perplexity",
        },
    ),
    "reports/tables": (
        A_REPORT,
        {
            **dict.fromkeys("abcdno", ""),
            "e": "3 of 25 rows have no finite loss",
            "f": "1 of 25 rows have no finite loss",
            "h": "1 of 25 runs are not done (crashed 1)",
            "h2": "1 of 25 runs are not done (crashed 1)",
            "i": "50 of 75 rows are equal",
            "m": "perplexity",
            "p": "D is read from the column 'D', not from 'tokens'",
        },
    ),
}
REFUSALS = {
    "scaling_tables": {
        "empty": "no rows",
        "notatable": "not a table",
        "nan_N": "N must be positive and finite; 1 row is not, the first is row 4",
        "zero_D": "D must be positive",
        "zero_loss": "loss must be positive",
        **dict.fromkeys(("nan_flops", "negative_flops", "zero_flops"), "flops must be positive"),
        "only_loss": "needs the column 'N'",
        "wrong_columns": "needs the column 'N'",
        "flops_wrong_unit": "flops is read as FLOPs",
        "huge_units": "N is read as parameters",
        "petaflop_units": "D is read as tokens",
    },
    "reports/tables": {
        "g": "N must be positive",
        "j": "D is read as tokens",
        "q": "loss must be positive",
    },
}
NOT_DETERMINED = {
    "scaling_tables": {
        **dict.fromkeys(("accuracy", "rising_loss"), "the loss rises with compute"),
        "constant_loss": "every run has loss = 3",
        "five_rows": "5 runs for 5 constants",
        "fixed_ratio": "every run has D / N = 20",
        "one_N": "every run has N = 1e+08",
        "single_budget": "every run has flops = 1e+18",
        **dict.fromkeys(("not_bracketed_a2", "single_budget_a2", "two_points_each_a2"), "3 are needed"),
    },
    "reports/tables": {"k": "every run has N = 1e+08", "l": "every run has D / N = 20"},
}
FREE = (
    "swapped_N_D",
    "perplexity",
    "m",
    "not_bracketed",
    "two_points_each",
)  # far from the law, or poor in rows


def cases(results):
    return [(folder, name) for folder, names in results.items() for name in names]


def run(folder, name, capsys):
    path = table(f"{name}.csv", f"failing/{folder}")
    approach = "--approach=2" if name.endswith("_a2") or name == "five_seeds" else "--approach=3"
    code = cli.main(["scale", "fit", f"--runs={path}", "--boot=0", "--json", approach])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "name"), [(f, name) for f, (_, names) in FITS.items() for name in names])
def test_right_numbers(folder, name, capsys):
    exponent, messages = FITS[folder]
    code, out, err = run(folder, name, capsys)
    assert code == 0 and messages[name] in err and bool(messages[name]) == bool(err), err
    if name not in FREE:
        within = 0.02 if name == "five_seeds" else 0.005
        assert json.loads(out)["exponents"][0] == pytest.approx(exponent, abs=within)


@pytest.mark.parametrize(("folder", "name"), cases(REFUSALS))
def test_one_message(folder, name, capsys):
    code, out, err = run(folder, name, capsys)
    assert code == ConfigError.code and out == "" and err.count("\n") == 1
    assert re.search(re.escape(REFUSALS[folder][name]), err) and f"{name}.csv" in err


@pytest.mark.parametrize(("folder", "name"), cases(NOT_DETERMINED))
def test_not_identified(folder, name, capsys):
    code, out, err = run(folder, name, capsys)
    assert code == NOT_IDENTIFIED and "params" not in json.loads(out)
    assert NOT_DETERMINED[folder][name] in err


def test_every_table_has_an_answer():
    for folder in FITS:
        names = {path.stem for path in table("", f"failing/{folder}").glob("*.csv")}
        assert names == FITS[folder][1].keys() | REFUSALS[folder].keys() | NOT_DETERMINED[folder].keys()
