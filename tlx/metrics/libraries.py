"""The libraries that define metrics, imported when one is asked for."""

import importlib
from types import ModuleType

from tlx.base.errors import ConfigError


def library(module: str, package: str, metric: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Dotted name of the module.
        package: Name of the package that has it, on the package index.
        metric: What needs it, for the message.

    Returns:
        The module.

    Raises:
        ConfigError: The package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{metric} needs the package {package} ({error}); install it with: pip install 'tlx-lm[finetune]'"
        ) from error
