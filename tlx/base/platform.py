"""The platform that a step is made for: the one of this process, or one that it only compiles for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_COMPILED_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar("compiled_for", default=None)


def platform() -> str:
    """ "cpu", "tpu" or "gpu": what decides the dtype "auto", the attention kernel and the unrolling."""
    return _COMPILED_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def compile_for(name: str) -> Iterator[None]:
    """Within: steps are made as they would be on platform `name`, which need not be here."""
    token = _COMPILED_FOR.set(name)
    try:
        yield
    finally:
        _COMPILED_FOR.reset(token)
