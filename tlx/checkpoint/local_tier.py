"""The emergency tier: frequent saves of a run's shards to the memory or disks of its own hosts.

Each process writes the slices that its devices hold (local_files). Where no process on another disk holds the same
ones, as a replica does, it sends its file to a process on another disk (local_exchange). After a restart each
process needs the slices of its devices: a step is whole where, for each process, some host still has a file of them.
The newest whole step is restored unless a complete checkpoint is newer; where none is whole, the run resumes from the
checkpoints.

All processes call every method, on the main thread and in the same order.
"""

import logging
import os
import pathlib
import secrets
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.base import place as places
from tlx.base import tree as trees_by_path
from tlx.base.errors import ConfigError, StorageError
from tlx.base.memory import size_text
from tlx.checkpoint import local_files
from tlx.checkpoint.config import CheckpointConfig
from tlx.checkpoint.local_exchange import Peer, ShardServer
from tlx.checkpoint.local_files import SavedStep
from tlx.checkpoint.manifest import Damaged
from tlx.checkpoint.reading import LoadedCheckpoint
from tlx.parallel import consensus
from tlx.parallel.process import own_address

# Space that the tier needs, over the bytes that a host holds of one step: the step before, the one being written, and
# a margin.
ROOM_FACTOR = 2.2
_DISK = "disk"

log = logging.getLogger("tlx")


class _Process(NamedTuple):
    """A process of the run, as the others know it."""

    key: str
    """Hash of the slices that its devices hold."""
    num_bytes: int
    """Their bytes."""
    disk: str
    """Id of the disk or memory that its folder is on."""
    address: str
    """Address of its host."""
    port: int
    """Port of its server."""
    files: frozenset[tuple[SavedStep, str]]
    """Steps and keys of the files in its folder."""


class LocalTier:
    """Saves to, and restores from, the folders of the hosts.

    Args:
        config: checkpoint.local_every, 0 for no tier, and checkpoint.local_folder.
        abstract: The tree of a checkpoint, as ShapeDtypeStructs with shardings.
        on_event: Called as on_event(kind, **fields) for events.jsonl. Kinds: local_restored, local_failed.
    """

    def __init__(self, config: CheckpointConfig, abstract: Any, on_event: Callable[..., None]):
        self.every = config.local_every
        self._root = config.local_folder
        self._abstract = abstract
        self._event = on_event
        self._pieces = local_files.pieces_of(abstract) if self.every else []
        self._folder: pathlib.Path | None = None
        self._server: ShardServer | None = None
        self._processes: list[_Process] = []
        self._peers: list[Peer] = []
        self._start = ""
        self._serial = 0
        # The newest step that all processes have saved, and the one that they are saving.
        self._whole: SavedStep | None = None
        self._job: _Job | None = None

    def __enter__(self) -> "LocalTier":
        return self

    def __exit__(self, *_: object) -> None:
        # A save in flight is not waited for: its step is not whole, and the other side may be gone.
        if self._server is not None:
            self._server.close()
            self._server = None

    def due(self, step: int) -> bool:
        """Return whether the config asks for a save to the hosts after `step` steps."""
        return self.every > 0 and step % self.every == 0

    def restore(self, run_id: str, starts: Sequence[str], newest: int | None) -> LoadedCheckpoint | None:
        """Restore the newest whole step that is no older than the newest checkpoint.

        Args:
            run_id: Id of the run.
            starts: Ids of its earlier starts in this directory, the oldest first. Counts on process 0, as `run_id`.
            newest: The newest complete checkpoint; None: there is none.

        Returns:
            The step, on the devices, or None where there is none that can be used; a line says so where some of it
            was left.
        """
        if not self.every:
            return None
        known = consensus.gather_json([list(starts), -1 if newest is None else newest])[0]
        self._open(run_id)
        refused = []
        for saved in _newest_first(self._processes, known[0]):
            if saved.step < known[1]:
                continue
            lost = [
                str(i) for i, process in enumerate(self._processes) if not self._holders(saved, process.key)
            ]
            if lost:
                refused.append(f"step {saved.step}: the shards of processes {', '.join(lost)} are on no host")
                continue
            loaded = self._load(saved)
            if loaded is not None:
                self._whole = saved  # stays until the next one is whole
                self._event("local_restored", step=saved.step, checkpoint=newest)
                return loaded
            refused.append(f"step {saved.step}: its files are damaged")
        if refused and jax.process_index() == 0:
            log.warning("the copies on the hosts are not used: %s", "; ".join(refused))
        return None

    def begin(self, run_id: str, start: str, step: int) -> None:
        """Prepare to save: remove what no restart may use any more.

        Args:
            run_id: Id of the run. Counts on process 0, as `start`.
            start: Id of this start.
            step: The step that the run begins from, or goes on from.

        Raises:
            StorageError: A host's folder cannot be written, or has too little room (exit code 73).
        """
        if not self.every:
            return
        self._open(run_id)
        self._start = consensus.gather_json(start)[0]
        self._check_room()
        self._remove(lambda saved: saved.step > step)

    def save(self, step: int, tree: Any, extra: Mapping[str, Any]) -> None:
        """Copy this process' slices to the host and start to write and to send them; the arrays may be donated.

        Waits for the save before it. One that fails is told in a line, and training goes on.

        Args:
            step: The step.
            tree: The arrays, in the structure of `abstract`.
            extra: JSON that is stored with them.
        """
        self._settle()
        assert self._folder is not None
        saved = SavedStep(step, self._start, self._serial)
        # What other processes have of this step may come before this one has begun it.
        self._remove(lambda other: other not in (saved, self._whole))
        shards = local_files.to_host(tree, self._pieces)
        me = jax.process_index()
        path = self._folder / saved.name / self._processes[me].key
        writes = _writers(self._processes)[me]
        receiver = _receivers(self._processes)[me]
        peer = None if receiver is None else self._peers[receiver]
        self._job = _Job(saved, path, shards if writes else None, dict(extra), peer)

    def go_back(self, step: int) -> None:
        """Forget the steps after `step`, from which the run goes on that had been further."""
        if not self.every:
            return
        self._settle()
        self._serial += 1
        self._remove(lambda saved: saved.step > step)
        if self._whole is not None and self._whole.step > step:
            self._whole = None

    def finish(self) -> None:
        """Remove the run's files from the hosts: it has ended, and its last step is in the checkpoints."""
        if not self.every:
            return
        self._settle()
        # No other process is still sending.
        consensus.all_processes(True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self, run_id: str) -> None:
        """Meet the other processes: folders, disks, addresses and files of each."""
        if self._server is not None:
            return
        run_id, token = consensus.gather_json([run_id, secrets.token_hex(16)])[0]
        problem = ""
        disk = ""
        try:
            folder = folder_of(self._root, run_id)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            disk = _disk_id(folder)
            self._folder = folder
        except (OSError, ConfigError) as error:
            problem = str(error)
        address = own_address()
        facts = consensus.gather_json([problem, disk, address])
        _raise_problems([fact[0] for fact in facts])
        assert self._folder is not None
        others = [fact[2] for fact in facts if not _is_loopback(fact[2])]
        if _is_loopback(address) and others:
            # Some systems know their own name as 127.0.1.1.
            address = own_address(others[0])
        for leftover in self._folder.glob(f"*/{local_files.INCOMING}*"):
            leftover.unlink(missing_ok=True)
        self._server = ShardServer(address, self._folder, token)
        files = local_files.listing(self._folder)
        known = consensus.gather_json(
            {
                "key": local_files.key_of(self._pieces),
                "bytes": sum(piece.num_bytes for piece in self._pieces),
                "disk": disk,
                "address": address,
                "port": self._server.port,
                "files": [[saved.name, key] for saved, key in files],
            }
        )
        self._processes = [_process(fact) for fact in known]
        self._peers = [Peer(process.address, process.port, token) for process in self._processes]

    def _check_room(self) -> None:
        """Raise StorageError on all processes where a host has no room for two steps."""
        assert self._folder is not None
        wanted = int(ROOM_FACTOR * _bytes_on_disk(self._processes, jax.process_index()))
        used = sum(path.stat().st_size for path in self._folder.glob("*/*") if path.is_file())
        free = places.free_bytes(self._folder) + used
        problem = ""
        if free < wanted:
            problem = (
                f"{self._folder} has {size_text(free)} free; two steps and a margin take {size_text(wanted)}"
            )
        _raise_problems(consensus.gather_json(problem))

    def _holders(self, saved: SavedStep, key: str) -> list[int]:
        """Return the processes whose folder has the file."""
        return [i for i, process in enumerate(self._processes) if (saved, key) in process.files]

    def _load(self, saved: SavedStep) -> LoadedCheckpoint | None:
        """Read this process' slices, from its own folder or another host; None where one process cannot."""
        assert self._folder is not None
        me = jax.process_index()
        key = self._processes[me].key
        path = self._folder / saved.name / key
        holders = sorted(
            self._holders(saved, key), key=lambda i: self._processes[i].disk != self._processes[me].disk
        )
        content = None
        for holder in holders:
            try:
                if self._processes[holder].disk != self._processes[me].disk:
                    self._peers[holder].fetch(path)
                content = local_files.read(path, self._pieces)
                break
            except (OSError, Damaged) as error:
                log.warning("copy of step %d on the host of process %d: %s", saved.step, holder, error)
        if not consensus.all_processes(content is not None):
            return None
        assert content is not None
        shards, extra = content
        return LoadedCheckpoint(saved.step, _to_devices(self._abstract, self._pieces, shards), extra)

    def _settle(self) -> None:
        """Wait for the save in flight and learn whether all processes have made it."""
        job = self._job
        self._job = None
        if job is None:
            return
        job.thread.join()
        if job.error is not None:
            log.warning(
                "step %d not saved to the hosts by process %d (%s); the one before stays",
                job.saved.step,
                jax.process_index(),
                job.error,
            )
            self._event("local_failed", step=job.saved.step, reason=str(job.error))
        if consensus.all_processes(job.error is None):
            self._whole = job.saved

    def _remove(self, doomed: Callable[[SavedStep], bool]) -> None:
        assert self._folder is not None
        for folder in self._folder.glob("*-*-*"):
            saved = local_files.parse_name(folder.name)
            if saved is not None and doomed(saved):
                # Processes that share a disk may both be at it.
                shutil.rmtree(folder, ignore_errors=True)


class _Job:
    """A save of one process that `thread` completes; `error` is None once it has, if it succeeded.

    Args:
        saved: The step.
        path: File of this process' slices.
        shards: The slices; None where another process on this disk writes the same.
        extra: JSON that is stored with them.
        peer: The process that gets a copy; None: replicas hold them.
    """

    def __init__(
        self,
        saved: SavedStep,
        path: pathlib.Path,
        shards: list[np.ndarray] | None,
        extra: dict[str, Any],
        peer: Peer | None,
    ):
        self.saved = saved
        self.error: Exception | None = None
        self._path = path
        self._shards = shards
        self._extra = extra
        self._peer = peer
        self.thread = threading.Thread(target=self._run, name=f"local-copies-{saved.step}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            if self._shards is not None:
                local_files.write(self._path, self.saved, self._shards, self._extra)
                if self._peer is not None:
                    self._peer.send(self._path)
        # Whatever it is, the other processes must learn that this step is not whole.
        except Exception as error:
            self.error = error
        self._shards = None


def folder_of(root: str, run_id: str) -> pathlib.Path:
    """Return this host's folder of a run; ConfigError where its name has a variable that is not set."""
    expanded = os.path.expanduser(os.path.expandvars(root))
    if "$" in expanded:
        raise ConfigError(
            f"config.checkpoint.local_folder = {root!r}: the environment lacks a variable of it"
        )
    return pathlib.Path(expanded).absolute() / run_id


def _disk_id(folder: pathlib.Path) -> str:
    """Return a random text that all processes which see this folder read, and no others."""
    path = folder / _DISK
    temporary = folder / f".{_DISK}-{uuid.uuid4().hex}"
    temporary.write_text(temporary.name)
    try:
        # Fails where another process was first, at once and for one of them only.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_text()


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _process(fact: Mapping[str, Any]) -> _Process:
    named = [(local_files.parse_name(name), key) for name, key in fact["files"]]
    files = frozenset((saved, key) for saved, key in named if saved is not None)
    return _Process(fact["key"], fact["bytes"], fact["disk"], fact["address"], fact["port"], files)


def _raise_problems(problems: Sequence[str]) -> None:
    """Raise StorageError on all processes where one of them has a problem."""
    lines = [f"process {i}: {problem}" for i, problem in enumerate(problems) if problem]
    if lines:
        raise StorageError("checkpoint.local_folder cannot be used:\n  " + "\n  ".join(lines))


def _newest_first(processes: Sequence[_Process], starts: Sequence[str]) -> list[SavedStep]:
    """Return the steps of which there are files and that may be resumed from.

    Of a start that began later all steps come first: it went on from one that the starts before had reached.
    """
    order = {start: number for number, start in enumerate(starts)}
    known = {saved for process in processes for saved, _ in process.files if saved.start in order}
    return sorted(known, key=lambda saved: (order[saved.start], saved.serial, saved.step), reverse=True)


def _writers(processes: Sequence[_Process]) -> list[bool]:
    """Return, by process, whether it writes its slices: the first of those on a disk that hold the same."""
    seen = [(process.disk, process.key) for process in processes]
    return [seen.index(pair) == i for i, pair in enumerate(seen)]


def _receivers(processes: Sequence[_Process]) -> list[int | None]:
    """Return, by process, the one on another disk that gets a copy of its slices; None where it needs none.

    Processes are in the order of their disks, and each sends to the one that is as many further as the fullest disk
    has: that is on another disk, and no two send to one, unless a disk has more than half of the processes.
    """
    disks = [process.disk for process in processes]
    firsts = {disk: disks.index(disk) for disk in disks}
    ordered = sorted(range(len(disks)), key=lambda i: (firsts[disks[i]], i))
    widest = max(disks.count(disk) for disk in firsts)
    receivers: list[int | None] = [None] * len(disks)
    for position, i in enumerate(ordered):
        replicated = any(
            other.key == processes[i].key and other.disk != processes[i].disk for other in processes
        )
        rotated = [ordered[(position + widest + k) % len(ordered)] for k in range(len(ordered))]
        elsewhere = [j for j in rotated if disks[j] != disks[i]]
        if elsewhere and not replicated:
            receivers[i] = elsewhere[0]
    return receivers


def _bytes_on_disk(processes: Sequence[_Process], i: int) -> int:
    """Return the bytes of one step on the disk of process `i`: its processes' own slices, and those they receive."""
    disk = processes[i].disk
    receivers = _receivers(processes)
    total = 0
    for process, writes, receiver in zip(processes, _writers(processes), receivers, strict=True):
        if writes and process.disk == disk:
            total += process.num_bytes
        if writes and receiver is not None and processes[receiver].disk == disk:
            total += process.num_bytes
    return total


def _to_devices(abstract: Any, pieces: Sequence[local_files.Piece], shards: Sequence[np.ndarray]) -> Any:
    """Put slices onto this process' devices, as arrays in the structure of `abstract`."""
    by_slice = {(piece.path, piece.index): shard for piece, shard in zip(pieces, shards, strict=True)}

    def assemble(path: str, leaf: Any) -> jax.Array:
        indices = leaf.sharding.addressable_devices_indices_map(leaf.shape)
        placed = [
            jax.device_put(by_slice[path, local_files.slice_of(index, leaf.shape)], device)
            for device, index in indices.items()
        ]
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, placed)

    return trees_by_path.map_with_path(assemble, abstract)
