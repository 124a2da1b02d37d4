"""`tlx data` prints the examples a model gets, and what they contain on average."""

import json
import re

import numpy as np
import pytest

from tests.run_directory import write_run
from tlx.base.errors import ConfigError, DataError
from tlx.cli.data import main
from tlx.cli.data_rates import measure
from tlx.cli.data_tables import describe
from tlx.text import TokenizerConfig, make_tokenizer

TOKENIZER = make_tokenizer(TokenizerConfig(kind="bytes"), ())
VOCAB = TOKENIZER.vocab
CONFIG = """
from tlx.run import base_config

def get_config(arg):
    config = base_config(arg)
    config.tokenizer.kind = "bytes"
    config.data.source = "text"
    config.data.text.files = ({glob!r},)
    config.data.sequence_length = 64
    config.train.batch_size = 4
    if config.model.kind == "two_stream":
        config.model.position.kind, config.model.block_layout = "relative_sinusoidal", "post"
    return config
"""


def _ids(text):
    return np.array(TOKENIZER.encode(text), np.int32)


def _ones(size):
    return np.ones(size, np.int32)


def test_a_dense_example():
    example = {
        "tokens": np.array([VOCAB.bos, *_ids("ab"), VOCAB.bos, *_ids("c"), 0], np.int32),
        "targets": np.array([*_ids("ab"), VOCAB.eos, *_ids("c"), VOCAB.eos, 0], np.int32),
        "weights": np.array([1, 1, 1, 1, 1, 0], np.float32),
        "positions": np.array([0, 1, 2, 0, 1, 0], np.int32),
        "segments": np.array([1, 1, 1, 2, 2, 0], np.int32),
    }
    lines = list(describe(example, TOKENIZER, positions=2))
    assert lines[:6] == [
        "input: 6 positions, 1 of padding, 2 segments",
        "  segment 1, 3 tokens",
        "  | <s>ab",
        "  segment 2, 2 tokens",
        "  | <s>c",
        "targets: 5, of text: 'abc'",
    ]
    assert [line.split() for line in lines[7:]] == [
        ["index", "tokens", "targets", "weights", "positions", "segments"],
        ["0", "2", "'<s>'", "104", "'a'", "1", "0", "1"],
        ["1", "104", "'a'", "105", "'b'", "1", "1", "1"],
        ["...", "4", "more"],
    ]


SPARSE = {
    "tokens": np.array([*_ids("x"), VOCAB.mask, *_ids("yz")], np.int32),
    "positions": np.arange(4, dtype=np.int32),
    "segments": _ones(4),
    "target_positions": np.array([1, 2, 3, 0], np.int32),
    "targets": np.array([*_ids("bcz"), 0], np.int32),
    "weights": np.array([1, 1, 1, 0], np.float32),
}


def test_a_sparse_example():
    lines = list(describe(SPARSE, TOKENIZER, positions=9))
    assert "  | x<mask>yz" in lines and "targets: 3, of text: 'bcz'" in lines
    rows = [line.split() for line in lines[lines.index("targets:") + 1 :]]
    assert rows[0] == ["index", "target_positions", "targets", "weights", "shown"]
    assert rows[1] == ["0", "1", "105", "'b'", "1", "4", "'<mask>'"]
    assert rows[2] == ["1", "2", "106", "'c'", "1", "128", "'y'"]


def test_rates_of_sparse_targets():
    rates = measure({name: value[None] for name, value in SPARSE.items()}, VOCAB)
    third = pytest.approx(1 / 3)
    assert rates["targets shown as mask"] == rates["targets shown unchanged"] == third
    assert rates["targets shown as another"] == third
    assert rates["targets per token"] == 0.75 and rates["masks per token"] == 0.25


def test_an_example_of_two_inputs():
    sentinel = VOCAB.sentinel(0)
    example = {
        "encoder_tokens": np.array([*_ids("a"), sentinel, VOCAB.eos], np.int32),
        "encoder_positions": np.arange(3, dtype=np.int32),
        "encoder_segments": _ones(3),
        "decoder_tokens": np.array([VOCAB.bos, sentinel, *_ids("b")], np.int32),
        "decoder_positions": np.arange(3, dtype=np.int32),
        "decoder_segments": _ones(3),
        "targets": np.array([sentinel, *_ids("b"), VOCAB.eos], np.int32),
        "weights": np.ones(3, np.float32),
    }
    text = "\n".join(describe(example, TOKENIZER, positions=3))
    assert "  | a<extra_id_0></s>" in text and "  | <s><extra_id_0>b" in text
    assert re.search(r"decoder:\n  index +tokens +positions +segments +targets +weights\n", text)
    rates = measure({name: value[None] for name, value in example.items()}, VOCAB)
    assert rates["encoder sentinels per row"] == rates["decoder sentinels per row"] == 1


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    line = '{"text": "The quick brown fox jumps over the lazy dog, again and again."}\n'
    (tmp_path / "a.jsonl").write_text(line * 200)
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(glob=str(tmp_path / "*.jsonl")))
    return path


@pytest.mark.parametrize("objective", ["clm", "mlm", "span_corruption", "plm"])
def test_show(config, capsys, objective):
    assert main(["show", f"--config={config}:{objective}", "--examples=2", "--places=3"]) == 0
    out = capsys.readouterr().out
    assert out.count("=== batch 0, row") == 2 and "fox" in out
    rates = dict(re.findall(r"^(\w.*?) {2,}([\d.,e+]+)$", out, re.M))
    if objective == "mlm":
        assert abs(float(rates["targets shown as mask"]) - 0.8) < 0.02
        assert abs(float(rates["targets per token"]) - 0.15) < 0.02
    assert f"over 1000 examples of {objective}" in out


def test_prepare(config, capsys, tmp_path):
    assert main(["prepare", f"--config={config}:clm"]) == 0
    out = capsys.readouterr().out
    assert "tokenizer: 363 ids" in out and out.count(f" in the token cache {tmp_path}/cache/tokens/") == 2
    documents = [int(count) for count in re.findall(r"(\d+) documents", out)]
    assert sum(documents) == 200


def test_errors_reach_the_caller(config, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'packing'"):
        main(["show", f"--config={config}:clm", "--config.data.packin=best_fit"])
    (tmp_path / "b.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="b.jsonl:1 has no such field"):
        main(["prepare", f"--config={config}:clm"])


TASK = """
from tlx.run import finetune_config

def get_config(arg):
    task, _, shape = arg.partition(":")
    config = finetune_config(task)
    config.tokenizer.kind = "bytes"
    config.model.kind = shape or None
    config.data.records.train = ({file!r},)
    config.data.sequence_length, config.train.batch_size = 24, 2
    if task == "similarity":
        config.objective.first, config.objective.second = "first", "second"
        config.objective.label = "label"
    if task == "generation":
        config.objective.source, config.objective.target = "say: {{text}}", "{{label}}"
        config.objective.target_length = 6
    return config
"""


@pytest.fixture
def task(tmp_path):
    rows = [{"text": f"text {i}", "first": "ab", "second": "cd", "label": i % 3} for i in range(30)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.py").write_text(TASK.format(file=str(tmp_path / "r.jsonl")))
    return tmp_path / "task.py"


def test_records_stand_beside_their_rows(task, capsys):
    words = [f"--config={task}:classification:encoder", "--examples=2", "--positions=3", "--batch=1"]
    assert main(["show", *words]) == 0
    out = capsys.readouterr().out
    found = re.findall(r"=== train, row (\d) of (\d+) ===\nrecord (.*)\n  text: (.*)\n", out)
    assert [row for row, *_ in found] == ["2", "3"]
    number = found[0][2].rsplit(":", 1)[1]
    assert found[0][3] == f"text {int(number) - 1}"
    assert f"  | <cls>{found[0][3]}<sep>" in out and f"label: {(int(number) - 1) % 3} " in out
    assert re.search(r"  index +tokens +positions +segments", out) and "  0      5 '<cls>'" in out
    shares = [float(share) for share in re.findall(r"^label '\d' +([\d.]+)$", out, re.M)]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1, abs=0.01)
    assert re.search(r"tokens in a row +[\d.]+, \d+ at most of 24", out)


def test_rows_of_other_shapes(task, capsys):
    assert main(["show", f"--config={task}:similarity:decoder", "--positions=1"]) == 0
    out = capsys.readouterr().out
    assert "  | <s>ab<sep>cd" in out and "  | <s>cd<sep>ab" in out  # both orders
    assert main(["show", f"--config={task}:generation:encoder_decoder", "--positions=1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"  \| say: text \d+</s>", out) and re.search(r"targets: 2, of text: '\d'", out)
    with pytest.raises(ConfigError, match="there is no cache to prepare"):
        main(["prepare", f"--config={task}:similarity"])


def test_a_task_is_shown_for_its_base(task, tmp_path, capsys):
    write_run(tmp_path / "base", "clm")
    assert main(["show", f"--config={task}:classification", f"--from={tmp_path / 'base'}"]) == 0
    assert re.search(r"  \| <s>text \d+<", capsys.readouterr().out)
