"""`tlx scale` as a user runs it, with losses drawn from a law."""

import json

import pytest

from tests.cli.tiny import ROOT
from tlx import cli
from tlx.base.errors import NOT_IDENTIFIED, USAGE
from tlx.cli import scale

LADDER = f"--config={ROOT / 'configs/scaling/quickstart.py'}"


@pytest.mark.slow
def test_a_ladder_from_plan_to_report(tmp_path, capsys):
    words = [LADDER, f"--folder={tmp_path}"]
    assert cli.main(["scale", "plan", *words]) == 0
    assert cli.main(["scale", "run", *words, "--backend=simulate:0.002"]) == 0
    before = (tmp_path / "ledger.jsonl").read_bytes()
    assert cli.main(["scale", "run", *words, "--backend=simulate:0.002"]) == 0
    assert (tmp_path / "ledger.jsonl").read_bytes() == before  # nothing twice
    capsys.readouterr()
    assert cli.main(["scale", "fit", *words, "--json", "--boot=100"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "ok" and abs(found["params"]["alpha"] - 0.3478) < 0.1
    assert cli.main(["scale", "report", *words, "--boot=100"]) == 0
    assert "data:image/png" in (tmp_path / "report" / "index.html").read_text()


def test_what_is_not_identified_and_wrong_verbs_have_exit_codes(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_text("N,D,loss\n" + "\n".join(f"{10**i},{20 * 10**i},{4 - i / 10}" for i in range(3, 7)))
    assert cli.main(["scale", "fit", f"--runs={table}", "--json"]) == NOT_IDENTIFIED
    assert "params" not in json.loads(capsys.readouterr().out)
    assert cli.main(["scale", "fits"]) == USAGE


def test_every_verb_has_a_function():
    for verb in scale.VERBS:
        assert callable(scale.VERBS.load(verb)), verb
