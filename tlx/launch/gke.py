"""GKE: a JobSet, one Job a slice and one Pod a host. What xpk submits too."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess

from tlx.base.errors import OK, PREEMPTED, RETRYABLE, ConfigError
from tlx.launch.exits import MEANINGS
from tlx.launch.job import Cluster, LaunchJob, Raw, fill, option, yaml

FILE = "jobset.yaml"
PORT = 8476
_PLACE = "/config/config.py"
_LARGEST_CONFIG = 900_000  # bytes; a ConfigMap holds 1 MiB


@dataclasses.dataclass(frozen=True)
class GkeOptions:
    """Flags of `tlx launch gke`."""

    image: str = option("", "container image with tlx in it (launch/docker/Dockerfile), with tag or digest")
    claim: str = option(
        "", "PersistentVolumeClaim that all hosts can write (ReadWriteMany); mounted at /runs"
    )
    accelerator: str = option("", "as tpu-v5-lite-podslice or nvidia-h100-80gb; empty: CPU")
    topology: str = option("", "of a TPU slice, as 4x4 or 2x2x2")
    chips_per_host: int = option(4, "TPU chips or GPUs of each host")
    hosts: int = option(1, "hosts of each slice; of TPUs: chips of the topology / chips per host")
    slices: int = option(1, "slices; of GPUs 1")
    spot: bool = option(False, "on spot nodes")
    restarts: int = option(50, "restarts after failures; preemptions do not count")
    grace_seconds: int = option(300, "between SIGTERM and SIGKILL: time to save")
    secret: str = option("", "Kubernetes Secret whose entries become environment variables")
    queue: str = option("", "Kueue queue")
    namespace: str = option("", "namespace; empty: kubectl's own choice")

    def validate(self) -> None:
        """Raises ConfigError for what the API server would refuse, or take and never start."""
        for name in ("image", "claim"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is needed: {_help(name)}")
        last = self.image.rpartition("/")[2]
        if ":" not in last and "@" not in last or last.endswith(":latest"):
            raise ConfigError(
                f"--image={self.image} needs a tag other than latest, or a digest: hosts must agree"
            )
        least = {"hosts": 1, "slices": 1, "chips_per_host": 1, "restarts": 0, "grace_seconds": 30}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"--{name.replace('_', '-')}={getattr(self, name)} must be {value} or more")
        if self.accelerator.startswith("tpu") != bool(self.topology):
            raise ConfigError("--accelerator=tpu-... and --topology go together")
        if self.topology:
            self._check_topology()

    def _check_topology(self) -> None:
        if not re.fullmatch(r"\d+(x\d+){1,2}", self.topology):
            raise ConfigError(f"--topology={self.topology} must look like 4x4 or 2x2x2")
        chips = 1
        for size in self.topology.split("x"):
            chips *= int(size)
        if chips != self.hosts * self.chips_per_host:
            wanted = max(1, chips // self.chips_per_host)
            raise ConfigError(
                f"--topology={self.topology} has {chips} chips, {self.hosts} hosts of {self.chips_per_host} "
                f"chips each have {self.hosts * self.chips_per_host}; --hosts={wanted} would fit"
            )


def render(job: LaunchJob, options: GkeOptions) -> dict[str, str]:
    """The JobSet, and a ConfigMap with the config's file."""
    text = job.config_file.read_text() if job.config_file else "# the config comes with tlx\n"
    if len(text.encode()) > _LARGEST_CONFIG:
        raise ConfigError(f"{job.config_file} is larger than a ConfigMap; put it into the image")
    workdir = job.workdir if job.workdir.startswith("/") else f"/runs/{job.name}"
    words = job._replace(workdir=workdir).words(job.moved(_PLACE) if job.config_file else job.config)
    tpu, gpu = options.accelerator.startswith("tpu"), options.accelerator.startswith("nvidia")
    device = {"google.com/tpu": options.chips_per_host} if tpu else {}
    device = {"nvidia.com/gpu": options.chips_per_host} if gpu else device
    values = {
        "name": job.name,
        "labels": _flow({"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}),
        "restarts": options.restarts,
        "slices": options.slices,
        "hosts": options.hosts,
        "hopeless": _flow([code for code in MEANINGS if code not in (OK, PREEMPTED, *RETRYABLE)]),
        "grace_seconds": options.grace_seconds,
        "node_selector": _flow(_selector(options)),
        "tolerations": _flow(_tolerations(options, gpu)),
        "image": options.image,
        "command": _flow(words),
        "hosts_text": str(options.hosts),
        "coordinator": f"{job.name}-slice-0-0.{job.name}:{PORT}",
        "processes_text": str(options.hosts * options.slices),
        "grace_text": str(options.grace_seconds),
        "env_from": _flow([{"secretRef": {"name": options.secret}}] if options.secret else []),
        "resources": _flow({"limits": device} if device else {}),
        "claim": options.claim,
        "config_map": f"{job.name}-config",
        "config_text": text,
    }
    return {FILE: fill("gke/jobset.yaml", values, yaml)}


def commands(job: LaunchJob, options: GkeOptions, folder: pathlib.Path) -> list[list[str]]:
    """kubectl apply: starts it, or changes nothing where it runs already."""
    where = ["--namespace", options.namespace] if options.namespace else []
    return [["kubectl", *where, "apply", "-f", str(folder / FILE)]]


def run(job: LaunchJob, options: GkeOptions, folder: pathlib.Path) -> int:
    """Submits the JobSet."""
    if shutil.which("kubectl") is None:
        raise ConfigError(
            "there is no kubectl here; install it, or use --render=DIR and apply the file elsewhere"
        )
    return subprocess.run(commands(job, options, folder)[0]).returncode


def _selector(options: GkeOptions) -> dict[str, str]:
    chosen = {}
    if options.topology:
        chosen["cloud.google.com/gke-tpu-accelerator"] = options.accelerator
        chosen["cloud.google.com/gke-tpu-topology"] = options.topology
    elif options.accelerator:
        chosen["cloud.google.com/gke-accelerator"] = options.accelerator
    if options.spot:
        chosen["cloud.google.com/gke-spot"] = "true"
    return chosen


def _tolerations(options: GkeOptions, gpu: bool) -> list[dict[str, str]]:
    borne = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if gpu else []
    if options.spot:
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
        borne.append({**spot, "effect": "NoSchedule"})
    return borne


def _flow(value: list | dict) -> Raw:
    """A value in one line: JSON is YAML."""
    return Raw(json.dumps(value, ensure_ascii=False))


def _help(name: str) -> str:
    (found,) = [field for field in dataclasses.fields(GkeOptions) if field.name == name]
    return found.metadata["help"]


CLUSTER = Cluster(GkeOptions, render, commands, run)
