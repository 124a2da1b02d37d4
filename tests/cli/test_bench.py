"""`tlx bench` runs and prints its ratios; the figures themselves are nobody's test."""

import json

import pytest

from tests.tiers import tiers
from tlx.bench import cost as bench_cost
from tlx.bench.timing import in_turns, median_ratio
from tlx.cli import main
from tlx.cli.flags import load_config
from tlx.plan import plan

SMALL = ["--width=16", "--layers=1", "--length=16", "--batch=8", "--vocab=512", "--seconds=0.1"]


@pytest.mark.long
def test_step_and_data(tmp_path, capsys):
    path = tmp_path / "figures.json"
    words = ["bench", "--what=step,data,cost,generate,rollout", "--objective=clm", f"--json={path}", *SMALL]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "of peak" in out and "M tokens/s of one core" in out
    figures = json.loads(path.read_text())
    assert figures["shape"]["width"] == 16
    assert 0 < figures["step"]["clm"]["peak_share"] < 1
    assert figures["step"]["clm"]["over_clm"] > 0
    assert 0 < figures["data"]["clm"] < figures["data"]["plain_copy"]["clm"]
    assert figures["generate"]["tlx_tokens_per_s"] > 0 and "8 prompts of 8 tokens and as many new ones" in out
    assert figures["rollout"]["tlx_tokens_per_s"] > 0 and "4 answers of 8 tokens to 8 prompts of 8" in out
    assert "tlx / transformers" in out or "cannot be imported" in out
    # One layer of 16: attention's and the feed-forward's kernels, 16 keys, and 512 logits.
    exact = 2 * (12 * 16**2 + 2 * 16 * 16 + 16 * 512)
    assert figures["cost"]["clm"] == {"text": 16, "targets": 1.0, "flops": exact, "times_clm": 1.0}


@pytest.mark.long
def test_the_other_shapes(capsys):
    others = ["mlm", "span_corruption", "plm"]
    assert main(["bench", "--what=step,data", f"--objective={','.join(others)}", *SMALL]) == 0
    out = capsys.readouterr().out
    assert [out.count(f"  {name}") for name in others] == [2, 2, 2]


@pytest.mark.long
def test_checkpoint_startup_and_eager(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--what=checkpoint,startup,eager,compiled", "--objective=clm", *SMALL]) == 0
    out = capsys.readouterr().out
    for words in (
        "as a plain file",
        "of its time in hashing",
        "an array with jax alone",
        "without the compilation",
    ):
        assert words in out
    assert out.count("tlx / PyTorch") == 2 and ", compiled" in out or "cannot be imported" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", tiers(["decoder_1b", "bert_large", "t5_large"], slow=[]))
def test_the_step_of_a_config(name, tmp_path, capsys):
    path = tmp_path / "figures.json"
    words = ["--config.train.batch_size=8", "--seconds=0.1", f"--json={path}"]
    assert main(["bench", f"--config=configs/bench/{name}.py:tiny", *words]) == 0
    figures = json.loads(path.read_text())
    assert figures["config"] and figures["mfu"] == pytest.approx(
        figures["flops_per_s"] / figures["peak_flops_per_s"]
    )
    out = capsys.readouterr().out
    assert f"{figures['tokens_per_s']:,.0f} tokens/s" in out
    assert "tlx / PyTorch" in out or "cannot be imported" in out


SIZES = [("decoder_1b", 1e9), ("bert_large", 3.3e8), ("t5_large", 7e8)]


@pytest.mark.parametrize(("name", "least"), tiers(SIZES, quick=SIZES[1:2]))
def test_configs_are_of_their_size(name, least):
    found = plan(load_config(f"configs/bench/{name}.py"), "gpu:h200:1", "analytic", suggest=False)
    assert found.fits and least < found.parameters.total < 1.2 * least


def test_what_fails_leaves_the_other_figures(tmp_path, monkeypatch, capsys):
    def cost(objective, shape):
        if objective == "mlm":
            raise ValueError("no such\nthing")
        return bench_cost.Cost(16, 1.0, 12.0)

    monkeypatch.setattr(bench_cost, "cost", cost)
    path = tmp_path / "figures.json"
    assert main(["bench", "--what=cost", "--objective=mlm,clm", f"--json={path}"]) == 1
    assert "mlm              failed: ValueError: no such\n" in capsys.readouterr().out
    figures = json.loads(path.read_text())["cost"]
    assert figures["mlm"] == {"error": "ValueError: no such"} and figures["clm"]["times_clm"] == 1
    monkeypatch.setattr(bench_cost, "measure", lambda *_: 1 / 0)
    assert main(["bench", "--what=cost"]) == 1
    assert "cost             failed: ZeroDivisionError" in capsys.readouterr().out


def test_a_config_leaves_no_other_choice(capsys):
    assert main(["bench", "--config=configs/bench/decoder_1b.py:tiny", "--what=data", "--width=8"]) == 64
    assert "leave out --what, --width" in capsys.readouterr().err
    assert main(["bench", "--config=configs/bench/decoder_1b.py:tinyy"]) == 64
    assert "did you mean 'tiny'" in capsys.readouterr().err


def test_unknown_words_are_named(capsys):
    assert main(["bench", "--what=stp"]) == 64
    assert "did you mean 'step'" in capsys.readouterr().err
    assert main(["bench", "--objective=clmm"]) == 64
    assert "did you mean 'clm'" in capsys.readouterr().err


def test_turns_are_taken_one_after_the_other():
    calls = []
    found = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0)
    assert calls == ["a", "b"] * 4 and [len(times) for times in found.values()] == [3, 3]
    assert median_ratio([2, 6, 4], [1, 2, 4]) == 2
