"""A run that takes seconds: a tiny model of any shape on a little text of its own."""

import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys

import jax
import numpy as np

from tlx.checkpoint.checkpoints import Checkpoints
from tlx.run.assemble import assemble
from tlx.run.checks import resolve
from tlx.training.journal import read_lines
from tlx.training.state import saved_part

TIMED = ("tokens_per_s", "flops_per_s", "peak_share")
ROOT = pathlib.Path(__file__).parents[2]

_CONFIG = """
from tlx.run import base_config

def get_config(arg="clm"):
    config = base_config(arg or "clm")
    config.data.source = "text"
    config.data.text.files = ({files!r},)
    config.data.sequence_length = 32
    config.tokenizer.kind = "bytes"
    model = config.model
    model.width, model.num_layers, model.attention.num_heads, model.dropout = 32, 2, 4, 0.1
    model.execution.unroll = 1
    kinds = {{
        "plm": "relative_sinusoidal",
        "recurrent_lm": "relative_sinusoidal",
        "span_corruption": "relative_bias",
    }}
    model.position.kind = kinds.get(arg, "rotary")
    if arg in ("plm", "recurrent_lm"):
        model.block_layout, config.objective.mem_len = "post", 16
    if arg == "bilm":
        model.recurrent.cell_dim, model.recurrent.characters.filters = 32, ((1, 8), (3, 8))
        config.objective.max_characters = 6
    if arg == "plm":
        config.objective.num_predict = 6
    if arg == "mixture":  # of objectives, on a mixture of sources
        halves = ({files!r}.replace("*", "[0-1]*"), {files!r}.replace("*", "[2-9]*"))
        sources = [dict(source="text", text=dict(files=(half,))) for half in halves]
        config.data.mixture = (sources[0] | dict(weight=3.0), sources[1])
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule.name = "constant"  # the same for any number of steps
    config.train.batch_size, config.train.steps = 8, 40
    config.checkpoint.every, config.log.every, config.log.print_every = 5, 1, 10
    config.eval.every, config.eval.batches, config.eval.final = 10, 2, False
    config.log.tensorboard = False
    return config
"""

_WORDS = "the a model reads tokens and predicts what comes next from all that came before it in time".split()


def write_config(folder: pathlib.Path) -> pathlib.Path:
    """tiny.py and the text that it trains on."""
    rng = random.Random(0)
    (folder / "text").mkdir(exist_ok=True)
    for i in range(40):
        text = " ".join(rng.choices(_WORDS, k=100)) + "\n"
        (folder / "text" / f"{i}.txt").write_text(text)
    path = folder / "tiny.py"
    path.write_text(_CONFIG.format(files=str(folder / "text" / "*.txt")))
    return path


def tlx(*words: str, devices: int = 1, group: bool = False, **environ: str) -> subprocess.Popen:
    """`tlx WORDS` as a process of its own, stdout and stderr joined; `group`: it leads one."""
    return subprocess.Popen(
        [sys.executable, "-m", "tlx", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=group,
    )


def finish(process: subprocess.Popen, timeout: float = 300) -> str:
    """What the process said; asserts that it ended well."""
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, out
    return out


def digests(workdir, step=40):
    """sha256 of all parameters and of all of the rest of the state, from the checkpoint of a step."""
    run = assemble(resolve(json.loads((workdir / "run.json").read_text())["config"]))
    with run.use():
        loaded = Checkpoints(workdir / "checkpoints").restore(saved_part(run.state), step)
    assert loaded is not None
    rest = {name: value for name, value in loaded.tree.items() if name != "params"}
    return [_sha256(loaded.tree["params"]), _sha256(rest)]


def _sha256(tree):
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(str(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def metrics(workdir):
    """What does not depend on the machine's speed."""
    lines = read_lines(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]
