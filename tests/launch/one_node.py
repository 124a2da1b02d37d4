"""A SLURM of this one machine, for as long as a context lasts: munged, slurmctld and slurmd as root."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from tlx.launch.local import free_port

_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def why_not() -> str:
    """Empty where a cluster can be started here, else the reason."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not _find(name)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


@contextlib.contextmanager
def cluster():
    """Environment in which sbatch, srun, scontrol and scancel speak to the cluster."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="tlx-slurm-"))
    os.chmod(place, 0o755)
    (place / "state").mkdir()
    (place / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    conf = place / "slurm.conf"
    values = {"host": host, "place": place, "controller": free_port(), "daemon": free_port()}
    conf.write_text(_CONF.format(cpus=os.cpu_count(), **values))
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environ = {**os.environ, "SLURM_CONF": str(conf)}
    munge = [f"--{name}={place}/munge.{name.split('-')[0]}" for name in ("pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={place}/munge.socket", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]
    daemons = []
    try:
        for command in commands:
            log = open(place / f"{command[0]}.out", "w")
            command = [_find(command[0]), *command[1:]]
            daemons.append(
                subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
            )
            time.sleep(0.5)
        _wait_until_idle(environ, place)
        yield environ
    finally:
        for daemon in reversed(daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
        _kill_all_of(conf)
        shutil.rmtree(place, ignore_errors=True)


def _kill_all_of(conf):
    """What slurmd started outlives it: job steps that wait for a controller that has gone."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={conf}".encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _wait_until_idle(environ, place):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environ, capture_output=True, text=True)
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(place.glob("*.out")))
    raise RuntimeError(f"no idle node: {asked.stdout}{asked.stderr}\n{logs}")


def _find(name):
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
