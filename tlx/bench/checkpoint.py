"""Checkpoints: bandwidth of saving and restoring relative to a plain file in the same folder."""

import logging
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from tlx.base import tree
from tlx.bench.shape import BenchShape
from tlx.bench.sizes import default_shape, run_config
from tlx.bench.timing import in_turns, median_ratio
from tlx.checkpoint import CheckpointConfig, Checkpoints
from tlx.checkpoint import manifest as manifests
from tlx.run.assemble import assemble

# Bytes of the state that is saved, about and at least.
LEAST_BYTES = 500_000_000


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Print and return the bandwidth of checkpoints of a whole state.

    Saving includes hashing, the manifest and fsync; restoring includes verification, beside loading. Of the default
    shape on a processor there are as many layers as LEAST_BYTES take: smaller files cost what opening them costs.

    Args:
        shape: Size of the model.
        objectives: Unused: the state is that of causal LM.
        seconds: Measuring time of a function; half of it is used, as there are five.

    Returns:
        Bytes/s of "save", "write", "restore", "read" and "hash", the ratios "save_ratio" and "restore_ratio" to
        the plain file, and "hash_share_of_save" and "hash_share_of_restore", the parts of their times that hashing
        takes; and "save_waits_s", the seconds of a save that training waits for.
    """
    del objectives
    if shape == default_shape():
        shape = shape._replace(layers=max(shape.layers, LEAST_BYTES // _layer_bytes(shape)))
    run = assemble(run_config("clm", shape))
    with run.use():
        state = {"params": run.init().params, "opt_state": run.init().opt_state}
    size = tree.num_bytes(state)
    plain = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    logging.getLogger("absl").setLevel(logging.ERROR)
    # In the working directory: /tmp is often memory, on which nothing would be measured.
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".tlx-bench-") as folder:
        path = pathlib.Path(folder) / "plain"
        step = 0
        waits = []
        with Checkpoints(pathlib.Path(folder) / "checkpoints", CheckpointConfig(keep=1)) as checkpoints:
            checkpoints.prepare()

            def save() -> None:
                nonlocal step
                step += 1
                start = time.perf_counter()
                checkpoints.save(step, state)
                waits.append(time.perf_counter() - start)
                checkpoints.wait()

            def write() -> None:
                with open(path, "wb") as handle:
                    handle.write(plain.data)
                    handle.flush()
                    os.fsync(handle.fileno())

            # In this order: what is restored and read was saved and written before.
            def hash_files() -> None:
                target = pathlib.Path(folder) / "checkpoints" / str(step)
                manifests.verify(target, manifests.read(target), "hash")

            functions = {
                "save": save,
                "write": write,
                "hash": hash_files,
                "restore": lambda: checkpoints.restore(abstract),
                "read": path.read_bytes,
            }
            times = in_turns(functions, seconds / 2)
    print(f"  a state of {size / 1e6:,.0f} MB, in {os.getcwd()}")
    return _report(times, size) | _report_waits(waits)


def _report(times: dict[str, list[float]], size: int) -> dict[str, float]:
    """Print and return the bandwidths and ratios of functions that move `size` bytes."""
    figures = {name: size / statistics.median(values) for name, values in times.items()}
    for operation, plain_file, verb in (("save", "write", "written"), ("restore", "read", "read")):
        ratio = median_ratio(times[plain_file], times[operation])
        figures[f"{operation}_ratio"] = ratio
        share = median_ratio(times["hash"], times[operation])
        figures[f"hash_share_of_{operation}"] = share
        print(
            f"  {operation:8} {figures[operation] / 1e9:6.2f} GB/s, {share:.0%} of its time in hashing; the same "
            f"bytes {verb} as a plain file {figures[plain_file] / 1e9:6.2f} GB/s: {ratio:.2f} of it"
        )
    return figures


def _report_waits(waits: list[float]) -> dict[str, float]:
    """Print and return the seconds that training waits for a save: until its arrays may be donated."""
    seconds = statistics.median(waits)
    print(f"  training waits for {seconds:.2f} s of a save; the rest is beside it")
    return {"save_waits_s": seconds}


def _layer_bytes(shape: BenchShape) -> int:
    """Return the bytes of a layer's matrices and of Adam's two moments, 12 width^2 parameters in float32."""
    return 12 * shape.width**2 * 3 * 4
