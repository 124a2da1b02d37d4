"""README.md's commands, in their order as written: each reads what an earlier one has made.

The whole of them runs by hand: pytest -m long tests/test_readme.py.
"""

import gzip
import io
import json
import pathlib
import re
import shlex
import sys

import pytest

import tlx
from tlx import cli
from tlx.base.config_files import load_config, override, run_name
from tlx.cli import VERBS
from tlx.models.families import TABLE as FAMILIES

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# What costs time in a test of the commands: evaluations, and files of a tracker.
UNTESTED = ("--config.eval.final=False", "--config.eval.every=0", "--config.log.tensorboard=False")
# Two trainings, one of them resumed, and the way to another library and back.
SHORT = (
    "tlx train --config=configs/quickstart.py",
    "tlx train --config=quickstart --config.train.steps=4000",
    "tlx generate runs/quickstart",
    "tlx train --config=quickstart --workdir=runs/llama",
    "tlx convert",
)
# Without a model, or too long for a test: they have tests of their own.
ELSEWHERE = (
    "tlx bench",
    "tlx chat my/files/chat-model",
    "tlx generate my/files/llama-8b",
    "tlx convert export runs/llama --push=hf://OWNER/NAME",
    "tlx scale run",
    "tlx serve",
    "tlx plan",
    "tlx generate hf://OWNER/NAME",
    "tlx train --config=pretrain/bert",
    "tlx train --config=quickstart --workdir=gs://bucket/run",
)


def commands():
    """Every command of README that starts tlx, in order: of the blocks, then of the rows of the table."""
    parts = []
    for block in re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        parts += [part.strip() for line in block.splitlines() for part in line.split("&&")]
    table = README.partition("## I want to")[2].partition("\n## ")[0]
    for row in table.splitlines():
        parts += re.findall(r"`((?:tlx|python) [^`]*)`", row)
    return [command for command in parts if command.startswith(("tlx ", "python -c"))]


def written_by(words):
    """The directory that a command writes, or None."""
    if words[:2] == ["tlx", "convert"]:
        return words[-1]
    if words[1] not in ("train", "finetune"):
        return None
    named = [word.partition("=")[2] for word in words if word.startswith("--workdir=")]
    config = next(word.partition("=")[2] for word in words if word.startswith("--config="))
    return named[0] if named else f"runs/{run_name(config)}"


def read_by(words):
    """The directories that a command reads."""
    bases = [word.partition("=")[2] for word in words if word.startswith("--from=")]
    plain = [word for word in words[2:] if re.match(r"(runs|hf)/", word)]
    return bases + (plain[:1] if words[1] == "convert" else plain if words[1] != "train" else [])


def test_there_are_commands_of_every_verb():
    verbs = {command.split()[1] for command in commands() if command.startswith("tlx ")}
    assert verbs == set(VERBS)
    assert all(any(starts(command, (one,)) for command in commands()) for one in (*SHORT, *ELSEWHERE))


def starts(command, beginnings):
    """Whether a command is one of these, or one of them with further words."""
    return any(f"{command} ".startswith(f"{one} ") for one in beginnings)


def test_each_command_reads_what_an_earlier_one_has_made():
    there = {"runs/x": "python"}
    for command in commands():
        words = shlex.split(command)
        if words[0] == "python":
            continue
        missing = [folder for folder in read_by(words) if folder not in there]
        assert not missing, f"{command}: nothing has made {missing}"
        folder = written_by(words)
        if folder is None:
            continue
        resumed = "--allow-change" in command
        assert (folder in there) == resumed, f"{command}: {folder} is that of {there.get(folder)}"
        there[folder] = command


def test_configs_and_overrides_of_every_command_are_right():
    for command in commands():
        words = shlex.split(command)
        for word in words:
            if word.startswith("--config="):
                config = load_config(
                    word.removeprefix("--config=").removeprefix("configs/").replace(".py", "")
                )
        for word in words:
            if word.startswith("--config."):
                override(config, word)


def test_the_quickstart_saves_often():
    """A run takes about 7 minutes on 2 cores: a kill loses less than one of them."""
    for objective in ("clm", "mlm", "span_corruption", "plm"):
        config = load_config(f"quickstart:{objective}")
        assert 420 * config.checkpoint.every / config.train.steps < 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the configs of the checkout and the files that README calls the reader's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my" / "files").mkdir(parents=True)
    (tmp_path / "my" / "files" / "a.py").write_text("import os\n" * 50)
    (tmp_path / "corpus").mkdir()
    with gzip.open(tmp_path / "corpus" / "a.jsonl.gz", "wt") as handle:
        handle.writelines(json.dumps({"text": f"document {i} " * 40}) + "\n" for i in range(60))
    for kind in ("neg", "pos"):
        with gzip.open(tmp_path / f"rt-polarity.{kind}.gz", "wt") as handle:
            handle.writelines(f"a {kind} film, number {i}\n" for i in range(40))
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello to you"}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(40)))
    pair = {"prompt": "hello", "chosen": "hello to you", "rejected": "no"}
    sums = [{"source": f"{a}+{b}=", "target": str(a + b)} for a in range(10) for b in range(10)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(record) + "\n" for record in sums))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for _ in range(40)))
    return tmp_path


def tiny(command):
    """The words of a command, its configs replaced by their small variants, of a few steps."""
    words = shlex.split(command)
    if words[0] == "python":
        return words
    small = []
    for word in words[1:]:
        if word.startswith("--config=") and words[1] in ("train", "finetune", "data", "evaluate"):
            word = word if word.endswith(":tiny") else f"{word}:tiny"
        if not word.startswith("--config.train.steps="):
            small.append(word)
    if words[1] not in ("train", "finetune"):
        return small
    steps = 5 if "--allow-change" in command else 3
    small += [f"--config.train.steps={steps}", f"--workdir={written_by(words)}"]
    # Tests have eight devices.
    small += ["--config.train.batch_size=8"] * (words[1] == "finetune")
    # The best step is that of an evaluation during the training.
    return small + ["--config.eval.every=2"] * ("keep_best" in command)


def run(words, monkeypatch, capsys):
    """Run the words of one command in this process; returns what it printed."""
    if words[0] == "python":
        exec(words[2], {})
    else:
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        assert cli.main(words) == 0, (words, capsys.readouterr().err)
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_first_commands_run_in_order(folder, monkeypatch, capsys):
    for command in commands():
        if starts(command, SHORT) and not starts(command, ELSEWHERE):
            run([*tiny(command), *UNTESTED * (" --config=" in command)], monkeypatch, capsys)
    names = {path.name for path in (folder / "runs").iterdir()}
    assert names == {"quickstart", "llama", "imported", "both"}
    first, back = tlx.load("runs/llama"), tlx.load("runs/imported")
    assert back.score("import os").log_likelihood == pytest.approx(
        first.score("import os").log_likelihood, rel=1e-5
    )


@pytest.mark.long
def test_all_commands_run_in_order(folder, monkeypatch, capsys):
    for command in commands():
        if not starts(command, ELSEWHERE):
            run(tiny(command), monkeypatch, capsys)


def test_the_faults_of_the_catalogue_name_tests_that_exist():
    """A file stands once for the tests of it that follow in the same row."""
    rows = [
        line for line in (ROOT / "tlx/checkpoint/README.md").read_text().splitlines() if "`tests/" in line
    ]
    assert len(rows) >= 34
    named = 0
    for row in rows:
        source = ""
        for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", row):
            source = (ROOT / file).read_text() if file else source
            assert not name or f"def {name}(" in source, row
            named += bool(name)
    assert named >= 50


def test_the_number_of_families_is_that_of_the_table():
    (number,) = re.findall(r"\[(\d+) published model families\]", README)
    assert int(number) == len(list(FAMILIES))
