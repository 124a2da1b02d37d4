"""Settings of XLA, libtpu and NCCL by kind of hardware, each with its reason: for runs and for the plans of them."""

from typing import Literal, NamedTuple

# "tpu-slices" is several slices, which a slower network joins.
Hardware = Literal["cpu", "gpu", "tpu", "tpu-slices"]
# Variables that hold a list of flags: libtpu reads its own, and both end the process for an unknown flag.
FLAG_VARIABLES: dict[Hardware, str] = {
    "cpu": "XLA_FLAGS",
    "gpu": "XLA_FLAGS",
    "tpu": "LIBTPU_INIT_ARGS",
    "tpu-slices": "LIBTPU_INIT_ARGS",
}


class Setting(NamedTuple):
    """One flag, or one environment variable."""

    name: str
    """Flag with its dashes ("--xla_..."), or name of a variable."""
    value: str
    """Its value."""
    reason: str
    """Why it is set."""


SETTINGS: dict[Hardware, tuple[Setting, ...]] = {
    "cpu": (),
    "gpu": (
        Setting(
            "--xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "orders collectives so that they overlap with matrix products; NVIDIA's JAX images set it too",
        ),
        Setting(
            "XLA_PYTHON_CLIENT_MEM_FRACTION",
            "0.9",
            "JAX takes 75% of a GPU's memory by itself, which leaves a quarter unused where the run is alone on it",
        ),
        Setting("NCCL_DEBUG", "WARN", "a collective that fails says why, which NCCL leaves out by itself"),
    ),
    "tpu": (),
    "tpu-slices": (
        Setting(
            "--xla_tpu_enable_data_parallel_all_reduce_opt",
            "true",
            "starts the sums of gradients between slices while the backward pass goes on",
        ),
        Setting(
            "--xla_tpu_data_parallel_opt_different_sized_ops",
            "true",
            "the same where these sums are of different sizes, as of layers and of the token table",
        ),
    ),
}


def compiler_flags(hardware: Hardware) -> str:
    """Return the table's flags of the compiler, as FLAG_VARIABLES' variable holds them; "" where there are none."""
    return " ".join(f"{one.name}={one.value}" for one in SETTINGS[hardware] if one.name.startswith("--"))
