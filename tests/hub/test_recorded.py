"""Parity without torch: drawn weights through our reader give the outputs that `transformers` gave."""

import json
import pathlib

import numpy as np
import pytest

from tests.hub.case import TOLERANCE, difference, run, visible, write_folder
from tests.hub.cases import CASES
from tlx.base import tree
from tlx.hub.folder import open_folder, save_folder
from tlx.hub.safetensors import Tensors

FOLDER = pathlib.Path(__file__).parent / "recorded"


@pytest.mark.parametrize("name", CASES)
def test_recorded_outputs_and_round_trip(name, tmp_path):
    case = CASES[name]
    stored = dict(np.load(FOLDER / f"{name}.npz"))
    meta = json.loads(str(stored["meta"]))
    part = {
        kind: {key.split("/", 1)[1]: value for key, value in stored.items() if key.startswith(f"{kind}/")}
        for kind in ("inputs", "outputs", "kept")
    }
    first, second = tmp_path / "first", tmp_path / "second"
    write_folder(first, meta["shapes"], part["kept"])
    (first / "config.json").write_text(json.dumps(meta["config"]))
    checkpoint = open_folder(first, ignore=case.ignore)
    found = run(checkpoint, part["inputs"])
    for output, wanted in part["outputs"].items():
        assert difference(found[output], wanted, visible(output, part["inputs"])) < TOLERANCE, output
    params = checkpoint.read()
    written = save_folder(second, checkpoint.family, checkpoint.config, params)
    assert written == meta["config"]["architectures"][0]
    before, after = Tensors(first), Tensors(second)
    for key in after:
        np.testing.assert_array_equal(after[key], before[key])
    again = tree.flatten(open_folder(second).read())
    for path, value in tree.flatten(params).items():
        np.testing.assert_array_equal(again[path], value)
