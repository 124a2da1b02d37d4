"""Experiment trackers: TensorBoard and Weights & Biases. Whatever happens to them, training goes on."""

import importlib
import importlib.util
import pathlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError
from tlx.base.files import cache_folder, sha256_json
from tlx.base.place import BucketPath, Place
from tlx.training.config import LogConfig

# Writes values of a step: {kind/name: number}, and texts of samples.
Write = Callable[[int, Mapping[str, float | str]], None]

# Lines that may wait for a slow tracker; more are dropped.
_QUEUE_SIZE = 1000


class Trackers:
    """Hands metrics to every tracker on a thread of its own; one that raises is reported and left out."""

    def __init__(self, writers: Mapping[str, Write], report: Callable[[str], None] = print):
        self._writers = dict(writers)
        self._report = report
        self._queue: queue.Queue = queue.Queue(_QUEUE_SIZE)
        self._thread = threading.Thread(target=self._work, daemon=True, name="trackers")
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Queue {kind/name: value}; never waits.

        Args:
            step: steps done.
            values: metrics by name.
            kind: "train", "validation" or "final".
        """
        self._put(step, {f"{kind}/{name}": value for name, value in values.items()})

    def samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Queue texts that the model wrote, {"samples/0": text ...}; never waits."""
        texts = {}
        for number, sample in enumerate(samples):
            lines = (f"{name}: {value}" for name, value in sample.items())
            texts[f"samples/{number}"] = "\n\n".join(lines)
        self._put(step, texts)

    def close(self, seconds: float = 10.0) -> None:
        """Let the queue be written, for so many seconds at most. May be called again."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _put(self, step: int, values: Mapping[str, float | str]) -> None:
        try:
            self._queue.put_nowait((step, values))
        except queue.Full:
            pass

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            for name, write in list(self._writers.items()):
                try:
                    write(*item)
                except Exception as error:
                    del self._writers[name]
                    self._report(f"{name} failed and is left out from now on: {error!r}")


def check_installed(config: LogConfig) -> None:
    """Raise ConfigError where the config asks for a tracker whose package is not installed."""
    asked = []
    if config.tensorboard:
        asked.append((f"log.tensorboard = {config.tensorboard}", "tensorboardX"))
    if config.wandb_project is not None:
        asked.append((f"log.wandb_project = {config.wandb_project!r}", "wandb"))
    missing = [f"{field} needs the package {package}" for field, package in asked if not _installed(package)]
    if missing:
        raise ConfigError(
            f"{'; '.join(missing)}, which is not installed: pip install 'tlx-lm[tracking]', or set it to None"
        )


def start_trackers(config: LogConfig, workdir: Place, name: str, settings: Mapping[str, Any]) -> Trackers:
    """Start the trackers that the config asks for and that are installed.

    Args:
        config: which trackers.
        workdir: run directory; trackers write into it.
        name: name of the run.
        settings: the run's config as nested dicts, shown beside the run.

    Returns:
        The trackers; one that cannot be started is reported on stderr and left out.
    """
    makers: dict[str, Callable[[], Write]] = {}
    if config.tensorboard is not False and _installed("tensorboardX"):
        if isinstance(workdir, BucketPath):
            # tensorboardX appends to its files, which no bucket can: they stay on this machine.
            folder = cache_folder() / "tensorboard" / sha256_json(str(workdir))[:12]
            _to_stderr(f"TensorBoard's files of {workdir} are in {folder}")
        else:
            folder = workdir / "tensorboard"
        makers["TensorBoard"] = lambda: _tensorboard(folder)
    project = config.wandb_project
    if project is not None:
        makers["Weights & Biases"] = lambda: _wandb(project, workdir, name, settings)
    writers = {}
    for label, make in makers.items():
        try:
            writers[label] = make()
        except Exception as error:
            _to_stderr(f"{label} cannot be used: {error!r}")
    return Trackers(writers, _to_stderr)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a stand-in without a spec, or None, in sys.modules
        return sys.modules.get(package) is not None


def _tensorboard(folder: pathlib.Path) -> Write:
    """A writer through tensorboardX."""
    writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder))

    def write(step: int, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            if isinstance(value, str):
                writer.add_text(name, value, step)
            else:
                writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(project: str, workdir: Place, name: str, settings: Mapping[str, Any]) -> Write:
    """A writer to wandb; its key comes from the environment and is never in a config."""
    wandb = importlib.import_module("wandb")
    run = wandb.init(
        project=project,
        dir=str(cache_folder() if isinstance(workdir, BucketPath) else workdir),
        name=name,
        id=_tracker_id(workdir),
        resume="allow",
        config=dict(settings),
    )

    def write(step: int, values: Mapping[str, float | str]) -> None:
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        texts = [[name, value] for name, value in values.items() if isinstance(value, str)]
        table = {"samples": wandb.Table(columns=["sample", "text"], data=texts)} if texts else {}
        run.log({**numbers, **table}, step=step)

    return write


def _tracker_id(workdir: Place) -> str:
    """Return an id of the run that is the same after a resume."""
    place = workdir if isinstance(workdir, BucketPath) else workdir.resolve()
    return sha256_json(str(place))[:12]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
