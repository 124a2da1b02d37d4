"""Every notebook runs from its first cell to its last."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIMITS = {"finetune": 180}  # seconds; others 90
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_cells_run_in_order(path, tmp_path):
    """As `pytest --nbmake notebooks` does, but without Jupyter: one script of all cells."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(cells), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "JAX_NUM_CPU_DEVICES": "1"}
    begin = _processor_seconds()
    words = [sys.executable, str(script)]
    done = subprocess.run(words, cwd=path.parent, env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    # Of processor time, which on an idle machine is no less than the user's.
    assert _processor_seconds() - begin < LIMITS.get(path.stem, 90)


def _processor_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_their_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    kept = [cell["id"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]]
    assert not kept
