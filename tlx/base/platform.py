"""The platform that a step is compiled for: that of this process, or one that only is compiled for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_COMPILED_FOR: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar(
    "compiled_for", default=None
)


def platform() -> str:
    """Return "cpu", "tpu" or "gpu"; it selects the dtype "auto", the attention kernel and the unrolling."""
    target = _COMPILED_FOR.get()
    return target[0] if target else jax.default_backend()


def device_kind() -> str:
    """Return JAX's name of the target device, such as "TPU v4"; "" where only the platform was named."""
    target = _COMPILED_FOR.get()
    return target[1] if target else jax.devices()[0].device_kind


@contextlib.contextmanager
def compile_for(name: str, kind: str = "") -> Iterator[None]:
    """Build steps for platform `name`, and for devices of that kind where one is named, inside the context.

    The devices need not be present.
    """
    token = _COMPILED_FOR.set((name, kind))
    try:
        yield
    finally:
        _COMPILED_FOR.reset(token)
