"""Every flag and config key that takes a run, a file or a folder takes a place, or refuses one in one line.

The walks are over the parsers and the dataclasses themselves: a flag or a key that is new, and that no table below
knows, fails them.
"""

import argparse
import dataclasses
import json
import os
import re
import typing

import pytest

import tlx
from tests import stores
from tests.cli import tiny
from tlx import cli
from tlx.base import place as places
from tlx.base.field_docs import field_docs
from tlx.cli import bench, scale
from tlx.launch.clusters import CLUSTERS
from tlx.objectives import TABLE as OBJECTIVES
from tlx.rollouts import TABLE as ROLLOUTS
from tlx.run.config import RunConfig
from tlx.tasks import TABLE as TASKS

# Flags and words that take a model: a run, one of its checkpoints, a Hugging Face directory, hf://.
MODELS = {
    "train --from",
    "finetune --from",
    "data --from",
    "plan --from",
    "evaluate RUN",
    "evaluate --reward",
    "evaluate --against",
    "evaluate --safety",
    "generate RUN",
    "generate --draft",
    "chat RUN",
    "serve RUN",
    "convert FROM",
}
# Those that take runs, files and folders that are read.
READ = {
    "config --diff",
    "evaluate --data",
    "evaluate --stress",
    "evaluate --tasks",
    "plan --ladder",
    "report PATH",
    "chat --retrieve",
    "data --vectors",
    "data --instructions",
    "scale --rate-law",
    "scale --runs",
    "scale compare --with",
    "scale curve --run",
    "scale curve --reference",
}
# Those that are written.
WRITTEN = {
    "train --workdir",
    "finetune --workdir",
    "launch --workdir",
    "convert TO",
    "data --to",
    "evaluate --predictions",
    "bench --json",
    "report --plot",
    "scale --folder",
}
# Those of this machine alone, with the beginning of a command that has all else.
HERE = {
    "config --config": ["config"],
    "train --config": ["train"],
    "finetune --config": ["finetune", "--from=x"],
    "data --config": ["data", "show"],
    "plan --config": ["plan", "--target=cpu:1"],
    "bench --config": ["bench"],
    "evaluate --config": ["evaluate", "x"],
    "scale --config": ["scale", "plan"],
    "launch --config": ["launch", "local", "--name=x"],
    "plan --write": ["plan", "--config=quickstart:clm:tiny", "--target=cpu:1", "--search"],
    "launch --render": ["launch", "slurm", "--config=quickstart:clm:tiny", "--name=x", "--nodes=1"],
    "data --render": ["data", "prepare", "--config=quickstart:clm:tiny", "--to={folder}/c", "--runner=slurm"],
}
# Flags whose texts name no place: by verb, or of all of them.
OTHER = {
    "--allow", "--allow-change", "--params", "--prompt", "--stop", "--begin", "--language", "--target_language",
    "--code", "--mode", "--choice", "--system", "--template", "--explain", "--column", "--safety_column", "--harness",
    "--chat", "--ignore", "--task", "--family", "--push", "--by", "--split", "--score", "--what", "--objective",
    "--host", "--method", "--target", "--share", "--sbatch", "--python", "--name", "--plan", "--flag", "--env",
    "--drop", "--linear",
    "--backend", "--importer", "--where", "--law", "--loss", "--convention", "--curve", "--metric", "--form",
    "--widths", "--depths", "--change", "--bits", "--columns", "--compiler-python", "--compilation-cache",
}  # fmt: skip
# Keys of the config that hold places, and those whose explanations speak of files without holding one.
KEYS = {
    "base.path",
    "checkpoint.local_folder",
    "data.text.files",
    "data.text.validation_files",
    "data.tfds.data_dir",
    "data.records.data_dir",
    "data.records.train",
    "data.records.validation",
    "data.records.test",
    "data.tokens",
    "distill.teacher",
    "objective.teacher",
    "objective.reference",
    "objective.reward_run",
    "tokenizer.path",
}
OTHER_KEYS = {"name", "data.records.encoding", "data.records.format"}


class _Captured(Exception):
    """The parser of a verb."""


def parsers():
    """By the words that lead to it, the parser of each verb."""
    words = [[verb] for verb in cli.VERBS if verb not in ("scale", "launch")]
    words += [["launch", name] for name in CLUSTERS] + [["scale", name] for name in scale.VERBS]

    def captured(self, *_):
        raise _Captured(self)

    found = {}
    for one in words:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(_Captured) as caught:
            patch.setattr(argparse.ArgumentParser, "parse_known_args", captured)
            cli.VERBS.load(one[0])(one[1:])
        found[" ".join(one)] = caught.value.args[0]
    return found


def test_every_flag_is_known():
    """A text that a flag takes is a place of one of the kinds, or none."""
    known = MODELS | READ | WRITTEN | set(HERE)
    seen = set()
    unknown = []
    for words, parser in parsers().items():
        verb = words.split()[0]
        for action in parser._actions:
            takes_text = action.nargs != 0 and action.type in (None, str) and action.choices is None
            if not takes_text:
                continue
            # Options of a cluster (an image, a zone) are of one cluster alone.
            name = action.option_strings[0] if action.option_strings else action.metavar or action.dest
            if name in OTHER or verb == "launch" and action.dest in _cluster_fields():
                continue
            names = {f"{verb} {name}", f"{words} {name}"} & known
            if not names:
                unknown.append(f"tlx {words}: {name} is in no table here: {action.help}")
            seen |= names
    assert not unknown, "\n".join(unknown)
    assert seen == known


def _cluster_fields():
    return {
        field.name for cluster in CLUSTERS for field in dataclasses.fields(CLUSTERS.load(cluster).options)
    }


def text_keys(kind, prefix, found):
    """Add the keys of a dataclass, and of those in it, that hold texts: {key: its explanation}."""
    hints = typing.get_type_hints(kind)
    docs = field_docs(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        parts = [hint, *typing.get_args(hint)]
        for part in parts:
            if dataclasses.is_dataclass(part):
                text_keys(part, f"{prefix}{field.name}.", found)
        if str in parts:
            found[f"{prefix}{field.name}"] = docs[field.name]


def test_every_key_is_known():
    """Keys that hold texts, and whose explanation speaks of files, folders or runs."""
    found = {}
    text_keys(RunConfig, "", found)
    for table in (OBJECTIVES, TASKS, ROLLOUTS):
        for name in table:
            text_keys(table.load(name).config_class, "objective.", found)
    about = re.compile(r"folder|director|\bfiles?\b|\bglob|\bplace|bucket")
    named = re.compile(r"path|file|dir$|folder|teacher$|reference$|_run$")
    keys = {key for key, text in found.items() if about.search(text) or named.search(key)}
    # The same options for each source of a mixture, and for each set of records.
    plain = {key.replace("data.mixture.", "data.").replace("records.sets.", "records.") for key in keys}
    assert plain - OTHER_KEYS == KEYS


def said(words, capsys):
    """(exit code, what `tlx WORDS` printed)."""
    capsys.readouterr()
    code = cli.main(words)
    out = capsys.readouterr()
    return code, out.out + out.err


@pytest.mark.parametrize("flag", sorted(HERE))
def test_what_stays_on_this_machine_is_refused_in_one_line(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.format(folder=tmp_path) for word in HERE[flag]]
    code, text = said([*words, f"{flag.split()[-1]}=gs://tlx-tests/x.py"], capsys)
    assert code == 64 and "this machine" in text and "gs://tlx-tests/x.py" in text
    assert len(text.strip().splitlines()) == 1 and not os.listdir(tmp_path)


# What is tested by the files named here, and needs minutes or more than one store.
ELSEWHERE = {
    "scale --folder": "scaling/test_buckets.py",
    "data --to": "data/test_corpus.py",
    "evaluate --data": "data/test_sources.py",
    "evaluate --tasks": "api/test_harness.py",
    "data --vectors": "trainer/test_augment.py",
}
# By flag: words of a command with it, its exit code, and a text that it prints. {run} is a run in a bucket, {none}
# an address where there is nothing, {new} one that is written to, {files} a place with files.
COMMANDS = {
    "train --from": (["train", "{config}", "--from={none}", "--workdir={new}"], 64, "{none}"),
    "finetune --from": (
        ["finetune", "--config=finetune/quickstart:tiny", "--from={none}", "--workdir={new}"],
        64,
        "{none}",
    ),
    "data --from": (["data", "show", "--config=finetune/quickstart:tiny", "--from={none}"], 64, "{none}"),
    "data --instructions": (
        [
            "data",
            "ghost",
            "--config=finetune/chat:tiny",
            "--from={run}",
            "--instructions={none}",
            "--to={new}",
        ],
        64,
        "{none}",
    ),
    "plan --from": (
        ["plan", "--config=finetune/quickstart:tiny", "--from={none}", "--target=cpu:1", "--method=analytic"],
        64,
        "{none}",
    ),
    "evaluate RUN": (["evaluate", "{none}"], 64, "{none}"),
    "evaluate --reward": (["evaluate", "{run}", "--reward={none}", "--best_of=2"], 64, "{none}"),
    "evaluate --safety": (
        ["evaluate", "{run}", "--reward={run}", "--safety={none}", "--best_of=2"],
        64,
        "{none}",
    ),
    "evaluate --against": (["evaluate", "{run}", "--reward={run}", "--against={none}"], 64, "{none}"),
    "generate RUN": (["generate", "{run}", "--prompt=the model", "--max_tokens=2"], 0, ""),
    "generate --draft": (["generate", "{run}", "--prompt=the", "--draft={none}"], 64, "{none}"),
    "chat RUN": (["chat", "{none}"], 64, "{none}"),
    "serve RUN": (["serve", "{none}"], 64, "{none}"),
    "convert FROM": (["convert", "export", "{run}", "{new}"], 0, "{new}"),
    "convert TO": (["convert", "import", "{new}", "{new}-back"], 0, "{new}-back"),
    "config --diff": (["config", "{config}", "--diff={run}"], 0, "train.steps"),
    "evaluate --stress": (["evaluate", "{run}", "--stress={files}/stress.json"], 64, "stress = 'nope'"),
    "plan --ladder": (
        ["plan", "--ladder={files}/plan.json", "--target=cpu:1", "--method=analytic"],
        64,
        "--ladder={files}/plan.json is no plan.json",
    ),
    "report PATH": (["report", "{run}", "--goodput", "--json"], 0, "seconds"),
    "report --plot": (["report", "{run}", "--goodput", "--plot={new}/goodput.png"], 0, ""),
    "chat --retrieve": (
        ["chat", "{run}", "--retrieve={none}/answers.jsonl", "--columns=q,a"],
        64,
        "{none}/answers.jsonl",
    ),
    "scale --rate-law": (
        [
            "scale",
            "plan",
            "--config=scaling/quickstart",
            "--rate-law={none}/rates.json",
            "--folder={new}/ladder",
        ],
        64,
        "{none}/rates.json",
    ),
    "scale curve --run": (["scale", "curve", "--run={none}"], 64, "{none} holds no run"),
    "scale curve --reference": (
        ["scale", "curve", "--run={run}", "--reference={none}"],
        64,
        "{none} holds no run",
    ),
    "scale --runs": (["scale", "fit", "--runs={none}/table.csv"], 64, "no table of runs at {none}/table.csv"),
    "scale compare --with": (
        ["scale", "compare", "--runs={files}/runs.jsonl", "--with={none}/table.csv", "--boot=5"],
        64,
        "no table of runs at {none}/table.csv",
    ),
    "train --workdir": (["report", "{run}", "--goodput"], 0, ""),
    "finetune --workdir": (
        ["finetune", "--config=finetune/quickstart:tiny", "--linear=words", "--workdir={new}/linear"],
        0,
        "",
    ),
    "launch --workdir": (
        ["launch", "local", "{config}", "--name=x", "--workdir={new}", "--dry-run"],
        0,
        "{new}",
    ),
    "bench --json": (["bench", "--json={new}/figures.json"], 0, ""),
    "evaluate --predictions": (["evaluate", "{run}", "--predictions=gcs://b/x"], 64, "did you mean 'gs://'?"),
}


def test_every_flag_has_a_command():
    assert set(COMMANDS) | set(ELSEWHERE) == MODELS | READ | WRITTEN
    for file in ELSEWHERE.values():
        assert (tiny.ROOT / "tests" / file).is_file()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """A run in a bucket that was trained on text there, and files beside it."""
    folder = tmp_path_factory.mktemp("places")
    config = tiny.write_config(folder)
    files = stores.place("gs", folder)
    for path in (folder / "text").iterdir():
        places.write(files / "text" / path.name, path.read_bytes())
    places.write(files / "stress.json", b'{"nope": 1}')
    places.write(files / "plan.json", b"[]")
    places.write(files / "runs.jsonl", (tiny.ROOT / "configs/scaling/quickstart.jsonl").read_bytes())
    run = stores.place("gs", folder)
    overrides = {"data.text.files": (f"{files}/text/*.txt",), "train.steps": 2, "checkpoint.every": 0}
    tlx.train(f"{config}:clm", workdir=str(run), overrides=overrides)
    return {
        "config": f"--config={config}:clm",
        "files": str(files),
        "run": str(run),
        "none": str(stores.place("gs", folder)),
        "new": str(stores.place("gs", folder)),
    }


@pytest.mark.slow
def test_every_flag_takes_a_place(addresses, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Figures that need minutes, and answers to prompts that the run of this test has none of.
    monkeypatch.setattr(bench, "_measure_shape", lambda options: {"tokens_per_s": 1.0})
    monkeypatch.setattr("tlx.trainer.judged.judge_answers", lambda *_: None)
    wrong = []
    for flag, (words, code, text) in COMMANDS.items():
        got, out = said([word.format(**addresses) for word in words], capsys)
        if got != code or text.format(**addresses) not in out or (code and len(out.strip().splitlines()) > 1):
            wrong.append(f"{flag}: exit {got}: {out}")
    assert not wrong, "\n".join(wrong)
    assert not [name for name in os.listdir(tmp_path) if ":" in name]
    new = places.parse(addresses["new"])
    assert json.loads((new / "figures.json").read_bytes()) == {"tokens_per_s": 1.0}
    assert (new / "goodput.png").read_bytes().startswith(b"\x89PNG")
    assert (new / "linear" / "scores.json").is_file()
