"""The train step of a config on this machine, and the same model in PyTorch (transformers, torch.compile)."""

import contextlib
import os
import statistics
from typing import Any

import jax
from ml_collections import ConfigDict

from tlx.base.errors import ConfigError
from tlx.bench.eager import report_missing_packages, torch_functions
from tlx.bench.step import prepare_run
from tlx.bench.timing import in_turns, median_ratio, quickest
from tlx.hub import config_file
from tlx.hub.folder import family_of
from tlx.models.families import TABLE
from tlx.run.assemble import Run, assemble
from tlx.run.checks import resolve
from tlx.run.spec import abstract_batch
from tlx.training.peak import matmul_peak


def measure(config: ConfigDict, seconds: float) -> dict[str, float]:
    """Print and return the figures of the config's step on all devices.

    PyTorch's step, in turns with it, has as many rows and tokens; on a GPU it is compiled and in bfloat16.
    Without a class or the packages for it, or with several accelerators, a line says so.
    """
    torch_missing = report_missing_packages()
    if not torch_missing:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # the rest of a GPU is PyTorch's
    run = assemble(resolve(config, allow=None))
    peak = matmul_peak()
    step = prepare_run(run)
    model = None if torch_missing else _torch_description(run)
    torch_calls = {}
    about = {}
    with contextlib.ExitStack() as stack:
        if model:
            torch_calls, about = torch_functions(stack, model, "step", 1)
        times = in_turns({"tlx": step.call, **torch_calls}, seconds)
    per_step = statistics.median(times["tlx"])
    flops_per_s = step.flops / per_step
    mfu = flops_per_s / peak.flops_per_s
    print(
        f"{step.num_params:,} parameters on {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"jax {jax.__version__}\n"
        f"{1e3 * per_step:,.1f} ms a step, {step.tokens / per_step:,.0f} tokens/s, "
        f"{flops_per_s / 1e12:.3f} TFLOP/s, {mfu:.1%} of {peak.flops_per_s / 1e12:.3f} ({peak.source})"
    )
    figures = {
        "step_ms": 1e3 * per_step,
        "tokens_per_s": step.tokens / per_step,
        "flops_per_s": flops_per_s,
        "peak_flops_per_s": peak.flops_per_s,
        "mfu": mfu,
    }
    if not torch_calls:
        return figures
    best = quickest(times, torch_calls)
    torch_ms = 1e3 * statistics.median(times[best])
    ratio = median_ratio(times[best], times["tlx"])
    print(f"{torch_ms:,.1f} ms a step of PyTorch, {about['parameters']:,} parameters, {about['how']}")
    print(f"tlx / PyTorch: {ratio:.2f}")
    return figures | {"torch_step_ms": torch_ms, "ratio": ratio}


def _torch_description(run: Run) -> dict[str, Any] | None:
    """Return the run's model and batch as torch_model.py reads them; None where no class computes them."""
    model = run.module.model
    batch = abstract_batch(run.config, run.spec)
    device = jax.devices()[0]
    if device.platform == "tpu" or device.platform == "gpu" and jax.device_count() > 1:
        print(f"not compared with PyTorch: it has no {jax.device_count()} x {device.device_kind} here")
        return None
    try:
        family = TABLE.load(family_of(model, run.state.params))
    except ConfigError as error:
        print(f"not compared with PyTorch: {error}")
        return None
    rows, length = batch["encoder_tokens" if model.kind == "encoder_decoder" else "tokens"].shape
    decoder = batch.get("decoder_tokens")
    return {
        "config": config_file.write(family, model) | {"model_type": family.model_type},
        "kind": model.kind,
        "vocab": min(model.vocab_size, 256),
        "batch": rows,
        "length": length,
        "decoder_length": 0 if decoder is None else decoder.shape[1],
    }
