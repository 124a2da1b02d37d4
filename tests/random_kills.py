"""Runs that are killed at random moments and started again until they end: they must end as one that was not killed.

    python -m tests.random_kills workers --kills=100 --folder=DIR      a run with two data workers
    python -m tests.random_kills processes --kills=100 --folder=DIR    a run with two processes
    python -m tests.random_kills s3 --kills=100 --folder=DIR           the same, two devices each, in a bucket

DIR/kills.jsonl gets a line for each kill and for each comparison; the same command goes on from there, with a new run
where the bucket's server has ended. The run that is not killed is always in a folder.
"""

import argparse
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests import stores
from tests.cli import tiny
from tests.forked import Forks, wait_for_group
from tlx.base import place as places
from tlx.base import tree
from tlx.base.place import Place
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import reading
from tlx.launch.local import free_port

# Share of the kills that come before the first step of a start: in imports, compilation or restoring.
EARLY_FRACTION = 0.3
# Seconds in which the data workers of a killed trainer, and the other process of a killed one, must have ended.
GRACE_SECONDS = 1200.0

_WORDS = (
    "--config.checkpoint.every=5",
    "--config.log.print_every=1",
    "--config.eval.every=0",
    "--config.train.stall_seconds=3600",
)


class Kind(NamedTuple):
    """A way to train."""

    processes: int
    """Number of processes."""
    words: tuple[str, ...]
    """Flags of the config."""
    devices: int = 1
    """Number of devices of each process."""
    store: str = ""
    """Store in which the runs that are killed live, as tests/stores.py names it; "" has them in a folder."""


KINDS = {
    "workers": Kind(1, ("--config.data.workers=2",)),
    "processes": Kind(2, ("--config.mesh.data=2",)),
    "s3": Kind(2, ("--config.mesh.data=4",), devices=2, store="s3"),
}


class Start:
    """Processes of one start of a run."""

    def __init__(self, forks: Forks, kind: Kind, folder: pathlib.Path, workdir: Place, steps: int):
        words = ("train", f"--config={folder / 'tiny.py'}", f"--workdir={workdir}")
        words += (f"--config.train.steps={steps}",)
        coordinator = f"127.0.0.1:{free_port()}"
        self.began = time.monotonic()
        self.processes = []
        for index in range(kind.processes):
            # The address of a store and its keys are in this process' environment.
            environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            environ["JAX_NUM_CPU_DEVICES"] = str(kind.devices)
            if kind.processes > 1:
                environ["TLX_COORDINATOR"] = coordinator
                environ["TLX_NUM_PROCESSES"] = str(kind.processes)
                environ["TLX_PROCESS_ID"] = str(index)
            output = folder / f"{workdir.name}.p{index}.log"
            self.processes.append(forks.tlx(*words, *_WORDS, *kind.words, output=output, **environ))

    @property
    def output(self) -> str:
        """What all processes have said."""
        return "\n".join(process.output for process in self.processes)

    @property
    def last_step(self) -> int:
        """The last step that was told; 0 before the first."""
        steps = re.findall(r"^step (\d+)/", self.processes[0].output, re.MULTILINE)
        return int(steps[-1]) if steps else 0

    def wait_for_steps(self, seconds: float = math.inf) -> None:
        """Wait until the first step is trained, a process has ended, or so many seconds are over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.last_step:
            if any(process.poll() is not None for process in self.processes):
                return
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    def finish(self) -> None:
        """Wait for the end of the run; asserts that it ended well."""
        self.wait_for_all()
        assert all(process.returncode == 0 for process in self.processes), self.output

    def wait_for_all(self) -> None:
        """Wait for all processes, and for what they have started."""
        for process in self.processes:
            process.wait(GRACE_SECONDS)
        for process in self.processes:
            wait_for_group(process.pid, GRACE_SECONDS)


def kill(
    start: Start, rng: random.Random, start_seconds: float, step_seconds: float
) -> dict[str, Any] | None:
    """Kill one process of a start, or all of them, at a random moment, and wait for the others to end.

    Args:
        start: The processes.
        rng: Decides on moment and victims.
        start_seconds: Seconds that a start takes up to its first step.
        step_seconds: Most seconds from the first step on to a kill.

    Returns:
        The moment and the victims; None where the run ended first.
    """
    is_early = rng.random() < EARLY_FRACTION
    if is_early:
        start.wait_for_steps(rng.uniform(0, start_seconds))
    else:
        start.wait_for_steps()
        time.sleep(rng.uniform(0, step_seconds))
    if any(process.poll() is not None for process in start.processes):
        return None
    victims = [rng.randrange(len(start.processes))]
    if len(start.processes) > 1 and rng.random() < 1 / 3:
        victims = list(range(len(start.processes)))
    moment = time.monotonic() - start.began
    for index in victims:
        start.processes[index].kill()
    start.wait_for_all()
    # One may have come to its end meanwhile.
    assert any(process.returncode != 0 for process in start.processes), start.output
    return {
        "victims": victims,
        "seconds": round(moment, 2),
        "last_step": start.last_step,
        "exits": [process.returncode for process in start.processes],
    }


def fingerprint(workdir: Place, step: int) -> dict[str, Any]:
    """Return sha256 sums of parameters and of the rest of the state of a step, and the metrics."""
    folder = workdir / "checkpoints" / str(step)
    manifest = manifests.read(folder)
    manifests.verify(folder, manifest, "hash")
    leaves = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.dtype))
        for path, leaf in manifest.leaves.items()
    }
    arrays = tree.flatten(reading.load(folder, manifest, tree.unflatten(leaves)))
    sums = {path: hashlib.sha256(array.tobytes()).hexdigest() for path, array in sorted(arrays.items())}
    return {"state": sums, "metrics": tiny.metrics(workdir)}


class Kills:
    """Kills of runs of one kind; each run is compared with one that was not killed.

    Args:
        forks: Start the processes.
        kind: The kind.
        folder: Holds the runs and kills.jsonl, from which an earlier call is continued.
        steps: Steps of a run.
        kills_per_run: Kills after which a run is left to end.
        rng: Decides on moments and victims.
    """

    def __init__(
        self,
        forks: Forks,
        kind: Kind,
        folder: pathlib.Path,
        steps: int,
        kills_per_run: int,
        rng: random.Random,
    ):
        self._forks = forks
        self._kind = kind
        self._folder = folder
        self._steps = steps
        self._kills_per_run = kills_per_run
        self._rng = rng
        self._journal = folder / "kills.jsonl"
        self._runs: Place = places.parse(f"{stores.root(kind.store)}/kills" if kind.store else folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tiny.py").exists():
            tiny.write_config(folder)

    def lines(self, what: str) -> list[dict[str, Any]]:
        """Return the lines of kills.jsonl that say `what`: "uninterrupted", "kill" or "compared"."""
        if not self._journal.exists():
            return []
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    def run(self, kills: int) -> None:
        """Kill runs until there were so many kills, and compare each run once it has ended."""
        if not self.lines("uninterrupted"):
            self._run_uninterrupted()
        (whole,) = self.lines("uninterrupted")
        # A run that is killed so many times comes about halfway, and the last start has the other half to do.
        step_seconds = whole["step_seconds"] / self._kills_per_run
        while True:
            number = len(self.lines("compared"))
            all_kills = self.lines("kill")
            here = [line for line in all_kills if line["run"] == number]
            if len(all_kills) >= kills and not here:
                return
            start = self._start(self._runs / f"run-{number}")
            killed = None
            if len(all_kills) < kills and len(here) < self._kills_per_run:
                killed = kill(start, self._rng, whole["start_seconds"], step_seconds)
            if killed is None:
                start.finish()
            if killed is None:
                self._compare(number, len(here))
            else:
                self._note("kill", run=number, **killed)

    def _start(self, workdir: Place) -> Start:
        return Start(self._forks, self._kind, self._folder, workdir, self._steps)

    def _run_uninterrupted(self) -> None:
        shutil.rmtree(self._folder / "uninterrupted", ignore_errors=True)
        start = self._start(self._folder / "uninterrupted")
        start.wait_for_steps()
        start_seconds = time.monotonic() - start.began
        start.finish()
        step_seconds = time.monotonic() - start.began - start_seconds
        self._note("uninterrupted", start_seconds=start_seconds, step_seconds=step_seconds)

    def _compare(self, number: int, kills: int) -> None:
        """Compare a run that has ended with the uninterrupted one; AssertionError where they differ."""
        folder = self._runs / f"run-{number}"
        expected = fingerprint(self._folder / "uninterrupted", self._steps)
        result = fingerprint(folder, self._steps)
        assert len(expected["metrics"]) == self._steps and len(expected["state"]) > 10
        for name, value in expected.items():
            assert result[name] == value, f"{folder}: {name} differ from those of the uninterrupted run"
        self._note("compared", run=number, kills=kills)
        places.remove_tree(folder)

    def _note(self, what: str, **values: Any) -> None:
        with self._journal.open("a") as handle:
            handle.write(json.dumps({"what": what, "time": time.strftime("%FT%T"), **values}) + "\n")


def main() -> None:
    """Run kills as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kills-per-run", type=int, default=10)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()
    seed = time.time_ns()
    print(f"seed {seed}", flush=True)
    with Forks() as forks:
        kills = Kills(
            forks,
            KINDS[options.kind],
            options.folder,
            options.steps,
            options.kills_per_run,
            random.Random(seed),
        )
        kills.run(options.kills)


if __name__ == "__main__":
    main()
