"""This machine: N processes, started again by exit code. One host with several GPUs, and every test."""

import dataclasses
import os
import pathlib
import socket
import sys
from collections.abc import Mapping

from tlx.base.errors import ConfigError, StorageError
from tlx.launch.exits import describe, next_move
from tlx.launch.job import Cluster, LaunchJob, option
from tlx.launch.secrets import hider
from tlx.launch.supervise import Supervisor

_LONGEST_PAUSE = 60.0


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """Flags of `tlx launch local`."""

    processes: int = option(1, "processes, which find each other on 127.0.0.1")
    devices: int = option(0, "devices of each process; 0: all there are, for one process")
    restarts: int = option(10, "how often to start again after a failure; a preemption does not count")

    def validate(self) -> None:
        """Raises ConfigError for numbers that make no sense."""
        for name, least in (("processes", 1), ("devices", 0), ("restarts", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name}={getattr(self, name)} must be {least} or more")


def render(job: LaunchJob, options: LocalOptions) -> dict[str, str]:
    """Nothing: what runs here needs no files."""
    return {}


def commands(job: LaunchJob, options: LocalOptions, folder: pathlib.Path) -> list[list[str]]:
    """The command, as often as there are processes."""
    return [job.words()] * options.processes


def run(job: LaunchJob, options: LocalOptions, folder: pathlib.Path) -> int:
    """Runs to the end, restarts included; the exit code of the process that ended first."""
    logs = pathlib.Path(job.workdir) / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {logs}: {error.strerror}") from error
    supervisor = Supervisor([sys.executable, "-u", "-m", *job.words()], logs, hide=hider(os.environ))
    failures = 0
    with supervisor.signals():
        while True:
            deaths = supervisor.run(environs(os.environ, options, free_port()))
            code = next((death.code for death in deaths if death.code), 0)
            if code == 0 or supervisor.asked:
                return code
            move = next_move(code)
            failures += move.counts
            if not move.again or failures > options.restarts:
                why = "no restart mends that" if not move.again else f"restarted {options.restarts} times"
                print(f"launch | {describe(code)}; {why}", flush=True)
                return code
            pause = min(_LONGEST_PAUSE, 2.0**failures) if move.counts else 1.0
            print(f"launch | starting again in {pause:.0f} s ({failures} of {options.restarts})", flush=True)
            if supervisor.wake.wait(pause):
                return code


def environs(environ: Mapping[str, str], options: LocalOptions, port: int) -> list[dict[str, str]]:
    """What each process finds in its environment: who it is, whom it meets, which devices are its own."""
    found = []
    for i in range(options.processes):
        own = dict(environ)
        if options.processes > 1:
            own |= {"TLX_COORDINATOR": f"127.0.0.1:{port}", "TLX_NUM_PROCESSES": str(options.processes)}
            own["TLX_PROCESS_ID"] = str(i)
        if options.devices:
            first = i * options.devices
            own["JAX_NUM_CPU_DEVICES"] = str(options.devices)
            own["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + k) for k in range(options.devices))
        found.append(own)
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


CLUSTER = Cluster(LocalOptions, render, commands, run)
