"""Makes tests/golden_run/format_N: run directories of today's format that every later tlx must load,
one archive for each shape of model, and what the models said.

    python -m tests.make_golden_run

Never make a folder of an older format again: when run.json's format number or a checkpoint's layout
changes, the old folders stay as they are and a new one is added beside them.
"""

import pathlib
import shutil
import tarfile
import tempfile

import numpy as np

import tlx
from tlx.base.files import write_json
from tlx.cli import main
from tlx.training.directory import FORMAT

FOLDER = pathlib.Path(__file__).parent / "golden_run"

_CONFIG = """
from tlx.run import base_config

def get_config(arg=""):
    config = base_config(arg)
    config.data.sequence_length, config.train.batch_size = 24, 8
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 8, 2, 2
    config.tokenizer.kind = "bytes"
    config.optimizer.name = "lion"
    config.optimizer.learning_rate = 3e-3
    config.train.steps, config.checkpoint.every, config.eval.final = 60, 100, False
    config.log.every = 20
    config.log.tensorboard = False
    config.model.position.max_length = 32
    if arg == "clm":
        config.tokenizer.kind, config.tokenizer.vocab_size = "sentencepiece", 480
        config.tokenizer.train_bytes = 300_000
        config.model.position.kind = "rotary"
    if arg == "span_corruption":
        config.model.position.kind = "relative_bias"
        config.model.num_layers = 1
    if arg == "plm":
        config.model.block_layout, config.model.position.kind = "post", "relative_sinusoidal"
        config.objective.mem_len = 8
    return config
"""


def answers(lm: tlx.LoadedModel) -> dict:
    """What a loaded model says, to compare with what it said when it was made."""
    ids = list(range(100, 110))
    given = {"encoder_tokens": [ids]} if lm.kind == "encoder_decoder" else {}
    found = {"step": lm.step, "num_params": lm.num_params}
    found["logits"] = np.round(lm.logits([ids], **given)[0, ::3, ::37].astype(float), 5).tolist()
    prompts = ["def <extra_id_0>(self)"] if lm.kind == "encoder_decoder" else None
    found["log_likelihood"] = round(lm.score(["return self"], prompts)[0].log_likelihood, 4)
    if lm.kind == "encoder":
        found["text"] = lm.fill("def f(s[MASK]lf):", top=1)[0][0].piece
    else:
        found["text"] = lm.generate("def f", max_tokens=8, temperature=0)
    return found


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The run directory of an archive, below `folder`."""
    with tarfile.open(archive) as handle:
        handle.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.xz")


def make(folder: pathlib.Path) -> None:
    """Trains each shape for a few steps with `tlx train` and notes what the result says."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        config = pathlib.Path(temporary) / "golden.py"
        config.write_text(_CONFIG)
        for objective in ("clm", "mlm", "plm", "span_corruption"):
            run = pathlib.Path(temporary) / objective
            if main(["train", f"--config={config}:{objective}", f"--workdir={run}"]):
                raise SystemExit(f"{objective} was not trained")
            (run / ".lease.lock").unlink(missing_ok=True)
            write_json(folder / f"{objective}.json", answers(tlx.load(run)))
            with tarfile.open(folder / f"{objective}.tar.xz", "w:xz") as archive:
                archive.add(run, objective, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    make(FOLDER / f"format_{FORMAT}")
