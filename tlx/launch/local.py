"""Launch on this machine: N processes, restarted depending on the exit code."""

import dataclasses
import os
import pathlib
import socket
import sys
from collections.abc import Mapping

from tlx.base import place as places
from tlx.base.compiler_settings import Hardware
from tlx.base.errors import ConfigError, StorageError
from tlx.launch import settings
from tlx.launch.exits import describe, next_move
from tlx.launch.job import Cluster, LaunchJob
from tlx.launch.secrets import hider
from tlx.launch.supervise import Supervisor

_LONGEST_PAUSE = 60.0
# Devices by which a host of TPUs is known.
_TPU_DEVICES = (pathlib.Path("/dev/accel0"), pathlib.Path("/dev/vfio/0"))


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """Flags of `tlx launch local`."""

    processes: int = 1
    """Number of processes, which connect on 127.0.0.1."""
    devices: int = 0
    """Devices of each process; 0: all devices, for one process."""
    restarts: int = 10
    """Largest number of restarts after failures; preemptions do not count."""

    def validate(self) -> None:
        """Raise ConfigError for a number below its minimum."""
        for name, least in (("processes", 1), ("devices", 0), ("restarts", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name}={getattr(self, name)} must be {least} or more")


def render(job: LaunchJob, options: LocalOptions) -> dict[str, str]:
    """Return no files: a local run needs none."""
    return {}


def commands(job: LaunchJob, options: LocalOptions, folder: pathlib.Path) -> list[list[str]]:
    """Return the command of each process.

    Args:
        job: The run.
        options: Flags of `tlx launch local`.
        folder: Folder of the rendered files.

    Returns:
        Commands of `tlx train`.
    """
    return [job.words()] * options.processes


def run(job: LaunchJob, options: LocalOptions, folder: pathlib.Path) -> int:
    """Run until the end, restarts included.

    Args:
        job: The run.
        options: Flags of `tlx launch local`.
        folder: Folder of the rendered files; not used.

    Returns:
        Exit code of the process that ended first.

    Raises:
        StorageError: the folder of the logs cannot be created.
    """
    logs = job.log_folder
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {logs}: {error.strerror}") from error
    chosen = settings.variables(_target(os.environ), job.settings, places.absolute_text(job.workdir))
    environ = settings.merged(chosen, os.environ)
    supervisor = Supervisor([sys.executable, "-u", "-m", *job.words()], logs, hide=hider(os.environ))
    # Restarts that count against the limit; they also lengthen the pause before the next one.
    failures = 0
    with supervisor.signals():
        while True:
            exits = supervisor.run(environs(environ, options, free_port()))
            code = next((exit.code for exit in exits if exit.code), 0)
            if code == 0 or supervisor.received:
                return code
            decision = next_move(code)
            failures += decision.counts
            if not decision.again or failures > options.restarts:
                why = (
                    "a restart would not help"
                    if not decision.again
                    else f"restarted {options.restarts} times"
                )
                print(f"launch | {describe(code)}; {why}", flush=True)
                return code
            pause = min(_LONGEST_PAUSE, 2.0**failures) if decision.counts else 1.0
            print(f"launch | restarting in {pause:.0f} s ({failures} of {options.restarts})", flush=True)
            if supervisor.wake.wait(pause):
                return code


def _target(environ: Mapping[str, str]) -> Hardware:
    """Return the kind of hardware of this machine; JAX is not asked, for that would take the devices."""
    if environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu"
    if pathlib.Path("/dev/nvidiactl").exists():
        return "gpu"
    return "tpu" if any(map(pathlib.Path.exists, _TPU_DEVICES)) else "cpu"


def environs(environ: Mapping[str, str], options: LocalOptions, port: int) -> list[dict[str, str]]:
    """Build the environment of each process: its id, the coordinator's address, its devices.

    Args:
        environ: Environment of this process, which the others inherit.
        options: Numbers of processes and devices.
        port: Port of the coordinator.

    Returns:
        Environment variables of each process.
    """
    environments = []
    for process_id in range(options.processes):
        variables = dict(environ)
        if options.processes > 1:
            variables["TLX_COORDINATOR"] = f"127.0.0.1:{port}"
            variables["TLX_NUM_PROCESSES"] = str(options.processes)
            variables["TLX_PROCESS_ID"] = str(process_id)
        if options.devices:
            first = process_id * options.devices
            variables["JAX_NUM_CPU_DEVICES"] = str(options.devices)
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + k) for k in range(options.devices))
        environments.append(variables)
    return environments


def free_port() -> int:
    """Return a port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


CLUSTER = Cluster(LocalOptions, render, commands, run)
