"""SLURM: one batch script, which queues itself again when a restart helps."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess

from tlx.base.errors import RETRYABLE, ConfigError
from tlx.launch.job import Cluster, LaunchJob, Raw, fill, option, shell

SCRIPT = "train.sbatch"


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """Flags of `tlx launch slurm`."""

    nodes: int = option(1, "hosts")
    tasks_per_node: int = option(1, "processes on each host: 1, or one per GPU")
    gpus_per_node: int = option(0, "GPUs of each host; 0: no --gpus-per-node line")
    time: str = option("24:00:00", "time limit of one start, as SLURM writes it")
    grace_seconds: int = option(180, "how long before the limit the run is told to save")
    restarts: int = option(50, "how often to queue again after a failure")
    partition: str = option("", "partition; empty: the cluster's own choice")
    account: str = option("", "account; empty: your own choice")
    sbatch: str = option("", "further sbatch options, as in '--qos=low --constraint=h100'")
    python: str = option("", "command that starts tlx there instead of `tlx`, as in '/venv/bin/tlx'")

    def validate(self) -> None:
        """Raises ConfigError for what sbatch would refuse, or take for something else."""
        for name, least in (("nodes", 1), ("tasks_per_node", 1), ("gpus_per_node", 0), ("grace_seconds", 30)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')}={getattr(self, name)} must be {least} or more")
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", self.time):
            raise ConfigError(f"--time={self.time} must be minutes, hours:minutes:seconds or days-hours")
        for name in ("partition", "account", "sbatch"):
            if "\n" in getattr(self, name):
                raise ConfigError(f"--{name} must be one line")


def render(job: LaunchJob, options: SlurmOptions) -> dict[str, str]:
    """The batch script. Paths are absolute: all nodes see the file system of the submitting host."""
    workdir = pathlib.Path(job.workdir).absolute()
    words = job._replace(workdir=str(workdir)).words(
        job.moved(str(job.config_file)) if job.config_file else job.config
    )
    start = shlex.split(options.python) or ["tlx"]
    lines = [f"#SBATCH --{name}={value}" for name, value in _extra(options).items()]
    lines += [f"#SBATCH {word}" for word in shlex.split(options.sbatch)]
    values = {
        "name": job.name,
        "nodes": options.nodes,
        "tasks_per_node": options.tasks_per_node,
        "time": options.time,
        "log": f"{workdir}/logs/slurm-%j.log",
        "grace_seconds": options.grace_seconds,
        "extra": Raw("\n".join(lines)),
        "first": f"{workdir}/logs/first-exit",
        "command": Raw(shlex.join([*start, *words[1:]])),
        "again": Raw(" | ".join(map(str, RETRYABLE))),
        "restarts": options.restarts,
    }
    text = fill("slurm/train.sbatch", values, shell)
    return {SCRIPT: text.replace("\n\nset -euo", "\nset -euo") if not lines else text}


def commands(job: LaunchJob, options: SlurmOptions, folder: pathlib.Path) -> list[list[str]]:
    """sbatch."""
    return [["sbatch", str(folder / SCRIPT)]]


def run(job: LaunchJob, options: SlurmOptions, folder: pathlib.Path) -> int:
    """Submits the script."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch here; run this on a login node of the cluster, or use --render=DIR"
        )
    (pathlib.Path(job.workdir) / "logs").mkdir(parents=True, exist_ok=True)  # or SLURM drops the log
    return subprocess.run(commands(job, options, folder)[0]).returncode


def _extra(options: SlurmOptions) -> dict[str, str | int]:
    """Directives that stand in the script only where they say something."""
    given = {
        "gpus-per-node": options.gpus_per_node,
        "partition": options.partition,
        "account": options.account,
    }
    return {name: value for name, value in given.items() if value}


CLUSTER = Cluster(SlurmOptions, render, commands, run)
