"""Errors that end a run: noted in its events, and told so that a user can act on them."""

import contextlib
from collections.abc import Iterator

import jax

from tlx.base import tree
from tlx.base.errors import DeviceMemoryError, LeaseError, LostProcess, UserError, first_line
from tlx.base.memory import size_text
from tlx.base.place import Place
from tlx.run.assemble import Run
from tlx.training.journal import Journal

# What collectives say when the other side has closed its connection or does not answer.
_LOST = ("Gloo", "Connection", "connection", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "NCCL", "peer")

_OUT_OF_MEMORY = (
    "the devices have too little memory for this run; raise train.microbatches, set "
    "model.execution.remat = 'full', or split the parameters with mesh.fsdp; "
)


@contextlib.contextmanager
def errors_noted(workdir: Place) -> Iterator[None]:
    """Write an error of the run to events.jsonl, for whoever waits for its end elsewhere."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, LeaseError):  # with that one, the run is another process'
            Journal(workdir, jax.process_index() > 0).error(error)
        raise


def explain(error: Exception, run: Run | None) -> None:
    """Raise an error that a user can act on in place of the runtime's own, where there is one."""
    first = first_line(error)
    if "RESOURCE_EXHAUSTED" in str(error):
        explained = DeviceMemoryError(f"{_OUT_OF_MEMORY}{_memory(run)}. What the device said: {first}")
        explained.ends_process = jax.default_backend() == "cpu" and jax.local_device_count() > 1
        raise explained from error
    if jax.process_count() > 1 and any(sign in str(error) for sign in _LOST):
        raise LostProcess(f"another process of the run is gone; what the device said: {first}") from error


def _memory(run: Run | None) -> str:
    """Return what the run holds in memory over all devices, for a message."""
    if run is None:
        return "nothing of the run was on the devices yet"
    parts = {
        "parameters": (run.state.params, run.state.frozen),
        "optimizer state": run.state.opt_state,
        "memories": run.state.carry,
    }
    sizes = {name: tree.num_bytes(part) for name, part in parts.items()}
    held = ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items() if size)
    return f"before any sharding it holds {held}; the rest are gradients, activations and copies of these"
