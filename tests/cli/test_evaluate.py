"""`tlx evaluate` on small run directories."""

import json
import math

import pytest

import tlx
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx.cli import main

TEXTS = ["Some text, ", "and more of it: " * 5, "Käse"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    return str(tmp_path / "*.txt")


@pytest.mark.parametrize("objective", tiers(["clm", "mlm", "span_corruption", "plm"], quick=["mlm"]))
def test_every_shape_on_files(objective, files, tmp_path, capsys):
    run = write_run(tmp_path / "run", objective)
    assert main(["evaluate", str(run), f"--data={files}", "--batch_size=2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["step"] == 3
    library = tlx.evaluate(run, data=files, batch_size=2).metrics
    assert library == {name: value for name, value in figures.items() if name not in ("run", "step")}
    assert figures["bits_per_byte"] == pytest.approx(
        figures["loss"] * figures["targets"] / math.log(2) / figures["bytes"]
    )
    if objective == "clm":  # every byte once, and an end for each document
        num_bytes = sum(len(text.encode()) for text in TEXTS)
        assert (figures["bytes"], figures["targets"]) == (num_bytes, num_bytes + 3)


def test_bits_per_byte_are_those_of_score(files, tmp_path, capsys):
    """One document that fits a row: the only other target is its eos."""
    run = write_run(tmp_path / "run", "clm")
    (tmp_path / "one.txt").write_text("exactly this")
    assert main(["evaluate", str(run), f"--data={tmp_path / 'one.txt'}", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    lm = tlx.load(run)
    vocab, ids = lm.tokenizer.vocab, lm.tokenizer.encode("exactly this")
    logits = lm.logits([vocab.bos, *ids])[0, -1]
    end = float(logits[vocab.eos] - math.log(sum(math.exp(x) for x in logits)))
    nats = -lm.score("exactly this").log_likelihood - end
    assert figures["loss"] * figures["targets"] == pytest.approx(nats, rel=1e-4)


def test_wrong_data_is_named(files, tmp_path, capsys):
    run = write_run(tmp_path / "run", "clm")
    assert main(["evaluate", str(run), "--data=pyton"]) == 64
    assert "did you mean 'python'" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--data=absent/*.txt"]) == 64
    assert "absent/*.txt" in capsys.readouterr().err
