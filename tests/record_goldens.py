"""Goldens of a checkout: what a change of names, files or types must leave equal, bit for bit.

    PYTHONPATH=CHECKOUT python record_goldens.py record CHECKOUT OUT.json [--sections=plans,runs]
    python record_goldens.py compare BEFORE.json AFTER.json [--renames=RENAMES.json]

Record both checkouts on one machine with one Python environment: hashes depend on the processor, so they are
compared and never committed. Sections, quick ones first:

settings  every value of every config in configs/, as text
plans     the analytic estimate of `tlx plan` for every config in configs/pod
runs      four shapes and six more objectives, 40 steps on one and on eight simulated devices: sha256 of each
          leaf of parameters and optimizer state, metrics.jsonl, operations of the optimised modules
logits    sha256 of the outputs and generated tokens of the recorded families in tests/hub
tasks     fine-tunings with labels, and with LoRA, from two of the runs
more      the other objectives of configs/pretrain, on eight devices

An item that OUT already holds is not made again. Commands and files are used in place of Python names where
possible; names that differ between checkouts stand in the tables below, newest first. `--prefix` is put
before each heavy command (`nice`, a lock). JAX_COMPILATION_CACHE_DIR may be set: cached programs have the
same text.
"""

import argparse
import ast
import collections
import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

SHAPES = {
    "clm": "configs/quickstart.py:tiny",
    "mlm": "configs/quickstart.py:mlm:tiny",
    "span_corruption": "configs/quickstart.py:span_corruption:tiny",
    "plm": "configs/quickstart.py:plm:tiny",
}
OBJECTIVES = {
    name: f"configs/pretrain/{name}.py:tiny"
    for name in ("electra", "bart", "deberta", "transformer_xl", "elmo", "ul2")
}

# Config keys that are overridden, by checkout: the first alternative whose keys a checkout accepts is used.
OVERRIDES: tuple[dict[str, Any], ...] = (
    {
        "train.steps": 40,
        "checkpoint.every": 20,
        "eval.final": False,
        "log.every": 1,
        "log.tensorboard": False,
    },
)
TASK_OVERRIDES: tuple[dict[str, Any], ...] = (
    {"data.sequence_length": 64, "eval.final": True, "log.every": 1, "log.tensorboard": False},
)
# Meshes by number of devices; the alternatives are for models whose dims the first does not divide.
MESHES: dict[int, tuple[dict[str, int], ...]] = {
    1: ({},),
    8: ({"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}, {"mesh.data": 2, "mesh.fsdp": 4}, {}),
}

# Python names: "module:attribute" alternatives, the newest first.
NAMES = {
    "main": ("tlx.cli:main",),
    "hub_cases": ("tests.hub.cases:CASES",),
    "hub_open": ("tests.hub.test_recorded:make",),
    "hub_run": ("tests.hub.case:run",),
    "hub_parts": ("tests.hub.test_recorded:parts",),
    "hub_generate": ("tests.hub.generation:ours",),
}

# Labelled records in the folder that TLX_SHARED_DATA names, below text/: config, training files, base run.
TASKS = {
    "quickstart": ("configs/finetune/quickstart.py:tiny", "", "mlm"),
    "quickstart-lora": ("configs/finetune/quickstart.py:tiny", "", "clm"),
    "reviews": ("configs/finetune/reviews.py:tiny", "nsmc/ratings_train.txt.gz", "plm"),
    "pairs": ("configs/finetune/pairs.py:tiny", "klue_nli/klue-nli-v1.1_dev.json.gz", "mlm"),
    "similarity": ("configs/finetune/similarity.py:tiny", "korsts/sts-train.tsv.gz", "mlm"),
    "entities": ("configs/finetune/entities.py:tiny", "wnut17/wnut17train.conll.gz", "mlm"),
    "questions": ("configs/finetune/questions.py:tiny", "xquad/xquad.en.articles01-36.json", "mlm"),
    "choices": ("configs/finetune/choices.py:tiny", "kobest/COPA.train.tsv", "clm"),
    "summaries": ("configs/finetune/summaries.py:tiny", "scitldr/dev.jsonl.gz", "span_corruption"),
    "text": ("configs/finetune/text.py:tiny", "react_docs_ko/train.jsonl.gz", "clm"),
    "chat": ("configs/finetune/chat.py:self_instruct:tiny", "self_instruct_seed/seed_tasks.jsonl", "clm"),
    "multitask": ("configs/finetune/multitask.py:{data}:tiny", "", "span_corruption"),
}
TASK_EXTRAS: dict[str, dict[str, Any]] = {"quickstart-lora": {"adapt.method": "lora"}}

# Metrics that a clock decides.
_TIMED = {"seconds", "tokens_per_s", "flops_per_s", "peak_share", "mfu", "time"}
# Modules of fewer instructions are casts and copies.
_LEAST_INSTRUCTIONS = 100
_QUIET = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}
_SELF = pathlib.Path(__file__).resolve()

Items = dict[str, Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of this file; exit 1 where goldens differ or an item could not be recorded."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _WORKERS:
        return _WORKERS[words[0]](words[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="record the goldens of a checkout")
    record.add_argument("checkout", type=pathlib.Path)
    record.add_argument("out", type=pathlib.Path)
    record.add_argument("--sections", default=",".join(_SECTIONS), help="comma-separated, in this order")
    record.add_argument("--prefix", default="", help="put before each heavy command")
    record.add_argument("--work", type=pathlib.Path, help="keep the run directories there")
    compare = commands.add_parser("compare", help="compare two records; exit 1 where they differ")
    compare.add_argument("before", type=pathlib.Path)
    compare.add_argument("after", type=pathlib.Path)
    compare.add_argument(
        "--renames", type=pathlib.Path, help='{"keys": {old: new}, "values": {key: {old: new}}}'
    )
    options = parser.parse_args(words)
    if options.command == "compare":
        renames = json.loads(options.renames.read_text()) if options.renames else {}
        return compare_records(_read(options.before), _read(options.after), renames)
    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="goldens-"))
    recorder = Recorder(options.checkout.resolve(), work.resolve(), shlex.split(options.prefix))
    return recorder.record(options.out, options.sections.split(","))


class Recorder:
    """Record the goldens of one checkout with processes that stand in it."""

    def __init__(self, checkout: pathlib.Path, work: pathlib.Path, prefix: Sequence[str]):
        """Prepare a recording.

        Args:
            checkout: Root of the working tree.
            work: Folder for run directories and for a token cache of its own, so that an old cache cannot
                hide a change of the tokenizer.
            prefix: Words put before each heavy command.
        """
        self.checkout = checkout
        self.work = work
        self.prefix = list(prefix)
        work.mkdir(parents=True, exist_ok=True)

    def record(self, out: pathlib.Path, sections: Sequence[str]) -> int:
        """Record the sections into `out`, which is written after each item; return the exit code."""
        found: dict[str, Any] = _read(out) if out.exists() else {}
        failed = []
        for section in sections:
            items: Items = _SECTIONS[section](self)
            known = found.setdefault(section, {})
            for name, make in items.items():
                if name in known:
                    continue
                print(f"{section} {name}", flush=True)
                try:
                    known[name] = make()
                except Exception:
                    traceback.print_exc()
                    failed.append(f"{section} {name}")
                    continue
                out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print("failed: " + ", ".join(failed) if failed else "all recorded")
        return 1 if failed else 0

    def worker(self, name: str, words: Sequence[str], devices: int = 1) -> Any:
        """Run a worker of this file in the checkout and return the JSON value that it wrote.

        Args:
            name: Key of `_WORKERS`.
            words: Its arguments, behind the file that it writes.
            devices: Number of simulated CPU devices.

        Returns:
            The parsed JSON value.

        Raises:
            RuntimeError: With the end of its output, where the process failed.
        """
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            out = pathlib.Path(folder) / "out.json"
            command = [*self.prefix, sys.executable, str(_SELF), name, str(out), *words]
            self.command(command, devices)
            return json.loads(out.read_text())

    def command(self, words: Sequence[str], devices: int = 1) -> str:
        """Run a command in the checkout and return its standard output; RuntimeError where it failed."""
        environment = dict(os.environ)
        environment["PYTHONPATH"] = str(self.checkout)
        environment["TLX_CACHE"] = str(self.work / "cache")
        environment["JAX_PLATFORMS"] = "cpu"
        environment["JAX_NUM_CPU_DEVICES"] = str(devices)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        for name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"):
            environment.pop(name, None)
        done = subprocess.run(words, cwd=self.checkout, env=environment, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise RuntimeError(f"{shlex.join(words)}: exit {done.returncode}\n{tail}")
        return done.stdout

    def train(self, verb: str, name: str, words: Sequence[str], devices: int) -> dict[str, Any]:
        """Make a run with `tlx VERB` and return what it came to.

        Args:
            verb: "train" or "finetune".
            name: Folder of the run below the work folder.
            words: Flags behind the verb; {mesh} alternatives are added here.
            devices: Number of simulated devices.

        Returns:
            Hashes of leaves, metrics, operations and facts of run.json.
        """
        workdir = self.work / f"{name}-{devices}"
        overrides = OVERRIDES if verb == "train" else TASK_OVERRIDES
        error: Exception | None = None
        for values in overrides:
            for mesh in MESHES[devices]:
                flags = [f"--config.{key}={value}" for key, value in {**values, **mesh}.items()]
                try:
                    arguments = [str(workdir), verb, *words, f"--workdir={workdir}", *flags]
                    return {"mesh": mesh, **self.worker("_train", arguments, devices)}
                except RuntimeError as caught:
                    error = error or caught
                    if workdir.joinpath("metrics.jsonl").exists():
                        raise
        raise error or RuntimeError("no alternative to try")


def _settings(recorder: Recorder) -> Items:
    return {"values": lambda: recorder.worker("_settings", [])}


def _plans(recorder: Recorder) -> Items:
    """Return the plan of each config in configs/pod for the target in its docstring; of one for a GPU too."""

    def plan(path: pathlib.Path, target: str) -> Any:
        words = [sys.executable, "-m", "tlx", "plan", f"--config={path}", f"--target={target}"]
        printed = recorder.command([*recorder.prefix, *words, "--method=analytic", "--json"])
        values = json.loads(printed)
        return {
            name: value for name, value in values.items() if name not in ("notes", "mfu_formula", "changes")
        }

    items: Items = {}
    for path in sorted(recorder.checkout.glob("configs/pod/*.py")):
        targets = re.findall(r"--target=(\S+)", path.read_text())[:1]
        for target in targets:
            items[f"{path.stem} {target}"] = lambda path=path, target=target: plan(path, target)
        if path.stem == "llama2_7b_v5e":
            items[f"{path.stem} gpu"] = lambda path=path: plan(path, "gpu:h100:8x8")
    return items


def _runs(recorder: Recorder) -> Items:
    items: Items = {}
    for devices in MESHES:
        for name, config in {**SHAPES, **OBJECTIVES}.items():
            words = [f"--config={config}"]
            items[f"{name}-{devices}"] = lambda name=name, words=words, devices=devices: recorder.train(
                "train", name, words, devices
            )
    return items


def _logits(recorder: Recorder) -> Items:
    return {"outputs": lambda: recorder.worker("_logits", [])}


def _tasks(recorder: Recorder) -> Items:
    """Return fine-tunings from the runs on one device, which are made first where they are not there."""
    data = pathlib.Path(os.environ.get("TLX_SHARED_DATA", "shared/data")) / "text"

    def finetune(name: str) -> Any:
        config, records, base = TASKS[name]
        base_run = recorder.work / f"{base}-1"
        if not base_run.exists():
            recorder.train("train", base, [f"--config={SHAPES[base]}"], 1)
        words = [f"--config={config.format(data=data)}", f"--from={base_run}"]
        if records:
            words.append(f"--config.data.records.train=({str(data / records)!r},)")
        words += [f"--config.{key}={value}" for key, value in TASK_EXTRAS.get(name, {}).items()]
        return recorder.train("finetune", f"task-{name}", words, 1)

    return {name: lambda name=name: finetune(name) for name in TASKS}


def _more(recorder: Recorder) -> Items:
    """Return the other configs of configs/pretrain; distillation needs a teacher and is left out."""
    items: Items = {}
    for path in sorted(recorder.checkout.glob("configs/pretrain/*.py")):
        if path.stem in OBJECTIVES or "distil" in path.read_text().lower():
            continue
        words = [f"--config={path.relative_to(recorder.checkout)}:tiny"]
        items[path.stem] = lambda name=path.stem, words=words: recorder.train("train", name, words, 8)
    return items


_SECTIONS: dict[str, Callable[[Recorder], Items]] = {
    "settings": _settings,
    "plans": _plans,
    "runs": _runs,
    "logits": _logits,
    "tasks": _tasks,
    "more": _more,
}


# What follows runs in a process that stands in the checkout.


def _train_worker(words: Sequence[str]) -> int:
    """OUT WORKDIR VERB FLAGS...: run the verb, note what was compiled and what the run directory holds."""
    out, workdir = pathlib.Path(words[0]), pathlib.Path(words[1])
    modules: list[str] = []
    _note_compiled(modules)
    code = _named("main")(list(words[2:]))
    if code:
        return code
    record = read_run_directory(workdir)
    record["modules"] = sorted(filter(None, map(_operations, modules)), key=lambda module: module["sha256"])
    out.write_text(json.dumps(record))
    return 0


def read_run_directory(workdir: pathlib.Path) -> dict[str, Any]:
    """Return hashes of the newest checkpoint's leaves, the metrics, and facts of run.json."""
    run = _read(workdir / "run.json")
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if key not in _TIMED} for line in lines]
    record = {
        "step": max(steps),
        "leaves": leaf_hashes(workdir / "checkpoints" / str(max(steps))),
        "metrics": metrics,
        "num_params": run["num_params"],
        "tokenizer_hash": run["tokenizer_hash"],
        "data": run["data"],
    }
    if (workdir / "scores.json").exists():
        record["scores"] = _read(workdir / "scores.json")
    answers = sorted(workdir.glob("predictions/*.jsonl"))
    if answers:
        record["predictions"] = {path.name: _sha256(path.read_bytes()) for path in answers}
    return record


def leaf_hashes(folder: pathlib.Path) -> dict[str, str]:
    """Return {path: "dtype[shape] sha256"} of every array of a checkpoint, read by Orbax alone."""
    import jax
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    with context:
        stored = ocp.checkpointables_metadata(folder).metadata

        def abstract(leaf: Any) -> Any:
            return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)

        parts = {name: jax.tree.map(abstract, stored[name]) for name in stored if name in ("params", "rest")}
        loaded = ocp.load_checkpointables(folder, parts)
    return {path: _describe(np.asarray(leaf)) for path, leaf in _flatten(loaded)}


def _flatten(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf) of nested mappings in the order of their names."""
    if isinstance(tree, Mapping):
        for name in sorted(tree, key=str):
            yield from _flatten(tree[name], f"{path}/{name}" if path else str(name))
    elif isinstance(tree, list | tuple):
        for index, part in enumerate(tree):
            yield from _flatten(part, f"{path}/{index}")
    else:
        yield path, tree


def _note_compiled(modules: list[str]) -> None:
    """Append the optimised text of every program that JAX compiles, or reads from its cache, from now on."""
    from jax._src import compiler

    original = compiler.compile_or_get_cached

    def noted(*arguments: Any, **keywords: Any) -> Any:
        executable = original(*arguments, **keywords)
        modules.extend(module.to_string() for module in executable.hlo_modules())
        return executable

    compiler.compile_or_get_cached = noted


_COMMENT = re.compile(r"/\*.*?\*/")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
_METADATA = re.compile(r", metadata=\{[^}]*\}")
_NAME = re.compile(r"%[\w.\-]+")


def _operations(text: str) -> dict[str, Any] | None:
    """Return {"name", "sha256", "operations": {opcode: count}} of a module; None for a small one.

    The hash is of the text without metadata and with its names numbered, so that the name of a Python
    function does not show in it.
    """
    counts: collections.Counter[str] = collections.Counter()
    body, tables = [], ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
    skipped = False
    for line in text.splitlines()[1:]:
        skipped = line in tables or (skipped and line[:1].isdigit())
        if skipped:
            continue
        line = _METADATA.sub("", _COMMENT.sub("", line))
        body.append(line)
        match = _INSTRUCTION.match(line)
        if match:
            opcode = _opcode(match[1])
            if opcode not in _QUIET:
                counts[opcode] += 1
    if counts.total() < _LEAST_INSTRUCTIONS:
        return None
    numbers: dict[str, str] = {}
    numbered = _NAME.sub(lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), "\n".join(body))
    name = text.split(",", 1)[0].removeprefix("HloModule ")
    return {"name": name, "sha256": _sha256(numbered.encode()), "operations": dict(sorted(counts.items()))}


def _opcode(definition: str) -> str:
    """Return the opcode of "SHAPE OPCODE(...)", whose shape may be a nested tuple."""
    if definition.startswith("("):
        depth = 0
        for place, character in enumerate(definition):
            depth += (character == "(") - (character == ")")
            if not depth:
                definition = definition[place + 1 :]
                break
    else:
        definition = definition.split(" ", 1)[1]
    match = re.match(r"\s*([a-z][\w\-]*)\(", definition)
    return match[1] if match else "unknown"


def _settings_worker(words: Sequence[str]) -> int:
    """OUT: write {config: {key: text of its value}} of all configs, with and without "tiny"."""
    found: dict[str, Any] = {}
    for path in sorted(pathlib.Path("configs").rglob("*.py")):
        arguments = ["", "tiny"]
        if path.name == "quickstart.py":
            arguments += [
                f"{shape}{end}" for shape in ("mlm", "span_corruption", "plm") for end in ("", ":tiny")
            ]
        for argument in arguments:
            try:
                values: Any = _load_config(path, argument).to_dict()
            except Exception as error:
                values = {"error": type(error).__name__}
            found[f"{path}:{argument}"] = {key: repr(value) for key, value in _flatten_settings(values)}
    pathlib.Path(words[0]).write_text(json.dumps(found))
    return 0


def _load_config(path: pathlib.Path, argument: str) -> Any:
    """Return what get_config(argument) of a config file returns."""
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def _flatten_settings(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); an empty group and a sequence are values."""
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from _flatten_settings(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


def _logits_worker(words: Sequence[str]) -> int:
    """OUT: write {case: {output: "dtype[shape] sha256"}} of the recorded families."""
    import numpy as np

    sys.path.insert(0, os.getcwd())
    cases, opened, run = _named("hub_cases"), _named("hub_open"), _named("hub_run")
    folder = pathlib.Path("tests/hub/recorded")
    found: dict[str, Any] = {}
    for name in cases:
        print(name, flush=True)
        try:
            with tempfile.TemporaryDirectory() as temporary:
                checkpoint, _, parts = opened(name, pathlib.Path(temporary) / "model")
                outputs = run(checkpoint, parts["inputs"])
                found[name] = {key: _describe(np.asarray(value)) for key, value in sorted(outputs.items())}
                stored = folder / f"{name}.generation.npz"
                if stored.exists():
                    asked = _named("hub_parts")(dict(np.load(stored)))
                    eos = int(asked["outputs"]["eos"])
                    found[name]["generated"] = _named("hub_generate")(checkpoint, asked["inputs"], eos)
        except Exception as error:
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    pathlib.Path(words[0]).write_text(json.dumps(found))
    return 0


_WORKERS: dict[str, Callable[[Sequence[str]], int]] = {
    "_train": _train_worker,
    "_settings": _settings_worker,
    "_logits": _logits_worker,
}


def _named(key: str) -> Any:
    """Return the first alternative of NAMES that this checkout has; ImportError naming all of them."""
    for alternative in NAMES[key]:
        module, _, attribute = alternative.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"{key}: this checkout has none of {', '.join(NAMES[key])}")


def _describe(array: Any) -> str:
    """Return "dtype[shape] sha256" of an array's bytes in row-major order."""
    shape = ",".join(map(str, array.shape))
    return f"{array.dtype}[{shape}] {_sha256(array.tobytes())}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())


# Comparison.


def compare_records(before: dict[str, Any], after: dict[str, Any], renames: Mapping[str, Any]) -> int:
    """Print every difference and return 1 where there is one that matters.

    Args:
        before: Record of the earlier checkout.
        after: Record of the later one. Sections and items that only one record has are listed and do not
            count, but an item that is missing from a section of `after` does.
        renames: {"keys": {old: new}, "values": {new key: {old text: new text}}} of config settings.

    Returns:
        The exit code.
    """
    differences, notes, equal = [], [], collections.Counter()
    for section in [name for name in _SECTIONS if name in before or name in after]:
        if section not in before or section not in after:
            notes.append(f"{section}: in one record only")
            continue
        for name in sorted({*before[section], *after[section]}):
            if name not in before[section]:
                notes.append(f"{section} {name}: new")
                continue
            if name not in after[section]:
                differences.append(f"{section} {name}: missing")
                continue
            old, new = before[section][name], after[section][name]
            if section == "settings":
                found = _setting_differences(old, new, renames)
            else:
                found, said = _item_differences(old, new)
                notes += [f"{section} {name}: {text}" for text in said]
            differences += [f"{section} {name}: {text}" for text in found]
            equal[section] += not found
    for section, count in equal.items():
        print(f"{section:9} {count} of {len(before[section])} items equal")
    for text in notes:
        print(f"note        {text}")
    for text in differences:
        print(f"DIFFERENT   {text}")
    return 1 if differences else 0


def _item_differences(old: Any, new: Any) -> tuple[list[str], list[str]]:
    """Return (differences, notes) of one item; operations of modules are compared without their names."""
    if isinstance(old, Mapping) and "modules" in old:
        old, new = dict(old), dict(new)
        found, notes = _module_differences(old.pop("modules"), new.pop("modules", []))
    else:
        found, notes = [], []
    first, second = dict(_flatten(old)), dict(_flatten(new))
    paths = [path for path in {**first, **second} if first.get(path, _ABSENT) != second.get(path, _ABSENT)]
    shown = [f"{path}: {first.get(path, _ABSENT)} -> {second.get(path, _ABSENT)}" for path in paths[:8]]
    if len(paths) > len(shown):
        shown.append(f"and {len(paths) - len(shown)} more paths")
    return found + shown, notes


_ABSENT = "(absent)"


def _module_differences(old: list[Any], new: list[Any]) -> tuple[list[str], list[str]]:
    """Return differences in operations, and as notes modules with the same operations in another text."""
    same = {module["sha256"] for module in old} & {module["sha256"] for module in new}
    before = [module for module in old if module["sha256"] not in same]
    after = [module for module in new if module["sha256"] not in same]
    found, notes = [], []
    for module in before:
        twin = next((other for other in after if other["operations"] == module["operations"]), None)
        if twin is not None:
            after.remove(twin)
            notes.append(f"module {module['name']}: the same operations in another text")
            continue
        other = next((other for other in after if other["name"] == module["name"]), None)
        if other is None:
            found.append(f"module {module['name']}: is not compiled any more")
            continue
        after.remove(other)
        ours, theirs = module["operations"], other["operations"]
        names = sorted({*ours, *theirs})
        changed = {
            key: (ours.get(key, 0), theirs.get(key, 0)) for key in names if ours.get(key) != theirs.get(key)
        }
        found.append(f"module {module['name']}: {{operation: (before, after)}} = {changed}")
    found += [f"module {module['name']}: is new" for module in after]
    return found, notes


def _setting_differences(old: Any, new: Any, renames: Mapping[str, Any]) -> list[str]:
    """Return one line for each (key, change) with the configs that have it."""
    keys, values = renames.get("keys", {}), renames.get("values", {})
    found: dict[str, list[str]] = {}
    for config in sorted({*old, *new}):
        if config not in old or config not in new:
            found.setdefault("config is in one record only", []).append(config)
            continue
        renamed = {}
        objective = ast.literal_eval(
            old[config].get("objective.name") or old[config].get("run.objective.name", "''")
        )
        for key, value in _expanded(old[config]).items():
            target = _renamed(key, keys, objective)
            text = values.get(target.removeprefix(_head(target)), {}).get(value.strip("'"))
            renamed[target] = value if text is None else repr(text)
        current = _expanded(new[config])
        for key in sorted({*renamed, *current}):
            pair = (renamed.get(key, _ABSENT), current.get(key, _ABSENT))
            if pair[0] != pair[1]:
                found.setdefault(f"{key}: {pair[0]} -> {pair[1]}", []).append(config)
    return [f"{text} ({len(configs)} configs: {', '.join(configs[:3])})" for text, configs in found.items()]


def _renamed(key: str, keys: Mapping[str, str], objective: str) -> str:
    """Return the new name of a dotted key: its own, or that of a group that it is in.

    Args:
        key: Old key. "run." in front, of a ladder's runs, stays.
        keys: New names by old ones. "objective:NAME.KEY" is a key of that objective alone.
        objective: Name of the config's objective.

    Returns:
        The key in the later checkout.
    """
    head = _head(key)
    inner = key.removeprefix(head)
    special = keys.get(f"objective:{objective}.{inner.removeprefix('objective.')}")
    if special is not None and inner.startswith("objective."):
        return head + "objective." + special.partition(".")[2]
    numbers = re.findall(r"\[(\d+)\]", inner)
    words = re.sub(r"\[\d+\]", "[]", inner).split(".")
    for length in range(len(words), 0, -1):
        group = ".".join(words[:length])
        if group in keys:
            found = ".".join([keys[group], *words[length:]])
            for number in numbers:
                found = found.replace("[]", f"[{number}]", 1)
            return head + found
    return key


def _head(key: str) -> str:
    """Return the part of a key in front of a config or model inside a config: a ladder's run, a teacher."""
    run = "run." if key.startswith("run.") else ""
    teacher = "objective.teacher_"
    return run + teacher if key.removeprefix(run).startswith(teacher + "model.") else run


def _expanded(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings with a key for each value of the groups in a sequence: "parts[0].name"."""
    found: dict[str, str] = {}
    for key, text in settings.items():
        if not text.startswith(("({", "[{")):
            found[key] = text
            continue
        for number, group in enumerate(ast.literal_eval(text)):
            for inner, value in _flatten_settings(group):
                found[f"{key}[{number}].{inner}"] = repr(value)
    return found


if __name__ == "__main__":
    sys.exit(main())
