"""The platform that a step is made for: the one of this process, or one that it only compiles for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_COMPILED_FOR: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar(
    "compiled_for", default=None
)


def platform() -> str:
    """ "cpu", "tpu" or "gpu": what decides the dtype "auto", the attention kernel and the unrolling."""
    made_for = _COMPILED_FOR.get()
    return made_for[0] if made_for else jax.default_backend()


def device_kind() -> str:
    """JAX's name of the device that steps are made for, "TPU v4"; "" where only the platform was named."""
    made_for = _COMPILED_FOR.get()
    return made_for[1] if made_for else jax.devices()[0].device_kind


@contextlib.contextmanager
def compile_for(name: str, kind: str = "") -> Iterator[None]:
    """Within: steps are made as they would be on platform `name`, on a device of that kind, if one is named.

    Neither need be here.
    """
    token = _COMPILED_FOR.set((name, kind))
    try:
        yield
    finally:
        _COMPILED_FOR.reset(token)
