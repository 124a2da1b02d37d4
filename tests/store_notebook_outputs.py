"""Runs notebooks in a folder of their own and stores their outputs, cleaned, in notebooks/.

    TLX_SOURCE=dist/tlx_lm-0.2.0-py3-none-any.whl python -m tests.store_notebook_outputs train finetune

Needs `pip install '.[notebooks]'`. Stored are texts as a terminal shows them at the end (of a progress bar its
last state), pictures, and no traces of the machine: times of execution, warnings, paths.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"

# Noise of the machine on which a notebook was run.
_NOISE = re.compile(r"IProgress|autonotebook|Loading weights|^reading:")


def shown(text):
    """Return a text as a terminal shows it: what a carriage return goes back over is gone."""
    lines = []
    for line in text.split("\n"):
        parts = [part for part in line.split("\r") if part.strip()]
        last = parts[-1].rstrip() if parts else ""
        if not _NOISE.search(last):
            lines.append(last)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def cleaned(outputs):
    """Join neighbouring texts of a cell's outputs, and drop empty ones."""
    joined = []
    for output in outputs:
        output.pop("metadata", None) if output["output_type"] == "stream" else None
        same = joined and output["output_type"] == "stream" and joined[-1].get("name") == output["name"]
        if same:
            joined[-1]["text"] = "".join(joined[-1]["text"]) + "".join(output["text"])
        else:
            joined.append(output)
    stored = []
    for output in joined:
        if output["output_type"] == "stream":
            text = re.sub(r"/tmp/tmp\w+", "/tmp/example", shown("".join(output["text"])))
            output["text"] = text.splitlines(keepends=True)
            if not text.strip():
                continue
        stored.append(output)
    return stored


def clean(notebook):
    """Return a notebook whose outputs and metadata do not depend on the machine."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = cleaned(cell["outputs"])
    return notebook


def run(path):
    """Run a notebook in an empty folder and return it with its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--to=notebook", "--execute", f"--output-dir={folder}", "--ExecutePreprocessor.timeout=1800"]
        subprocess.run(
            [sys.executable, "-m", "jupyter", "nbconvert", *words, str(path)], check=True, cwd=folder
        )
        return json.loads((pathlib.Path(folder) / path.name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = FOLDER / f"{name}.ipynb"
        notebook = clean(run(path))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
