"""The libraries that define a metric, imported when one is asked for."""

import importlib
from types import ModuleType

from tlx.base.errors import ConfigError


def library(module: str, package: str, metric: str) -> ModuleType:
    """The module; ConfigError saying what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{metric} needs the package {package} ({error}); install it with: pip install 'tlx-lm[finetune]'"
        ) from error
