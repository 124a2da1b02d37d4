"""tlx: pretrain and adapt language models of every shape in JAX.

    import tlx

    model, metrics = tlx.train("quickstart:tiny", workdir="runs/tiny")
    print(model.generate("def main("))

Attributes load lazily, so that data workers which import a submodule never pay for the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_LAZY = {
    "LoadedModel": "tlx.api.loaded_model:LoadedModel",
    "Preempted": "tlx.base.errors:Preempted",
    "UserError": "tlx.base.errors:UserError",
    "evaluate": "tlx.trainer.evaluate:evaluate",
    "finetune": "tlx.trainer.finetune:finetune",
    "load": "tlx.api.load:load",
    "train": "tlx.trainer.pretrain:train",
}

if TYPE_CHECKING:
    from tlx.api.load import load
    from tlx.api.loaded_model import LoadedModel
    from tlx.base.errors import Preempted, UserError
    from tlx.trainer.evaluate import evaluate
    from tlx.trainer.finetune import finetune
    from tlx.trainer.pretrain import train

__all__ = ["LoadedModel", "Preempted", "UserError", "evaluate", "finetune", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import an attribute when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'tlx' has no attribute {name!r}")
    module, attr = _LAZY[name].split(":")
    return getattr(importlib.import_module(module), attr)
