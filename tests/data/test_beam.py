"""Apache Beam prepares a corpus with two workers, one of which is killed: the bytes are those of the local runner.

pip install -e '.[beam]' && pytest -m long -s tests/data/test_beam.py
"""

import os
import pathlib
import random
import signal
import time

import pytest

from tests.cli import tiny

TASKS = 40
BEAM = ("--runner=beam", "--", "--direct_num_workers=2", "--direct_running_mode=multi_processing")


def prepare(config, place, *words):
    return tiny.tlx("data", "prepare", f"--config={config}", f"--to={place}", "--task-megabytes=1", *words)


def contents(folder):
    return {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}


def workers(parent):
    """Processes of Beam's workers below `parent`."""
    parents = {}
    words = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue
    below = {parent}
    while more := {pid for pid, above in parents.items() if above in below} - below:
        below |= more
    return sorted(
        pid for pid in below if b"sdk_worker_main" in words.get(pid, b"") and b"sh\0-c" not in words[pid]
    )


@pytest.mark.long
def test_a_killed_worker_costs_nothing_that_is_done(tmp_path):
    pytest.importorskip("apache_beam")
    config = tiny.write_config(tmp_path)
    rng = random.Random(0)
    for path in (tmp_path / "text").iterdir():
        path.unlink()
    for i in range(TASKS):
        words = (" ".join(rng.choices(("model", "reads", "tokens", "next"), k=60)) for _ in range(2400))
        (tmp_path / "text" / f"{i}.txt").write_text("\n".join(words))
    began = time.monotonic()
    tiny.finish(prepare(config, tmp_path / "local", "--processes=1"))
    print(f"local, one process: {time.monotonic() - began:.0f} s")
    expected = {name: path.read_bytes() for name, path in contents(tmp_path / "local").items()}

    beam = tmp_path / "beam"
    process = prepare(config, beam, *BEAM)
    deadline = time.monotonic() + 240
    while len(contents(beam)) < len(expected) // 3:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    victims = workers(process.pid)
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    time.sleep(1.0)
    # A task is done once it is sealed: the files of one that was killed before that are written again.
    there = contents(beam)
    sealed = {name.stem for name in there if name.parent.name == "tasks"}
    done = {name: path.stat().st_mtime_ns for name, path in there.items() if name.stem[:6] in sealed}
    try:
        out, _ = process.communicate(timeout=60)
    except Exception:
        # Beam's runner on one machine waits for a worker that is gone.
        for pid in workers(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        out, _ = process.communicate()
    print(f"killed a worker with {len(done)} of {len(expected)} files done: exit {process.returncode}")
    tiny.finish(prepare(config, beam, *BEAM))
    now = contents(beam)
    assert {name: path.read_bytes() for name, path in now.items()} == expected
    assert len(done) >= 10
    assert done == {name: now[name].stat().st_mtime_ns for name in done}, (
        "what was done was not written again"
    )
