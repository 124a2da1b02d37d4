"""Launch on TPU VMs: requests them, starts the run on all hosts, and repeats after a preemption."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Sequence
from types import FrameType

from tlx.base import place as places
from tlx.base.chips import chip_name
from tlx.base.errors import PREEMPTED, WATCHDOG, ConfigError
from tlx.launch import settings
from tlx.launch.exits import describe, next_move
from tlx.launch.job import Cluster, LaunchJob, Raw, check_given, fill, shell
from tlx.launch.wheel import build_command, extras, install_command, wheel_name

_REQUIRED = ("accelerator", "zone")
WORKER = "worker.sh"
CONFIG = "config.py"
# Folder of the run in the home directory of each worker.
_FOLDER = "tlx-run"
_EXIT = re.compile(r"tlx-exit (\d+) (\S+)")
_GONE = ("FAILED", "SUSPENDED", "SUSPENDING", "DELETING", "NOT_FOUND")


@dataclasses.dataclass(frozen=True)
class TpuVmOptions:
    """Flags of `tlx launch tpu-vm`."""

    accelerator: str = ""
    """Accelerator type, as v5litepod-64 or v6e-256."""
    zone: str = ""
    """Zone, as us-west4-a."""
    project: str = ""
    """Project; empty: gcloud's default."""
    runtime: str = "v2-alpha-tpuv5-lite"
    """Runtime version of the VM image."""
    slices: int = 1
    """Number of slices, each of the accelerator type."""
    spot: bool = False
    """Use spot capacity: cheaper, preempted at any time."""
    service_account: str = ""
    """Service account of the VMs; empty: the project's default."""
    setup: str = ""
    """Command that every worker runs before each start; empty: install the wheel of --wheel."""
    wheel: str = ""
    """Wheel of tlx that is copied to every worker; empty: the one of this checkout, built at the launch."""
    restarts: int = 50
    """Largest number of restarts after failures; preemptions do not count."""
    grace_seconds: int = 120
    """Seconds in which the run saves after it was asked to stop."""
    poll_seconds: int = 30
    """Seconds between queries of the machines' state."""
    keep: bool = False
    """Keep the machines at the end (they cost money until deleted)."""

    def validate(self) -> None:
        """Raise ConfigError naming the flag."""
        check_given(self, _REQUIRED)
        minimum = {"slices": 1, "restarts": 0, "grace_seconds": 10, "poll_seconds": 0}
        for name, value in minimum.items():
            if getattr(self, name) < value:
                raise ConfigError(f"--{name.replace('_', '-')}={getattr(self, name)} must be {value} or more")


def render(job: LaunchJob, options: TpuVmOptions) -> dict[str, str]:
    """Return the script of every worker, and the config's file unless it comes with tlx."""
    if not job.workdir.startswith("/") and not places.is_bucket(job.workdir):
        raise ConfigError(
            f"--workdir={job.workdir} must be gs://BUCKET/RUN, or an absolute path that all workers share; the disk "
            "of a TPU VM goes with the VM"
        )
    words = job.words(job.moved(CONFIG) if job.config_file else job.config)
    target = "tpu-slices" if options.slices > 1 else "tpu"
    chosen = settings.variables(target, job.settings, job.workdir, chip_name(options.accelerator))
    values = {
        "grace_seconds": options.grace_seconds,
        "environment": Raw(settings.exports(chosen)),
        "setup": options.setup or install_command(wheel_name(options.wheel), extras(job.workdir, "tpu")),
        "command": Raw(shlex.join(words)),
    }
    files = {WORKER: fill("tpu_vm/worker.sh", values, shell)}
    if job.config_file:
        files[CONFIG] = job.config_file.read_text()
    return files


def commands(job: LaunchJob, options: TpuVmOptions, folder: pathlib.Path) -> list[list[str]]:
    """Return the gcloud commands: create, copy, start, delete, with queries of the state between them.

    Args:
        job: The run.
        options: Flags of `tlx launch tpu-vm`.
        folder: Folder of the rendered files.

    Returns:
        Commands in order.
    """
    machines = Machines(job, options, folder)
    created = [machines.create(), machines.state_of(), *machines.copy(), machines.start()]
    if _builds(options):
        created.insert(0, build_command(folder))
    return created + ([] if options.keep else [machines.delete()])


class Machines:
    """gcloud commands for the machines of one run."""

    def __init__(self, job: LaunchJob, options: TpuVmOptions, folder: pathlib.Path):
        """Prepare the commands.

        Args:
            job: The run, whose name the machines get.
            options: Flags of `tlx launch tpu-vm`.
            folder: Folder of the rendered files.
        """
        self.name = job.name
        self._options = options
        self._folder = folder
        self._location = [f"--zone={options.zone}"]
        if options.project:
            self._location.append(f"--project={options.project}")
        self.nodes = [f"{job.name}-{i}" for i in range(options.slices)] if options.slices > 1 else [job.name]

    def create(self) -> list[str]:
        """Return the command that requests all slices in one request, which is granted as a whole."""
        options = self._options
        nodes = [f"--node-id={self.name}"]
        if options.slices > 1:
            nodes = [f"--node-count={options.slices}", f"--node-prefix={self.name}"]
        flags = [f"--accelerator-type={options.accelerator}", f"--runtime-version={options.runtime}"]
        if options.spot:
            flags.append("--spot")
        if options.service_account:
            flags.append(f"--service-account={options.service_account}")
        return [*self._queued("create"), *nodes, *flags]

    def state_of(self) -> list[str]:
        """Return the command that prints the request's state as one word."""
        return [*self._queued("describe"), "--format=value(state.state)"]

    def delete(self) -> list[str]:
        """Return the command that deletes the request and its machines."""
        return [*self._queued("delete"), "--force", "--quiet"]

    def copy(self) -> list[list[str]]:
        """Return the commands that create the run's folder on every worker and copy the files to it."""
        files = [str(self._folder / WORKER)]
        if (self._folder / CONFIG).exists():
            files.append(str(self._folder / CONFIG))
        if self._options.wheel:
            files.append(self._options.wheel)
        elif _builds(self._options):
            files.append(str(self._folder / wheel_name("")))
        folders = [self._ssh(node, f"mkdir -p {_FOLDER}") for node in self.nodes]
        base = ["gcloud", "compute", "tpus", "tpu-vm", "scp", *files]
        copies = [[*base, f"{node}:{_FOLDER}/", "--worker=all", *self._location] for node in self.nodes]
        return folders + copies

    def start(self, node: int = 0) -> list[str]:
        """Return the command that runs on all workers of a slice until the run has ended there."""
        return self._ssh(self.nodes[node], f"bash {_FOLDER}/{WORKER} run")

    def stop(self, node: int = 0) -> list[str]:
        """Return the command that asks all workers of a slice to save and exit."""
        return self._ssh(self.nodes[node], f"bash {_FOLDER}/{WORKER} stop")

    def _queued(self, verb: str) -> list[str]:
        return ["gcloud", "compute", "tpus", "queued-resources", verb, self.name, *self._location]

    def _ssh(self, node: str, command: str) -> list[str]:
        base = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node, "--worker=all", *self._location]
        return [*base, f"--command={command}"]


class RunMonitor:
    """Creates machines, starts the run and watches it; repeats after a preemption or a failure."""

    def __init__(self, machines: Machines, options: TpuVmOptions):
        """Prepare a monitor of a run that is not started yet."""
        self._machines = machines
        self._options = options
        self._stop_requested = threading.Event()

    def run(self) -> int:
        """Run until no restart follows; return the exit code of the process that ended first."""
        failures = 0
        code = PREEMPTED
        while not self._stop_requested.is_set():
            if not self._ready():
                break
            code = self._attempt()
            if self._stop_requested.is_set() or code == 0:
                break
            if self._state() != "ACTIVE":
                _say("the machines were preempted; requesting new ones")
                # Not a failure of the run, whatever its exit code was.
                continue
            decision = next_move(code)
            failures += decision.counts
            if not decision.again or failures > self._options.restarts:
                _say(f"{describe(code)}; not restarted")
                break
            _say(f"{describe(code)}; restarting ({failures} of {self._options.restarts})")
        if not self._options.keep:
            _call(self._machines.delete())
        return code

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT: the run saves and exits, and the machines are deleted."""
        if not self._stop_requested.is_set():
            _say("asking the run to save and exit")
            self._stop_requested.set()
            for node in range(len(self._machines.nodes)):
                subprocess.Popen(self._machines.stop(node))

    def _ready(self) -> bool:
        """Wait until the machines exist and have the files; return False if that failed or a stop was requested."""
        last_state = ""
        while not self._stop_requested.is_set():
            state = self._state()
            if state != last_state:
                _say(f"{self._machines.name}: {state}")
                last_state = state
            if state == "ACTIVE":
                return all(_call(command) == 0 for command in self._machines.copy())
            if state == "NOT_FOUND":
                if _call(self._machines.create()):
                    raise ConfigError("gcloud would not create the machines; its message is above")
            elif state in ("FAILED", "SUSPENDED"):
                _call(self._machines.delete())
            self._stop_requested.wait(self._options.poll_seconds)
        return False

    def _attempt(self) -> int:
        """Run once on all slices; return the exit code of the process that ended first."""
        ssh = [
            subprocess.Popen(
                self._machines.start(node),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            for node in range(len(self._machines.nodes))
        ]
        codes: list[int] = []
        readers = [
            threading.Thread(target=self._read, args=(process.stdout, codes), daemon=True) for process in ssh
        ]
        for reader in readers:
            reader.start()
        while any(process.poll() is None for process in ssh):
            for process in ssh:
                try:
                    process.wait(max(self._options.poll_seconds, 0.2) / len(ssh))
                except subprocess.TimeoutExpired:
                    pass
            if any(process.poll() is None for process in ssh) and self._state() in _GONE:
                # A connection to a machine that is gone may hang for hours.
                for process in ssh:
                    process.kill()
        for reader in readers:
            reader.join(timeout=5.0)
        return next((code for code in codes if code), 0 if codes else WATCHDOG)

    def _read(self, lines: Iterable[str], codes: list[int]) -> None:
        """Print the workers' lines and collect the exit codes that they report."""
        for line in lines:
            print(line, end="", flush=True)
            if report := _EXIT.search(line):
                codes.append(int(report[1]))
                if codes[-1] and not any(codes[:-1]):
                    _say(f"{report[2]} ended first ({describe(codes[-1])})")

    def _state(self) -> str:
        query = subprocess.run(self._machines.state_of(), capture_output=True, text=True)
        if query.returncode:
            return "NOT_FOUND" if "NOT_FOUND" in query.stderr else "UNKNOWN"
        return query.stdout.strip() or "UNKNOWN"


def run(job: LaunchJob, options: TpuVmOptions, folder: pathlib.Path) -> int:
    """Run until the end. A second launch of the same name finds the machines of the first.

    Args:
        job: The run.
        options: Flags of `tlx launch tpu-vm`.
        folder: Folder of the rendered files.

    Returns:
        Exit code of the process that ended first.

    Raises:
        ConfigError: there is no gcloud on this machine, it refuses to create the machines, or the wheel of the
            checkout cannot be built.
    """
    if shutil.which("gcloud") is None:
        raise ConfigError("there is no gcloud here; install Google's Cloud SDK")
    if _builds(options) and _call(build_command(folder)):
        raise ConfigError(
            "the wheel of this checkout could not be built (pip's message is above); give one with --wheel=FILE"
        )
    monitor = RunMonitor(Machines(job, options, folder), options)
    handlers = {
        number: signal.signal(number, monitor.ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return monitor.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _builds(options: TpuVmOptions) -> bool:
    """Return whether the launch builds the wheel that the workers install."""
    return not options.setup and not options.wheel


def _call(command: Sequence[str]) -> int:
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


def _say(text: str) -> None:
    print(f"launch | {text}", flush=True)


# A TPU VM has no file system that outlives it: the run's directory must be named.
CLUSTER = Cluster(TpuVmOptions, render, commands, run, (*_REQUIRED, "workdir"))
