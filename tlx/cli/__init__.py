"""The command `tlx`: one verb a file, imported only when it is called."""

import importlib
import logging
import os
import sys
import traceback

from tlx import __version__
from tlx.base.errors import USAGE, Preempted, UserError, one_of
from tlx.base.files import storage_error
from tlx.base.lookup import Table

VERBS = Table(
    "verb",
    {
        "config": "tlx.cli.config:main",
        "data": "tlx.cli.data:main",
        "train": "tlx.cli.train:main",
        "finetune": "tlx.cli.finetune:main",
        "evaluate": "tlx.cli.evaluate:main",
        "convert": "tlx.cli.convert:main",
        "generate": "tlx.cli.generate:main",
        "chat": "tlx.cli.chat:main",
        "serve": "tlx.cli.serve:main",
        "bench": "tlx.cli.bench:main",
        "cache": "tlx.cli.cache:main",
        "plan": "tlx.cli.plan:main",
        "scale": "tlx.cli.scale:main",
        "launch": "tlx.cli.launch:main",
        "report": "tlx.cli.report:main",
    },
)

_ABOUT = {
    "config": "print the resolved configuration, or how two differ",
    "data": "look at the examples a model will get; prepare a token cache; make records",
    "train": "pretrain a model, or resume a run",
    "finetune": "train a pretrained model on a task with labels",
    "evaluate": "bits per byte of a model on a text, or its scores on a task",
    "convert": "import a model from a Hugging Face directory, or export one",
    "generate": "continue a prompt with a trained model",
    "chat": "talk to a model that was fine-tuned on conversations",
    "serve": "serve a model with OpenAI's interface, to programs on this machine",
    "plan": "whether a run fits hardware that is not here, and how fast it is",
    "scale": "scaling laws: plan a ladder of runs, train it, fit it, forecast the big run",
    "launch": "start a run on this machine, under SLURM, on GKE or on TPU VMs",
    "report": "results of runs side by side, with intervals over seeds",
    "cache": "size of the token cache, and what to remove from it",
    "bench": "tokens/s and model FLOP/s of step, data pipeline and checkpoints",
}


def main(argv: list[str] | None = None) -> int:
    """Run `tlx VERB ...` and return its exit code (the table in tlx/base/errors.py).

    Each verb's `main(argv)` takes the words after the verb. An error that the user can mend is printed as one
    message on stderr; a traceback means a defect of tlx.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if argv else USAGE
    verb = argv[0]
    if verb in ("-V", "--version", "version"):
        print(f"tlx {__version__}")
        return 0
    if verb not in VERBS:
        print("tlx: " + one_of("verb", verb, VERBS), file=sys.stderr)
        return USAGE
    # Before a verb loads its modules: Orbax's import gives the root logger a handler where it has none, whose lines
    # begin with the level and the logger's name.
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        return VERBS.load(verb)(argv[1:]) or 0
    except UserError as error:
        print(f"tlx {verb}: {error}", file=sys.stderr)
        return _end_process(error.code, getattr(error, "ends_process", False))
    except Preempted as stop:
        print(f"tlx {verb}: {stop}", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print(f"tlx {verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `tlx config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A disk that is full or read-only, wherever it was written to.
        known = storage_error(error)
        if known is None:
            return _defect()
        print(f"tlx {verb}: {known}", file=sys.stderr)
        return _end_process(known.code)
    except Exception:
        return _defect()


def _defect() -> int:
    """Raise the current exception; one of several processes prints it and ends."""
    if not _is_distributed():
        raise
    traceback.print_exc()
    return _end_process(1)


def _is_distributed() -> bool:
    """Whether this process is one of several of a run."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _end_process(code: int, at_once: bool = False) -> int:
    """Return the code; one of several processes ends here, for an orderly end would wait for the others.

    `at_once`: a single one too.
    """
    if at_once or _is_distributed():
        importlib.import_module("tlx.parallel").leave(code)
    return code


def _help() -> str:
    width = max(map(len, _ABOUT))
    verbs = "\n".join(f"  {verb:{width}}  {about}" for verb, about in _ABOUT.items())
    return (
        f"usage: tlx VERB ...\n\n{verbs}\n\n`tlx VERB --help` explains one, `tlx config --explain KEY` a key of the "
        "config, `tlx --version` says which tlx this is."
    )
