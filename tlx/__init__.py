"""tlx: pretrain and adapt language models of every shape in JAX.

Attributes load lazily, so that data workers which import a submodule never pay for the rest.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {"load": "tlx.api.load:load", "LoadedModel": "tlx.api.loaded_model:LoadedModel"}

__all__ = sorted(_LAZY)


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'tlx' has no attribute {name!r}")
    module, attr = _LAZY[name].split(":")
    return getattr(importlib.import_module(module), attr)
