"""How a run ends: baselines of its own targets, a curve, samples, and commands that work."""

import math
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.cli import tiny
from tests.tiers import tiers
from tlx import cli
from tlx.cli import flags
from tlx.data.prepare import open_caches
from tlx.run import base_config
from tlx.run.assemble import assemble
from tlx.run.checks import resolve
from tlx.trainer import summary
from tlx.trainer.samples import gap_name
from tlx.training.journal import read_lines


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny.write_config(tmp_path_factory.mktemp("config"))


@pytest.mark.parametrize("shape", tiers(["clm", "mlm", "span_corruption", "plm"], slow=["clm"]))
def test_the_end_of_a_run(config_file, tmp_path, capsys, shape):
    words = [f"--config={config_file}:{shape}", f"--workdir={tmp_path}/run"]
    assert cli.main(["train", *words, "--config.eval.final=true", "--config.train.steps=10"]) == 0
    out = capsys.readouterr().out
    assert out.count("compiling  the train step") == 1
    assert "this model" in out and "unigram" in out and ("trigram" in out) == (shape == "clm")
    assert out.count("--- from the validation files") == 2
    assert (tmp_path / "run" / "loss.png").stat().st_size > 10_000
    (final,) = [line for line in read_lines(tmp_path / "run/metrics.jsonl") if line["kind"] == "final"]
    assert f"{final['loss']:.4f}" in out
    generate, evaluate, more, python = [
        line.strip() for line in out.split("\nnext:\n")[1].splitlines() if line.strip()
    ]
    assert cli.main(shlex.split(generate)[1:]) == 0
    assert cli.main(shlex.split(more, comments=True)[1:]) == 0
    assert "from checkpoints/10: 10 of 20 steps to go" in capsys.readouterr().out
    subprocess.run([sys.executable, *shlex.split(python)[1:]], check=True, cwd=tiny.ROOT, timeout=120)


def test_the_suggested_prompt_is_a_line_of_the_text():
    texts = ["#!/x\n\n", "1 2 3\nThe quick brown fox jumps over the lazy dog\n", "\x00abcdefgh"]
    assert summary.example_prompt(texts, None) == "The quick brown fox jumps"
    assert summary.example_prompt(texts, "[MASK]") == "The quick brown fox [MASK]"
    assert summary.example_prompt(["import os"], "[MASK]") == "import [MASK]"
    assert summary.example_prompt(["", "\x00"], None) == "The"
    assert len(summary.example_prompt(["x" * 500], None)) < 60


def test_baselines_are_of_the_text_that_is_evaluated(config_file):
    run = assemble(resolve(flags.load_config(str(config_file))))
    scores = summary.baselines(run)
    assert list(scores) == ["Kneser-Ney trigram", "unigram"]
    assert scores["Kneser-Ney trigram"].nats < 0.8 * scores["unigram"].nats
    (train,) = open_caches(run.config.data, run.tokenizer, "train")
    (text,) = open_caches(run.config.data, run.tokenizer, "validation")
    counts = np.bincount(train.tokens, minlength=363) + 1
    bits = -np.log2(counts / counts.sum())[text.tokens].sum()
    bits_per_byte = bits / run.tokenizer.num_bytes[text.tokens].sum()
    assert scores["unigram"].bits_per_byte == pytest.approx(bits_per_byte, rel=1e-6)
    assert scores["unigram"].nats == pytest.approx(bits * math.log(2) / text.num_tokens, rel=1e-6)


def test_the_unigram_of_other_objectives_is_of_their_targets(config_file):
    run = assemble(resolve(flags.load_config(f"{config_file}:span_corruption")))
    (unigram,) = summary.baselines(run).values()
    sentinels = run.tokenizer.vocab.sentinel(0), run.tokenizer.vocab.sentinel(1)
    targets = np.concatenate([batch["targets"].ravel() for batch in run.validation.epoch_batches()])
    assert np.isin(sentinels, targets).all()  # far more frequent there than in the text, where there are none
    assert unigram.nats < 4


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("bart", "[MASK]"),
        ("mbart", "[MASK]"),
        ("mlm", "[MASK]"),
        ("span_corruption", "<extra_id_0>"),
        ("ul2", "<extra_id_0>"),
        ("clm", None),
        ("text_to_text", None),
    ],
)
def test_the_gap_of_a_suggested_prompt_is_the_objectives_own(objective, name):
    assert gap_name(resolve(base_config(objective))) == name
