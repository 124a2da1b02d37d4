"""Launch on SLURM: one batch script, which requeues itself if a restart helps."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess

from tlx.base import place as places
from tlx.base.compiler_settings import Hardware
from tlx.base.errors import RETRYABLE, ConfigError
from tlx.launch import settings
from tlx.launch.job import Cluster, LaunchJob, Raw, fill, shell

SCRIPT = "train.sbatch"


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """Flags of `tlx launch slurm`."""

    nodes: int = 1
    """Number of hosts."""
    tasks_per_node: int = 1
    """Processes of each host: 1, or one per GPU."""
    gpus_per_node: int = 0
    """GPUs of each host; 0: no --gpus-per-node directive."""
    time: str = "24:00:00"
    """Time limit of one start, in SLURM's format."""
    grace_seconds: int = 180
    """Seconds before the time limit at which the run is asked to save and exit."""
    restarts: int = 50
    """Largest number of requeues after failures; preemptions do not count."""
    partition: str = ""
    """Partition; empty: the cluster's default."""
    account: str = ""
    """Account; empty: your default."""
    sbatch: str = ""
    """Further sbatch options, as in '--qos=low --constraint=h100'."""
    python: str = ""
    """Command that starts tlx on the hosts instead of `tlx`, as in '/venv/bin/tlx'."""

    def validate(self) -> None:
        """Raise ConfigError for values that sbatch would refuse or misread."""
        for name, least in (("nodes", 1), ("tasks_per_node", 1), ("gpus_per_node", 0), ("grace_seconds", 30)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')}={getattr(self, name)} must be {least} or more")
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", self.time):
            raise ConfigError(f"--time={self.time} must be minutes, hours:minutes:seconds or days-hours")


def render(job: LaunchJob, options: SlurmOptions) -> dict[str, str]:
    """Return the batch script. Paths are absolute: hosts share the submitting host's file system."""
    workdir = places.absolute_text(job.workdir)
    words = job._replace(workdir=workdir).words(
        job.moved(str(job.config_file)) if job.config_file else job.config
    )
    program = shlex.split(options.python) or ["tlx"]
    lines = [f"#SBATCH --{name}={value}" for name, value in _extra(options).items()]
    lines += [f"#SBATCH {word}" for word in shlex.split(options.sbatch)]
    values = {
        "name": job.name,
        "nodes": options.nodes,
        "tasks_per_node": options.tasks_per_node,
        "time": options.time,
        "log": f"{job.log_folder}/slurm-%j.log",
        "grace_seconds": options.grace_seconds,
        "extra": Raw("\n".join(lines)),
        "environment": Raw(settings.exports(settings.variables(_target(options), job.settings, workdir))),
        "first": f"{job.log_folder}/first-exit",
        "command": Raw(shlex.join([*program, *words[1:]])),
        "again": Raw(" | ".join(map(str, RETRYABLE))),
        "restarts": options.restarts,
    }
    text = fill("slurm/train.sbatch", values, shell)
    return {SCRIPT: text.replace("\n\nset -euo", "\nset -euo") if not lines else text}


def commands(job: LaunchJob, options: SlurmOptions, folder: pathlib.Path) -> list[list[str]]:
    """Return the sbatch command.

    Args:
        job: The run.
        options: Flags of `tlx launch slurm`.
        folder: Folder of the rendered files.

    Returns:
        One command.
    """
    return [["sbatch", str(folder / SCRIPT)]]


def run(job: LaunchJob, options: SlurmOptions, folder: pathlib.Path) -> int:
    """Submit the script.

    Args:
        job: The run.
        options: Flags of `tlx launch slurm`.
        folder: Folder of the rendered files.

    Returns:
        Exit code of sbatch.

    Raises:
        ConfigError: there is no sbatch on this machine.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch here; run this on a login node of the cluster, or use --render=DIR"
        )
    # SLURM drops the log if its folder does not exist.
    job.log_folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(commands(job, options, folder)[0]).returncode


def _target(options: SlurmOptions) -> Hardware:
    """Return the kind of hardware; GPUs may be asked for by an option of sbatch."""
    return "gpu" if options.gpus_per_node or re.search(r"\bgpu", options.sbatch) else "cpu"


def _extra(options: SlurmOptions) -> dict[str, str | int]:
    """Return the directives that are left out of the script unless they have a value."""
    directives = {
        "gpus-per-node": options.gpus_per_node,
        "partition": options.partition,
        "account": options.account,
    }
    return {name: value for name, value in directives.items() if value}


CLUSTER = Cluster(SlurmOptions, render, commands, run)
