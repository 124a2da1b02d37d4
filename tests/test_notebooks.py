"""Every notebook runs opened alone: from its first cell to its last, in an empty folder, with tlx as installed."""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

from tlx.base import packaged
from tlx.base.config_files import load_config, packaged_configs, run_name
from tlx.launch.job import templates

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PYPROJECT["project"]["urls"]["Repository"]
TRAINING = ("finetune", "load_a_checkpoint", "post_training")
# Bytes of a notebook with its pictures, at most.
LARGEST = 300_000

# A kernel that has no tlx, installs it as the notebooks do, and imports it without being started again. Without
# site-packages (-S), so that an installation in this environment does not count.
_KERNEL = """
import importlib.util, os, subprocess, sys

python, source, folder = sys.argv[1:]
os.makedirs(folder)
sys.path.insert(0, folder)
assert importlib.util.find_spec("tlx") is None
words = ["-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", folder, source]
subprocess.run([python, *words], check=True)
importlib.invalidate_caches()
import tlx

assert tlx.UserError and tlx.__file__.startswith(folder), tlx
"""


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder into which a kernel that was running before has installed the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    words = ["-S", "-P", "-c", _KERNEL, sys.executable, str(ROOT), str(folder / "site")]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "site"


@pytest.mark.parametrize(
    "path",
    [
        # Those that train for minutes are run by hand.
        pytest.param(path, marks=pytest.mark.long if path.stem in TRAINING else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_all_cells_run_in_order(path, installed, tmp_path):
    """As `pytest --nbmake notebooks` does, but without Jupyter: one script of all cells."""
    check = f"import tlx\n\nassert tlx.__file__.startswith({str(installed)!r}), tlx\n"
    cells = [check, *("".join(cell["source"]) for cell in code_cells(path))]
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(cells), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(installed), "MPLBACKEND": "agg", "JAX_NUM_CPU_DEVICES": "1"}
    # As for their readers: these programs run for longer than it takes to optimise them.
    environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    words = [sys.executable, str(script)]
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_with_pictures_and_without_traces_of_a_machine(path):
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    texts = "".join("".join(output.get("text", ())) for output in outputs)
    for trace in ("\r", "/home/", "/work/", "/root/", "site-packages", "/tmp/tmp"):
        assert trace not in texts
    assert [cell["execution_count"] for cell in code_cells(path)] == [*range(1, len(code_cells(path)) + 1)]
    assert not any(cell["metadata"] for cell in read(path)["cells"])
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_open_in_colab_and_install_from_the_repository(path):
    first = "".join(read(path)["cells"][0]["source"])
    address = REPOSITORY.removeprefix("https://github.com/")
    assert f"(https://colab.research.google.com/github/{address}/blob/main/notebooks/{path.name})" in first
    install = "".join(code_cells(path)[0]["source"])
    assert f'"git+{REPOSITORY}"' in install and '"-e"' not in install
    everything = "".join("".join(cell["source"]) for cell in code_cells(path))
    assert everything.count('".."') == 1, "no other file of a checkout is read"


def test_what_is_installed_beside_the_code_is_no_second_package():
    """A folder tlx/ without code, which an editable install would leave, is an empty package to a kernel."""
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {name: f"{packaged.FOLDER}/{name}" for name in ("configs", "launch")}
    assert packaged.FOLDER != "tlx"


def test_packaged_folders_are_found_installed_and_in_a_checkout(tmp_path, monkeypatch):
    assert packaged_configs() == ROOT / "configs" and templates() == ROOT / "launch"
    monkeypatch.setattr(packaged, "__file__", str(tmp_path / "tlx/base/packaged.py"))
    (tmp_path / packaged.FOLDER / "configs").mkdir(parents=True)
    assert packaged_configs() == tmp_path / packaged.FOLDER / "configs"
    assert templates() == tmp_path / "launch"


@pytest.mark.parametrize("name", ["quickstart:tiny", "configs/quickstart.py:tiny", "scaling/quickstart:tiny"])
def test_packaged_configs_are_found_outside_a_checkout(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name) and run_name(name).endswith("quickstart-tiny")
