"""Parity without torch: drawn weights through our reader give the outputs that `transformers` gave."""

import json
import pathlib

import numpy as np
import pytest

from tests.hub import generation
from tests.hub.case import TOLERANCE, difference, run, visible, write_folder
from tests.hub.cases import CASES
from tests.tiers import tiers
from tlx.base import tree
from tlx.hub.folder import open_folder, save_folder
from tlx.hub.safetensors import Tensors

FOLDER = pathlib.Path(__file__).parent / "recorded"


def parts(stored):
    """{"inputs": {name: array}, "outputs": ..., "kept": ...}"""
    return {
        kind: {key.split("/", 1)[1]: value for key, value in stored.items() if key.startswith(f"{kind}/")}
        for kind in ("inputs", "outputs", "kept")
    }


def make(name, folder):
    """The directory of a recorded case; (its checkpoint, its config.json, its parts)."""
    stored = dict(np.load(FOLDER / f"{name}.npz"))
    meta, part = json.loads(str(stored["meta"])), parts(stored)
    write_folder(folder, meta["shapes"], part["kept"])
    (folder / "config.json").write_text(json.dumps(meta["config"]))
    return open_folder(folder, ignore=CASES[name].ignore), meta["config"], part


# One of each shape, and parts that many families share. CI compares all with the classes themselves in test_live.py:
# here the others are for machines without torch.
QUICK = ("bert", "llama", "t5")


@pytest.mark.parametrize("name", tiers(CASES, quick=QUICK, slow=()))
def test_recorded_outputs_and_round_trip(name, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    checkpoint, config, part = make(name, first)
    found = run(checkpoint, part["inputs"])
    for output, wanted in part["outputs"].items():
        mask = visible(output, part["inputs"])[: len(wanted)]
        assert difference(found[output][: len(wanted)], wanted, mask) < TOLERANCE, output
    params = checkpoint.read()
    written = save_folder(second, checkpoint.family, checkpoint.config, params)
    assert written == config["architectures"][0]
    before, after = Tensors(first), Tensors(second)
    for key in after:
        np.testing.assert_array_equal(after[key], before[key])
    again = tree.flatten(open_folder(second).read())
    for path, value in tree.flatten(params).items():
        np.testing.assert_array_equal(again[path], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "mistral",
        "t5",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("neox", "bart", "marian")),
    ],
)
def test_recorded_generation(name, tmp_path):
    part = parts(dict(np.load(FOLDER / f"{name}.generation.npz")))
    eos = int(part["outputs"].pop("eos"))
    found = generation.ours(make(name, tmp_path)[0], part["inputs"], eos)
    assert found == {way: generation.cut(rows, eos) for way, rows in part["outputs"].items()}
    lengths = {len(row) for rows in found.values() for row in rows}
    assert len(lengths) > 1, "some rows end before others"
