"""The lease of a run in a bucket: eight racers, beats, refusal, takeover by the reader's clock, loss noticed."""

import concurrent.futures
import json
import threading
import time

import pytest

from tests import stores
from tlx.base import place as places
from tlx.base.errors import LeaseError, StorageError
from tlx.checkpoint import lease as leases
from tlx.checkpoint.bucket_lease import BucketLease, open_lease


@pytest.fixture(params=["memory", "gs", pytest.param("s3", marks=pytest.mark.slow)])
def run(request, tmp_path):
    return stores.place(request.param, tmp_path)


def as_of_another_machine(run):
    """The lease that stands, as a holder elsewhere has written it: nothing is known of its process."""
    lease = places.read_versioned(run / leases.FILE)
    holder = json.loads(lease.data) | {"id": "another", "boot": "another", "host": "elsewhere", "pid": 7}
    assert places.write_if(run / leases.FILE, json.dumps(holder).encode(), lease.generation)


def test_held_renewed_and_released(run):
    assert isinstance(open_lease(run), BucketLease)
    with BucketLease(run, beat=0.05) as lease:
        first = places.read_versioned(run / leases.FILE).generation
        deadline = time.monotonic() + 20
        while places.read_versioned(run / leases.FILE).generation == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert places.read_versioned(run / leases.FILE).generation != first
        lease.check()
        with pytest.raises(LeaseError, match=r"lease held by .+:\d+, beat \d+ s ago") as caught:
            open_lease(run).__enter__()
        assert caught.value.code == 75
    assert not (run / leases.FILE).exists()


def test_a_holder_elsewhere_is_watched_by_the_readers_clock(run, caplog):
    with BucketLease(run, beat=60):
        as_of_another_machine(run)
    assert (run / leases.FILE).exists(), "a lease that another one has written is not removed"
    began = time.monotonic()
    with BucketLease(run, beat=0.1, stale=0.5) as lease:
        assert time.monotonic() - began > 0.4
        lease.check()
    assert "taken over from elsewhere:7, which is gone" in caplog.text


def test_a_holder_elsewhere_that_beats_is_not_replaced(run):
    with BucketLease(run, beat=60):
        as_of_another_machine(run)
        end = threading.Event()

        def beats():
            while not end.wait(0.05):
                as_of_another_machine(run)
                places.write(run / leases.FILE, (run / leases.FILE).read_bytes() + b" ")

        thread = threading.Thread(target=beats)
        thread.start()
        try:
            with pytest.raises(LeaseError, match="held by elsewhere:7"):
                BucketLease(run, beat=0.1, stale=5).__enter__()
        finally:
            end.set()
            thread.join()


def test_after_a_takeover_the_old_holder_writes_no_more(run, caplog):
    with BucketLease(run, beat=0.05) as lease:
        # Stopped while another one took over: its next beat names a generation that is gone.
        as_of_another_machine(run)
        after = places.read_versioned(run / leases.FILE)
        with pytest.raises(LeaseError, match="lost to elsewhere:7"):
            lease.check()
        deadline = time.monotonic() + 20
        while not lease.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lease.lost
    assert places.read_versioned(run / leases.FILE) == after, "the new holder's lease stands as it was"


def test_a_lease_that_is_none_is_held_by_somebody_until_it_is_stale(run):
    places.write(run / leases.FILE, b"{cut")
    with BucketLease(run, beat=0.05, stale=0.2) as lease:
        lease.check()


def test_a_beat_whose_answer_was_lost_is_this_runs_own(run, monkeypatch):
    write_if = places.write_if

    def lost(place, data, generation):
        write_if(place, data, generation)
        return None

    with BucketLease(run, beat=60) as lease:
        monkeypatch.setattr(places, "write_if", lost)
        assert lease._renew()
        monkeypatch.undo()
        lease.check()
        assert lease._renew()


@pytest.mark.parametrize("kind", ["folder", "memory", "gs", pytest.param("s3", marks=pytest.mark.slow)])
def test_one_of_eight_racers_takes_the_lease(kind, tmp_path):
    run = stores.place(kind, tmp_path)
    racers = [open_lease(run) for _ in range(8)]
    start = threading.Barrier(8)

    def race(racer):
        start.wait()
        try:
            racer._take()
        except LeaseError as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        refusals = list(pool.map(race, racers))
    assert refusals.count(None) == 1
    assert all("lease held by" in text for text in refusals if text)
    racers[refusals.index(None)].check()


def test_a_store_without_an_answer_is_one_line(monkeypatch):
    def refuse(*_):
        raise OSError(13, "Access Denied", "memory://leases/x/lease.json")

    monkeypatch.setattr(places, "write_if", refuse)
    with pytest.raises(StorageError) as caught:
        open_lease("memory://leases/x").__enter__()
    assert "\n" not in str(caught.value) and "Access Denied" in str(caught.value)
