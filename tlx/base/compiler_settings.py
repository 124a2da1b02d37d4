"""Settings of XLA, libtpu and NCCL by hardware, each with its reason: for runs and for the plans of them."""

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


# By chip (base/chips.json), beside those of its kind: only what was seen to shorten that chip's step.
CHIP_SETTINGS: dict[str, tuple[Setting, ...]] = {
    "v6e": tuple(
        Setting(
            flag,
            "true",
            "parameters are gathered while products are computed: Llama 2 7B's step on 256 chips is planned to take "
            "474 instead of 491 ms (configs/pod/README.md)",
        )
        for flag in (
            "--xla_tpu_enable_async_collective_fusion",
            "--xla_tpu_enable_async_collective_fusion_fuse_all_gather",
            "--xla_tpu_enable_async_collective_fusion_multiple_steps",
            "--xla_tpu_overlap_compute_collective_tc",
            "--xla_enable_async_all_gather",
        )
    ),
}


def settings_of(hardware: Hardware, chip: str = "") -> tuple[Setting, ...]:
    """Return the settings of a kind of hardware and of a chip; "" where the chip is not known."""
    return SETTINGS[hardware] + CHIP_SETTINGS.get(chip, ())


def setting_names() -> set[str]:
    """Return the names of the settings of all hardware."""
    rows = (*SETTINGS.values(), *CHIP_SETTINGS.values())
    return {setting.name for row in rows for setting in row}


def compiler_flags(hardware: Hardware, chip: str = "") -> str:
    """Return the table's flags of the compiler, as FLAG_VARIABLES' variable holds them; "" where there are none."""
    chosen = settings_of(hardware, chip)
    return " ".join(f"{one.name}={one.value}" for one in chosen if one.name.startswith("--"))
