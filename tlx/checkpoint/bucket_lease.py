"""The lease of a run in a bucket: `lease.json` is created, renewed and taken over by conditional writes.

A bucket has no locks, and its times are no clock of ours. Each beat gives the object another generation; a beat, and
a takeover, hold only where nobody has written since the generation that they name. A reader that shares no machine
with the holder watches the generation by its own clock: it is refused at the next beat, or takes over after 90 s
without one.
"""

import json
import logging
import os
import time

from typing_extensions import override

from tlx.base import place as places
from tlx.base.object_store import VersionedData
from tlx.base.place import BucketPath
from tlx.checkpoint import lease as leases
from tlx.checkpoint.lease import Lease

# Seconds between two looks at the lease of another run, relative to those between its beats.
_LOOKS_PER_BEAT = 6

log = logging.getLogger("tlx")


class BucketLease(Lease):
    """The lease of a run in a bucket; see `Lease`."""

    _generation: bytes | None = None

    @override
    def _take(self) -> None:
        while True:
            before = places.read_versioned(self._path)
            if before is not None:
                holder = leases.parse(before.data)
                if not leases.is_provably_dead(holder):
                    before = self._watched(before)
                log.warning(
                    "lease of %s taken over from %s, which is gone", self.folder, leases.holder_name(holder)
                )
            if self._write_if(None if before is None else before.generation):
                return
            # Another one was faster: it is refused or watched in turn.

    def _watched(self, first: VersionedData) -> VersionedData | None:
        """Return the lease once it is stale, None once it is gone; LeaseError where it is renewed meanwhile."""
        holder = leases.parse(first.data)
        began = time.monotonic()
        if self._shares_clock(holder):
            age = max(0.0, began - holder["monotonic"])
            if age < self._stale:
                raise self._refused(holder, age)
            return first
        log.warning(
            "lease of %s is held by %s: waiting up to %.0f s for its next beat",
            self.folder,
            leases.holder_name(holder),
            self._stale,
        )
        while time.monotonic() - began < self._stale:
            time.sleep(self._beat / _LOOKS_PER_BEAT)
            now = places.read_versioned(self._path)
            if now is None:
                return None
            if now.generation != first.generation:
                raise self._refused(leases.parse(now.data), 0.0)
        return first

    def _write_if(self, generation: bytes | None) -> bool:
        """Write a beat where the lease has this generation; return whether it is this run's now."""
        data = json.dumps(self._content()).encode()
        written = places.write_if(self._path, data, generation)
        if written is None:
            # A write whose answer was lost is repeated by the client, and then refused because of itself.
            now = places.read_versioned(self._path)
            if now is None or now.data != data:
                return False
            written = now.generation
        self._generation = written
        return True

    @override
    def _renew(self) -> bool:
        return self._write_if(self._generation)

    @override
    def _release(self) -> None:
        assert isinstance(self._path, BucketPath)
        self._path.store.write_if(self._path.key, None, self._generation)


def open_lease(run_dir: str | os.PathLike | BucketPath) -> Lease:
    """Return the lease of a run directory, to be entered by all processes."""
    place = places.parse(run_dir)
    return BucketLease(place) if isinstance(place, BucketPath) else Lease(place)
