"""Files mutated at random: each is read, or refused in one line, soon and in little memory; nothing is imported.

    pytest -m slow tests/test_mutated_files.py         30 mutations a kind
    pytest -m long -s tests/test_mutated_files.py      300, with the counts that tlx/checkpoint/README.md records
    TLX_FUZZ=300 pytest -m long -s tests/test_mutated_files.py      300 others each time

A mutation replaces, removes or repeats a value of the JSON, or damages bytes.
"""

import collections
import contextlib
import json
import logging
import pathlib
import resource
import struct
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tests.hub.folders import byte_pairs, write
from tests.run_directory import tiny_config
from tlx.api import load as loading
from tlx.base import json_lines
from tlx.base.config import to_dict
from tlx.base.errors import UserError
from tlx.base.files import sha256_json
from tlx.checkpoint import lease, manifest
from tlx.hub import safetensors
from tlx.hub.folder import open_folder
from tlx.models.families import TABLE
from tlx.models.families.family import resized
from tlx.run.checks import resolve
from tlx.scaling import ledger
from tlx.training import directory, journal

PLANTED = "planted_mutation_x"
ODD = [
    *(
        None,
        True,
        -1,
        0,
        7,
        2**31,
        2**62,
        2**70,
        4_000_000_000,
        -1e20,
        1e308,
        "",
        "x",
        "\0",
        "\ud83d",
        [],
        {},
    ),
    *([0] * 70, ["a", None], {"a": {"b": []}}, f"{PLANTED}.part:value", "../../etc/passwd"),
]
# Stands for many brackets, so that a failing example can be printed.
DEEP = b"@DEEP@"
# Seconds and bytes that reading a file of some kilobytes may take, on a machine that does other things too.
SECONDS = 20.0
MEMORY = 1 << 30


def _places(value, path=()):
    """Paths of all values below a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


def _removed(value, path):
    copy = value.copy()
    if len(path) > 1:
        copy[path[0]] = _removed(value[path[0]], path[1:])
    else:
        del copy[path[0]]
    return copy


@st.composite
def mutations(draw, original: bytes, rehash=None):
    """The bytes of a JSON value, mutated; `rehash(value)` makes a value true to its own hash again."""
    value = json.loads(original)
    kind = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "deep", "flip", "cut", "zeros"]))
    position = draw(st.integers(0, len(original) - 1))
    if kind == "flip":
        return (
            original[:position]
            + bytes([original[position] ^ draw(st.integers(1, 255))])
            + original[position + 1 :]
        )
    if kind == "cut":
        return original[:position]
    if kind == "zeros":
        return original[:position] + b"\0\0\0" + original[position:]
    places = list(_places(value))
    path = draw(st.sampled_from(places))
    if kind == "deep":
        return original[:position] + DEEP + original[position:]
    if kind == "repeat" and isinstance(value, dict):
        key = draw(st.sampled_from(sorted(value)))
        text = json.dumps({key: draw(st.sampled_from(ODD))})
        return original.rstrip()[:-1] + b", " + text[1:].encode()
    changed = _replaced(value, path, draw(st.sampled_from(ODD)))
    if kind == "remove" and path:
        changed = _removed(value, path)
    if rehash is not None and isinstance(changed, dict) and draw(st.booleans()):
        changed = rehash(changed)
    return json.dumps(changed).encode()


@st.composite
def mutated_lines(draw, original: list[dict]):
    """(the lines, of which one is mutated, as bytes; its index)."""
    index = draw(st.integers(0, len(original) - 1))
    lines = [json.dumps(line).encode() for line in original]
    lines[index] = draw(mutations(lines[index])).replace(b"\n", b" ")
    return b"".join(line + b"\n" for line in lines), index


class Files:
    """The sound files, and for each kind its mutations and what reads them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        byte_pairs(folder)
        base = TABLE.load("gpt2").base
        sizes = {
            "vocab_size": 300,
            "position__max_length": 16,
            "attention__num_heads": 2,
            "feedforward__ff_dim": 12,
        }
        sizes |= {"attention__head_dim": 0, "attention__num_kv_heads": 0}
        write(folder, "gpt2", resized(base, width=8, num_layers=1, **sizes))
        self.weights = (folder / safetensors.SINGLE).read_bytes()
        (length,) = struct.unpack("<Q", self.weights[:8])
        self.header = self.weights[8 : 8 + length]
        self.data = self.weights[8 + length :]
        self.index = json.dumps({"weight_map": dict.fromkeys(("a", "b"), "part.safetensors")}).encode()
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
        self.headed = folder / "headed"
        self.headed.mkdir()
        self.indexed = folder / "indexed"
        self.indexed.mkdir()
        (self.indexed / "part.safetensors").write_bytes(self.weights)
        run = {"format": directory.FORMAT, "config": to_dict(tiny_config("clm")), "tokenizer_hash": "0"}
        self.run = json.dumps(run | {"data": {"fingerprint": "f"}, "mesh": {"data": 1}, "id": "r"}).encode()
        body = {
            "format": 1, "step": 3, "extra": {"a": 1}, "run": "r",
            "leaves": {"params/a": [[2, 3], "float32"]}, "files": {"params/d/0": {"size": 24, "sha256": "0" * 64}},
        }  # fmt: skip
        self.manifest = json.dumps({"sha256": sha256_json(body), **body}).encode()
        holder = {
            "id": "a",
            "host": "h",
            "boot": "b",
            "namespace": "n",
            "pid": 7,
            "started": "9",
            "monotonic": 1.0,
        }
        self.lease = json.dumps(holder | {"time": 2.0}).encode()
        self.metrics = [{"step": step, "kind": "train", "loss": 1.0} for step in range(5)]
        self.ledger = [{"run": f"r{i}", "status": "done", "N": 5.0, "loss": 3.0} for i in range(5)]

    def mutated(self, kind: str):
        """The strategy of a kind's mutations."""
        if kind in LINES:
            return mutated_lines(getattr(self, kind))
        return mutations(self.original(kind), _rehashed if kind == "manifest" else None)

    def original(self, kind: str) -> bytes:
        """The sound file of a kind that is one JSON value."""
        return (self.folder / kind).read_bytes() if "." in kind else getattr(self, kind)

    def read(self, kind: str, mutated) -> None:
        """Read a mutated file as the product does, and check what it makes of it."""
        deep = b"[" * 50_000
        mutated = (
            (mutated[0].replace(DEEP, deep), mutated[1]) if kind in LINES else mutated.replace(DEEP, deep)
        )
        if kind == "metrics":
            self._check_lines(mutated, self.metrics, journal._is_metrics)
        elif kind == "ledger":
            self._check_lines(mutated, self.ledger, ledger.is_line)
        elif kind == "lease":
            holder = lease.parse(mutated)
            if not holder:
                raise UserError("held by an unknown run")
            lease.is_provably_dead(holder)
        elif kind == "manifest":
            value = manifest.parse(mutated)
            assert value == manifest.parse(self.manifest) or json.loads(mutated)["sha256"] != _sum(
                self.manifest
            )
        elif kind == "run":
            resolve(loading._localized(directory.parse(mutated)["config"], self.folder, None), allow=())
        elif kind == "header":
            path = self.headed / safetensors.SINGLE
            path.write_bytes(struct.pack("<Q", len(mutated)) + mutated + self.data)
            stored = safetensors.Tensors(self.headed)
            assert sum(stored[name].nbytes for name in stored) == len(self.data)
        elif kind == "index":
            (self.indexed / safetensors.INDEX).write_bytes(mutated)
            assert len(safetensors.Tensors(self.indexed)) > 2
        elif kind == "config.json":
            with self._file(kind, mutated):
                open_folder(self.folder)
        else:
            with self._file(kind, mutated):
                loading._open_tokenizer(self.folder, {"model_type": "gpt2"}, 300)

    @contextlib.contextmanager
    def _file(self, name, content):
        path = self.folder / name
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            yield
        finally:
            path.write_bytes(before)

    def _check_lines(self, mutated, original, is_sound):
        data, index = mutated
        lines = json_lines.parse(data, is_sound)
        others = [line for i, line in enumerate(original) if i != index]
        remaining = iter(lines.objects)
        assert all(line in remaining for line in others), (
            "an untouched line is lost, or they have another order"
        )
        assert len(lines.objects) + len(lines.broken) == len(original)
        if lines.broken:
            raise UserError(f"line {lines.broken[0]} is skipped")


def _sum(data):
    return json.loads(data)["sha256"]


def _rehashed(value):
    body = {key: item for key, item in value.items() if key != "sha256"}
    return {"sha256": sha256_json(body), **body}


KINDS = (
    *("header", "index", "config.json", "tokenizer.json", "tokenizer_config.json"),
    *("run", "manifest", "metrics", "ledger", "lease"),
)


LINES = ("metrics", "ledger")
TOKENIZER_CONFIG = {
    "add_bos_token": False, "add_prefix_space": False, "bos_token": "<|end|>", "clean_up_tokenization_spaces": False,
    "eos_token": {"content": "<|end|>", "lstrip": False}, "model_max_length": 16, "unk_token": "<|end|>",
}  # fmt: skip


def check(files: Files, kind: str, examples: int) -> dict[str, int]:
    """Read so many mutations of a kind; return how many were read and refused."""
    if kind not in LINES:
        files.read(kind, files.original(kind))
    counts = collections.Counter()
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @fuzzed(examples)
    @given(mutated=files.mutated(kind))
    def read(mutated):
        nonlocal slowest
        began = time.monotonic()
        try:
            files.read(kind, mutated)
            counts["read"] += 1
        except (UserError, manifest.Damaged) as error:
            counts["refused"] += 1
            assert str(error) and len(str(error)) < 5000
        slowest = max(slowest, time.monotonic() - began)

    read()
    assert slowest < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    assert not any(name.startswith(PLANTED) for name in sys.modules)
    return dict(counts) | {"slowest_ms": round(1000 * slowest)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True)
def planted(tmp_path, monkeypatch):
    """A package that a mutation names: importing it would be seen."""
    (tmp_path / PLANTED).mkdir()
    (tmp_path / PLANTED / "__init__.py").write_text("")
    (tmp_path / PLANTED / "part.py").write_text("value = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    logging.getLogger("tlx").setLevel(logging.ERROR)
    yield
    logging.getLogger("tlx").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "examples", [pytest.param(30, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused(files, kind, examples):
    counts = check(files, kind, examples)
    print(f"\n{kind}: {counts}")
    assert counts.get("refused", 0) > counts.get("read", 0) / 9
