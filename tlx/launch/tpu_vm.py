"""TPU VMs: asks for them, starts the run on all hosts, and begins again when they are taken away."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from tlx.base.errors import PREEMPTED, WATCHDOG, ConfigError
from tlx.launch.exits import describe, next_move
from tlx.launch.job import Cluster, LaunchJob, Raw, fill, option, shell

WORKER = "worker.sh"
CONFIG = "config.py"
_FOLDER = "tlx-run"  # in the home of each worker
_EXIT = re.compile(r"tlx-exit (\d+) (\S+)")
_GONE = ("FAILED", "SUSPENDED", "SUSPENDING", "DELETING", "NOT_FOUND")


@dataclasses.dataclass(frozen=True)
class TpuVmOptions:
    """Flags of `tlx launch tpu-vm`."""

    accelerator: str = option("", "accelerator type, as v5litepod-64 or v6e-256")
    zone: str = option("", "zone, as us-west4-a")
    project: str = option("", "project; empty: gcloud's own choice")
    runtime: str = option("v2-alpha-tpuv5-lite", "runtime version of the VM image")
    slices: int = option(1, "slices, each of the accelerator type")
    spot: bool = option(False, "spot capacity: cheaper, taken away at any time")
    service_account: str = option("", "service account of the VMs")
    setup: str = option("pip install -q 'tlx-lm[tpu]'", "command on every worker before each start")
    restarts: int = option(50, "restarts after failures; preemptions do not count")
    grace_seconds: int = option(120, "time to save when asked to stop")
    poll_seconds: int = option(30, "seconds between looks at the state of the machines")
    keep: bool = option(False, "leave the machines there at the end (they cost money until deleted)")

    def validate(self) -> None:
        """Raises ConfigError naming the flag."""
        for name in ("accelerator", "zone"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is needed")
        least = {"slices": 1, "restarts": 0, "grace_seconds": 10, "poll_seconds": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"--{name.replace('_', '-')}={getattr(self, name)} must be {value} or more")


def render(job: LaunchJob, options: TpuVmOptions) -> dict[str, str]:
    """What every worker runs, and the config's file if it is the user's own."""
    if not job.workdir.startswith("/"):
        raise ConfigError(
            f"--workdir={job.workdir} must be an absolute path that all workers share, such as a bucket that "
            "--setup mounts; the disk of a TPU VM goes with the VM"
        )
    words = job.words(job.moved(CONFIG) if job.config_file else job.config)
    values = {
        "grace_seconds": options.grace_seconds,
        "setup": options.setup,
        "command": Raw(shlex.join(words)),
    }
    files = {WORKER: fill("tpu_vm/worker.sh", values, shell)}
    if job.config_file:
        files[CONFIG] = job.config_file.read_text()
    return files


def commands(job: LaunchJob, options: TpuVmOptions, folder: pathlib.Path) -> list[list[str]]:
    """Create, copy, start, delete; in between the state is asked for."""
    machines = Machines(job, options, folder)
    created = [machines.create(), machines.state_of(), *machines.copy(), machines.start()]
    return created + ([] if options.keep else [machines.delete()])


class Machines:
    """gcloud's words for the machines of one run."""

    def __init__(self, job: LaunchJob, options: TpuVmOptions, folder: pathlib.Path):
        self.name, self._options, self._folder = job.name, options, folder
        self._where = [f"--zone={options.zone}"]
        if options.project:
            self._where.append(f"--project={options.project}")
        self.nodes = [f"{job.name}-{i}" for i in range(options.slices)] if options.slices > 1 else [job.name]

    def create(self) -> list[str]:
        """Asks for all slices at once: all of them or none."""
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
        """Prints one word."""
        return [*self._queued("describe"), "--format=value(state.state)"]

    def delete(self) -> list[str]:
        """The request and its machines."""
        return [*self._queued("delete"), "--force", "--quiet"]

    def copy(self) -> list[list[str]]:
        """A folder for the run on every worker of every slice, and the files into it."""
        files = [str(self._folder / WORKER)]
        if (self._folder / CONFIG).exists():
            files.append(str(self._folder / CONFIG))
        made = [self._ssh(node, f"mkdir -p {_FOLDER}") for node in self.nodes]
        base = ["gcloud", "compute", "tpus", "tpu-vm", "scp", *files]
        copied = [[*base, f"{node}:{_FOLDER}/", "--worker=all", *self._where] for node in self.nodes]
        return made + copied

    def start(self, node: int = 0) -> list[str]:
        """Runs on all workers of a slice until the run has ended there."""
        return self._ssh(self.nodes[node], f"bash {_FOLDER}/{WORKER} run")

    def stop(self, node: int = 0) -> list[str]:
        """Asks all workers of a slice to save and leave."""
        return self._ssh(self.nodes[node], f"bash {_FOLDER}/{WORKER} stop")

    def _queued(self, verb: str) -> list[str]:
        return ["gcloud", "compute", "tpus", "queued-resources", verb, self.name, *self._where]

    def _ssh(self, node: str, command: str) -> list[str]:
        base = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node, "--worker=all", *self._where]
        return [*base, f"--command={command}"]


class Attendant:
    """Keeps one run going: create, wait, start, watch; again when the machines are taken or it failed."""

    def __init__(self, machines: Machines, options: TpuVmOptions):
        self._machines, self._options = machines, options
        self._asked = threading.Event()

    def run(self) -> int:
        """The exit code of the process that ended first, once no restart follows."""
        failures, code = 0, PREEMPTED
        while not self._asked.is_set():
            if not self._ready():
                break
            code = self._attempt()
            if self._asked.is_set() or code == 0:
                break
            if self._state() != "ACTIVE":
                _say("the machines were taken away; asking for new ones")
                continue  # free of charge, whatever the code was
            move = next_move(code)
            failures += move.counts
            if not move.again or failures > self._options.restarts:
                _say(f"{describe(code)}; not started again")
                break
            _say(f"{describe(code)}; starting again ({failures} of {self._options.restarts})")
        if not self._options.keep:
            _call(self._machines.delete())
        return code

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT: the run saves and leaves; the machines are given back."""
        if not self._asked.is_set():
            _say("asking the run to save and leave")
            self._asked.set()
            for node in range(len(self._machines.nodes)):
                subprocess.Popen(self._machines.stop(node))

    def _ready(self) -> bool:
        """Waits until the machines are there; False where that was given up."""
        shown = ""
        while not self._asked.is_set():
            state = self._state()
            if state != shown:
                _say(f"{self._machines.name}: {state}")
                shown = state
            if state == "ACTIVE":
                return all(_call(command) == 0 for command in self._machines.copy())
            if state == "NOT_FOUND":
                if _call(self._machines.create()):
                    raise ConfigError("gcloud would not create the machines; its message is above")
            elif state in ("FAILED", "SUSPENDED"):
                _call(self._machines.delete())
            self._asked.wait(self._options.poll_seconds)
        return False

    def _attempt(self) -> int:
        """Starts the run on all slices and waits for its end; the code of the process that ended first."""
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
        readers = [threading.Thread(target=self._read, args=(p.stdout, codes), daemon=True) for p in ssh]
        for reader in readers:
            reader.start()
        while any(process.poll() is None for process in ssh):
            for process in ssh:
                try:
                    process.wait(max(self._options.poll_seconds, 0.2) / len(ssh))
                except subprocess.TimeoutExpired:
                    pass
            if any(process.poll() is None for process in ssh) and self._state() in _GONE:
                for process in ssh:  # a connection to a machine that is gone may hang for hours
                    process.kill()
        for reader in readers:
            reader.join(timeout=5.0)
        return next((code for code in codes if code), 0 if codes else WATCHDOG)

    def _read(self, lines: Iterator[str], codes: list[int]) -> None:
        for line in lines:
            print(line, end="", flush=True)
            if found := _EXIT.search(line):
                codes.append(int(found[1]))
                if codes[-1] and not any(codes[:-1]):
                    _say(f"{found[2]} ended first ({describe(codes[-1])})")

    def _state(self) -> str:
        found = subprocess.run(self._machines.state_of(), capture_output=True, text=True)
        if found.returncode:
            return "NOT_FOUND" if "NOT_FOUND" in found.stderr else "UNKNOWN"
        return found.stdout.strip() or "UNKNOWN"


def run(job: LaunchJob, options: TpuVmOptions, folder: pathlib.Path) -> int:
    """Stays until the run is done, as a process that can itself be started again: the machines are found."""
    if shutil.which("gcloud") is None:
        raise ConfigError("there is no gcloud here; install Google's Cloud SDK")
    attendant = Attendant(Machines(job, options, folder), options)
    before = {
        number: signal.signal(number, attendant.ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return attendant.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _call(command: Sequence[str]) -> int:
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


def _say(text: str) -> None:
    print(f"launch | {text}", flush=True)


CLUSTER = Cluster(TpuVmOptions, render, commands, run)
