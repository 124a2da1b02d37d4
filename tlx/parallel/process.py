"""Start of the processes of a run: coordinator, number of processes, and index of this one."""

import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import jax

from tlx.base.errors import ConfigError
from tlx.parallel.rendezvous import meet, split_address

# A dead process is noticed after so many seconds, and ends the others.
HEARTBEAT_SECONDS = 30
# At the end process 0 may draw samples and figures while the others wait for it.
SHUTDOWN_SECONDS = 1800
# Processes up to which a start that takes longer than 300 s has failed.
COLD_POD = 64
# Process 0 holds the connections, so when it leaves with an error it lets the others report first.
_LAST_WORD_SECONDS = 2.0
# Address of process 0, once this process has joined it; None: JAX found it, or there is one process.
_coordinator: str | None = None


class ProcessSettings(NamedTuple):
    """Settings by which this process joins the run."""

    coordinator: str | None = None
    """"host:port" of process 0; "auto": JAX finds out; None: there is one process."""
    num_processes: int = 1
    """Number of processes of the run."""
    process_id: int = 0
    """Index of this process."""
    local_device: int | None = None
    """Index of the only device of this host that the process uses; None: all of them."""


def start_process(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float | None = None,
) -> ProcessSettings:
    """Join this process to the others of the run; does nothing for a single process.

    Must be called before anything touches a device. Arguments that are None come from TLX_COORDINATOR,
    TLX_NUM_PROCESSES and TLX_PROCESS_ID, else from SLURM's variables under srun, else from those of a TPU with
    several hosts.

    Args:
        coordinator: "host:port" of process 0, or "auto" where JAX finds out.
        num_processes: Number of processes.
        process_id: Index of this process.
        timeout: Seconds to wait for the others; None: TLX_START_SECONDS, else 300, and 1,800 for more than
            COLD_POD processes, whose last host may be half an hour behind the first.

    Returns:
        The settings.

    Raises:
        ConfigError: Settings are incomplete or contradict each other, or two processes have one id.
        MissingProcess: Not all processes have come in time; the message names them.
    """
    settings = process_settings(os.environ, coordinator, num_processes, process_id)
    usual = 300 if settings.num_processes <= COLD_POD else 1800
    timeout = timeout or _number(os.environ, "TLX_START_SECONDS", None) or usual
    # A notebook or a test may call this twice; JAX allows one start in a process.
    if settings.coordinator is None or jax.distributed.is_initialized():
        return settings
    limits: dict[str, Any] = {
        "initialization_timeout": int(timeout),
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    if settings.coordinator == "auto":
        jax.distributed.initialize(**limits)
        return settings._replace(num_processes=jax.process_count(), process_id=jax.process_index())
    global _coordinator
    _coordinator = settings.coordinator
    meet(settings.coordinator, settings.num_processes, settings.process_id, timeout)
    jax.distributed.initialize(
        settings.coordinator,
        settings.num_processes,
        settings.process_id,
        local_device_ids=settings.local_device,
        # Everything is known here: JAX's own detection would read SLURM's variables again, and may
        # contradict.
        cluster_detection_method="deactivate",
        **limits,
    )
    return settings


def own_address(towards: str | None = None) -> str:
    """Return the address by which the other hosts of the run reach this one.

    Args:
        towards: Address of a host on that network; None: process 0's, or this host's name where JAX found that one.

    Returns:
        The address of the interface that packets to that host leave by; no packet is sent.
    """
    if towards is None:
        towards = socket.gethostname() if _coordinator is None else split_address(_coordinator)[0]
    family, kind, protocol, _, address = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return probe.getsockname()[0]


def leave(code: int) -> NoReturn:
    """End this process at once, without waiting for the others as an orderly exit does.

    For a process that failed alone: the others may be inside a collective that only its end will break.
    """
    if jax.process_index() == 0:
        time.sleep(_LAST_WORD_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    # Past Python's exit handlers, which would wait for the other processes.
    os._exit(code)


def process_settings(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> ProcessSettings:
    """Determine how `start_process` joins the run.

    Args:
        environ: Environment variables.
        coordinator: As in `start_process`.
        num_processes: As in `start_process`.
        process_id: As in `start_process`.

    Returns:
        The settings.

    Raises:
        ConfigError: Settings are incomplete or contradict each other.
    """
    coordinator = coordinator or environ.get("TLX_COORDINATOR") or None
    num_processes = _number(environ, "TLX_NUM_PROCESSES", num_processes)
    process_id = _number(environ, "TLX_PROCESS_ID", process_id)
    if coordinator == "auto":
        return ProcessSettings("auto")
    if (coordinator, num_processes, process_id) == (None, None, None):
        return _from_slurm(environ) or _from_tpu(environ) or ProcessSettings()
    if num_processes == 1:
        return ProcessSettings()
    settings = {"COORDINATOR": coordinator, "NUM_PROCESSES": num_processes, "PROCESS_ID": process_id}
    missing = [f"TLX_{name}" for name, value in settings.items() if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(f"several processes need {', '.join(missing)} too; given: {_given(settings)}")
    split_address(coordinator)
    if num_processes < 1:
        raise ConfigError(f"TLX_NUM_PROCESSES = {num_processes} must be 1 or more")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"TLX_PROCESS_ID = {process_id} must be 0 to {num_processes - 1}")
    return ProcessSettings(coordinator, num_processes, process_id)


def _given(settings: Mapping[str, object]) -> str:
    return ", ".join(f"TLX_{name} = {value}" for name, value in settings.items() if value is not None)


def _number(environ: Mapping[str, str], name: str, argument: int | None) -> int | None:
    if argument is not None or not environ.get(name):
        return argument
    try:
        return int(environ[name])
    except ValueError as error:
        raise ConfigError(f"{name} = {environ[name]!r} must be a whole number") from error


def _from_slurm(environ: Mapping[str, str]) -> ProcessSettings | None:
    """Return the settings of a task of `srun`; task 0 runs on the first host of the step's node list."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in needed) or int(environ["SLURM_NTASKS"]) == 1:
        return None
    # The port depends on the job, so that jobs that share a host do not meet.
    port = 61440 + int(environ["SLURM_JOB_ID"]) % 4096
    tasks = int(environ["SLURM_NTASKS"])
    nodes = int(environ.get("SLURM_STEP_NUM_NODES", 1))
    return ProcessSettings(
        coordinator=f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}",
        num_processes=tasks,
        process_id=int(environ["SLURM_PROCID"]),
        # Several tasks a host share its devices, one each; a single task has them all.
        local_device=int(environ["SLURM_LOCALID"]) if tasks > nodes else None,
    )


def first_host(nodelist: str) -> str:
    """Return the first name of SLURM's compressed list: "gpu-03" of "gpu-[03-07,11],login1"."""
    head, bracket, tail = nodelist.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    number = tail.split("]")[0]
    suffix = tail.partition("]")[2].split(",")[0]
    return head + number.split(",")[0].split("-")[0] + suffix


def _from_tpu(environ: Mapping[str, str]) -> ProcessSettings | None:
    """Return the settings on a TPU with several hosts, as GKE and multi-slice launchers announce them."""
    hosts = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) > 1 or environ.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return ProcessSettings("auto")
    return None
