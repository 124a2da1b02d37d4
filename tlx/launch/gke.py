"""Launch on GKE: a JobSet with one Job per slice and one Pod per host, as xpk submits."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

from tlx.base import place as places
from tlx.base.chips import chip_name
from tlx.base.compiler_settings import Hardware
from tlx.base.errors import OK, PREEMPTED, RETRYABLE, ConfigError
from tlx.launch import settings
from tlx.launch.exits import MEANINGS
from tlx.launch.job import Cluster, LaunchJob, Raw, check_given, fill, yaml

FILE = "jobset.yaml"
PORT = 8476
_REQUIRED = ("image",)
_CONFIG_PATH = "/config/config.py"
# Folders of a node that may belong to the run's user: with one of the system's the node would break.
_NODE_FOLDER = re.compile(r"/(mnt|dev/shm|data|scratch)(/(?!\.)[A-Za-z0-9._-]+)+")
# Where such a folder is mounted.
_NODE_MOUNT = "/node"
_LOCAL_FOLDER = "--config.checkpoint.local_folder"
# Bytes; a ConfigMap holds 1 MiB.
_LARGEST_CONFIG = 900_000


@dataclasses.dataclass(frozen=True)
class GkeOptions:
    """Flags of `tlx launch gke`."""

    image: str = ""
    """Container image with tlx in it (launch/docker/Dockerfile), with tag or digest."""
    claim: str = ""
    """PersistentVolumeClaim that all hosts can write (ReadWriteMany), mounted at /runs; not needed where --workdir is
    in a bucket."""
    node_folder: str = ""
    """Folder of each node, as /mnt/disks/ssd0/tlx of a local SSD or /dev/shm/tlx, for checkpoint.local_every: what a
    pod has of its own ends with the pod. The namespace must allow hostPath volumes."""
    service_account: str = ""
    """Kubernetes service account, whose Workload Identity may read and write the buckets; empty: default."""
    accelerator: str = ""
    """Accelerator, as tpu-v5-lite-podslice or nvidia-h100-80gb; empty: CPU."""
    topology: str = ""
    """Topology of a TPU slice, as 4x4 or 2x2x2."""
    chips_per_host: int = 4
    """TPU chips or GPUs of each host."""
    hosts: int = 1
    """Hosts of each slice; for TPUs: chips of the topology / chips per host."""
    slices: int = 1
    """Number of slices; 1 for GPUs."""
    spot: bool = False
    """Use spot nodes."""
    restarts: int = 50
    """Largest number of restarts after failures; preemptions do not count."""
    grace_seconds: int = 300
    """Seconds between SIGTERM and SIGKILL, in which the run saves."""
    secret: str = ""
    """Kubernetes Secret whose entries become environment variables."""
    queue: str = ""
    """Kueue queue; empty: none."""
    namespace: str = ""
    """Namespace; empty: kubectl's default."""

    def validate(self) -> None:
        """Raise ConfigError for values that the API server would refuse, or accept and never start."""
        check_given(self, _REQUIRED)
        if self.node_folder and not _NODE_FOLDER.fullmatch(self.node_folder):
            raise ConfigError(
                f"--node-folder={self.node_folder} must be an absolute path of the nodes below /mnt, /dev/shm, "
                "/data or /scratch, such as /mnt/disks/ssd0/tlx: the run's user becomes its owner"
            )
        image = self.image.rpartition("/")[2]
        if ":" not in image and "@" not in image or image.endswith(":latest"):
            raise ConfigError(
                f"--image={self.image} needs a tag other than latest, or a digest: hosts must agree"
            )
        minimum = {"hosts": 1, "slices": 1, "chips_per_host": 1, "restarts": 0, "grace_seconds": 30}
        for name, value in minimum.items():
            if getattr(self, name) < value:
                raise ConfigError(f"--{name.replace('_', '-')}={getattr(self, name)} must be {value} or more")
        if self.accelerator.startswith("tpu") != bool(self.topology):
            raise ConfigError("--accelerator=tpu-... and --topology go together")
        if self.topology:
            self._check_topology()

    def _check_topology(self) -> None:
        """Raise ConfigError unless hosts and chips per host fit the topology."""
        if not re.fullmatch(r"\d+(x\d+){1,2}", self.topology):
            raise ConfigError(f"--topology={self.topology} must look like 4x4 or 2x2x2")
        chips = 1
        for size in self.topology.split("x"):
            chips *= int(size)
        if chips != self.hosts * self.chips_per_host:
            hosts = max(1, chips // self.chips_per_host)
            raise ConfigError(
                f"--topology={self.topology} has {chips} chips, {self.hosts} hosts of {self.chips_per_host} "
                f"chips each have {self.hosts * self.chips_per_host}; --hosts={hosts} would fit"
            )


def render(job: LaunchJob, options: GkeOptions) -> dict[str, str]:
    """Return the JobSet, and a ConfigMap with the config's file."""
    text = job.config_file.read_text() if job.config_file else "# the config comes with tlx\n"
    if len(text.encode()) > _LARGEST_CONFIG:
        raise ConfigError(f"{job.config_file} is larger than a ConfigMap; put it into the image")
    in_bucket = places.is_bucket(job.workdir)
    if not in_bucket:
        check_given(options, ("claim",))
    workdir = job.workdir if in_bucket or job.workdir.startswith("/") else f"/runs/{job.name}"
    job = job._replace(workdir=workdir, overrides=_overrides(job, options))
    words = job.words(job.moved(_CONFIG_PATH) if job.config_file else job.config)
    is_gpu = options.accelerator.startswith("nvidia")
    limits = {}
    if options.accelerator.startswith("tpu"):
        limits = {"google.com/tpu": options.chips_per_host}
    elif is_gpu:
        limits = {"nvidia.com/gpu": options.chips_per_host}
    values = {
        "name": job.name,
        "labels": _flow({"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}),
        "restarts": options.restarts,
        "slices": options.slices,
        "hosts": options.hosts,
        "fatal": _flow([code for code in MEANINGS if code not in (OK, PREEMPTED, *RETRYABLE)]),
        "grace_seconds": options.grace_seconds,
        "node_selector": _flow(_selector(options)),
        "tolerations": _flow(_tolerations(options, is_gpu)),
        "image": options.image,
        "command": _flow(words),
        "hosts_text": str(options.hosts),
        "coordinator": f"{job.name}-slice-0-0.{job.name}:{PORT}",
        "processes_text": str(options.hosts * options.slices),
        "grace_text": str(options.grace_seconds),
        "environment": Raw(_environment(job, options, workdir)),
        "env_from": _flow([{"secretRef": {"name": options.secret}}] if options.secret else []),
        "resources": _flow({"limits": limits} if limits else {}),
        "service_account": options.service_account or "default",
        "init_containers": _flow(_init_containers(options)),
        "runs_volume": _flow({"name": "runs", **_runs_volume(options)}),
        "node_mount": Raw(_block("mountPath", _NODE_MOUNT, 14) if options.node_folder else ""),
        "node_volume": Raw(_block("hostPath", _host_path(options), 12) if options.node_folder else ""),
        "config_map": f"{job.name}-config",
        "config_text": text,
    }
    return {FILE: fill("gke/jobset.yaml", values, yaml)}


def _overrides(job: LaunchJob, options: GkeOptions) -> tuple[str, ...]:
    """Return the overrides of the config, with the mounted folder of the node among them.

    Raises ConfigError where the run saves to its hosts and no folder of the nodes is mounted, or another is named.
    """
    if not options.node_folder:
        if job.saves_to_hosts:
            raise ConfigError(
                "config.checkpoint.local_every saves to the hosts, and what a pod has of its own ends with the pod: "
                "--node-folder=/mnt/disks/ssd0/tlx (a local SSD of the nodes) or /dev/shm/tlx is needed"
            )
        return job.overrides
    if any(word.startswith(f"{_LOCAL_FOLDER}=") for word in job.overrides):
        raise ConfigError(f"{_LOCAL_FOLDER} is {_NODE_MOUNT}, where --node-folder is mounted: leave it out")
    return (*job.overrides, f"{_LOCAL_FOLDER}={_NODE_MOUNT}")


def _init_containers(options: GkeOptions) -> list[dict[str, Any]]:
    """Return the container that makes the run's user the owner of the node's folder, which Kubernetes creates."""
    if not options.node_folder:
        return []
    security = {
        "runAsNonRoot": False,
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
    }
    container = {
        "name": "node-folder",
        "image": options.image,
        "command": ["chown", "1000:1000", _NODE_MOUNT],
        "securityContext": security,
        "volumeMounts": [{"name": "node", "mountPath": _NODE_MOUNT}],
    }
    return [container]


def _runs_volume(options: GkeOptions) -> dict[str, Any]:
    """Return the volume at /runs: the claim, or of a run in a bucket the caches of a pod."""
    return {"persistentVolumeClaim": {"claimName": options.claim}} if options.claim else {"emptyDir": {}}


def _host_path(options: GkeOptions) -> dict[str, str]:
    return {"path": options.node_folder, "type": "DirectoryOrCreate"}


def _block(key: str, value: Any, indent: int) -> str:
    """Return a further entry "node" of a list in YAML, on lines of its own."""
    space = " " * indent
    return f"\n{space}- name: node\n{space}  {key}: {json.dumps(value)}"


def commands(job: LaunchJob, options: GkeOptions, folder: pathlib.Path) -> list[list[str]]:
    """Return the kubectl command, which starts the run, or changes nothing if it runs already.

    Args:
        job: The run.
        options: Flags of `tlx launch gke`.
        folder: Folder of the rendered files.

    Returns:
        One command.
    """
    namespace = ["--namespace", options.namespace] if options.namespace else []
    return [["kubectl", *namespace, "apply", "-f", str(folder / FILE)]]


def run(job: LaunchJob, options: GkeOptions, folder: pathlib.Path) -> int:
    """Submit the JobSet.

    Args:
        job: The run.
        options: Flags of `tlx launch gke`.
        folder: Folder of the rendered files.

    Returns:
        Exit code of kubectl.

    Raises:
        ConfigError: there is no kubectl on this machine.
    """
    if shutil.which("kubectl") is None:
        raise ConfigError(
            "there is no kubectl here; install it, or use --render=DIR and apply the file elsewhere"
        )
    return subprocess.run(commands(job, options, folder)[0]).returncode


def _environment(job: LaunchJob, options: GkeOptions, workdir: str) -> str:
    """Return the lines of `env` with the settings of the hardware."""
    target: Hardware = "cpu"
    if options.topology:
        target = "tpu-slices" if options.slices > 1 else "tpu"
    elif options.accelerator:
        target = "gpu"
    chosen = settings.variables(target, job.settings, workdir, chip_name(options.accelerator))
    return "\n              ".join(
        f"- name: {variable.name}\n                value: {yaml(variable.value)}" for variable in chosen
    )


def _selector(options: GkeOptions) -> dict[str, str]:
    selector = {}
    if options.topology:
        selector["cloud.google.com/gke-tpu-accelerator"] = options.accelerator
        selector["cloud.google.com/gke-tpu-topology"] = options.topology
    elif options.accelerator:
        selector["cloud.google.com/gke-accelerator"] = options.accelerator
    if options.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    return selector


def _tolerations(options: GkeOptions, is_gpu: bool) -> list[dict[str, str]]:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if is_gpu else []
    if options.spot:
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
        tolerations.append({**spot, "effect": "NoSchedule"})
    return tolerations


def _flow(value: list | dict) -> Raw:
    """Write a value in one line as JSON, which is YAML too."""
    return Raw(json.dumps(value, ensure_ascii=False))


CLUSTER = Cluster(GkeOptions, render, commands, run, _REQUIRED)
