"""Laws of learning rate and batch: published ones by name, and those that hparams has fitted, from its file."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tlx.base import place as places
from tlx.base.errors import ConfigError, DataError


class Rates(NamedTuple):
    """Settings of a run."""

    lr: float
    """Peak learning rate."""

    batch_tokens: float | None
    """Batch in tokens; None where the law has none."""

    weight_decay: float | None = None
    """Weight decay; None where the law has none."""


# Settings of (parameters, tokens, training FLOPs).
RateLaw = Callable[[float, float, float], Rates]


def _steplaw(n: float, d: float, flops: float) -> Rates:
    """StepLaw (2503.04715)."""
    return Rates(1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571)


def _deepseek(n: float, d: float, flops: float) -> Rates:
    """DeepSeek LLM (2401.02954)."""
    return Rates(0.3118 * flops**-0.125, 0.2920 * flops**0.3271)


RATE_LAWS: dict[str, RateLaw] = {"steplaw": _steplaw, "deepseek": _deepseek}


def load_rate_law(source: str | os.PathLike | Mapping[str, Any]) -> RateLaw:
    """Return a law of learning rate and batch.

    Args:
        source: A name of RATE_LAWS, the JSON file of `tlx scale hparams --json`, or what hparams returned.

    Returns:
        The law.

    Raises:
        ConfigError: The name is unknown and no file has it.
        DataError: The file holds no fitted law.
    """
    if isinstance(source, Mapping):
        return _fitted(source, "the result of hparams")
    name = os.fspath(source)
    if name in RATE_LAWS:
        return RATE_LAWS[name]
    try:
        content = json.loads(places.as_named(name).read_text(encoding="utf-8"))
    except OSError as error:
        choices = ", ".join(RATE_LAWS)
        raise ConfigError(
            f"rate_law = {name!r} is neither of {choices} nor a file of `tlx scale hparams --json`: {error.strerror}"
        ) from error
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from error
    return _fitted(content, name)


def _fitted(content: Any, name: str) -> RateLaw:
    if not isinstance(content, Mapping) or "status" not in content or "cells" not in content:
        raise DataError(
            f"{name} holds no law of learning rates: it is not the output of `tlx scale hparams --json`"
        )
    if content["status"] != "ok":
        raise DataError(f"{name}: {content['status']}")

    def rates(n: float, d: float, flops: float) -> Rates:
        values = {
            key: _value(content[key], n, d) for key in ("lr", "batch", "weight_decay") if key in content
        }
        return Rates(values["lr"], values.get("batch"), values.get("weight_decay"))

    return rates


def _value(law: Mapping[str, Any], n: float, d: float) -> float:
    """c N^p D^q; a power that the cells did not vary is left out."""
    return float(law["coefficient"] * n ** law.get("N", 0.0) * d ** law.get("D", 0.0))
