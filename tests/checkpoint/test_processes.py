"""Two real processes (gloo) save, seal, verify and restore together; one process reads what they wrote."""

import json
import os
import re
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.checkpoint.example import abstract, assert_same, state_on
from tlx.checkpoint import Checkpoints
from tlx.checkpoint import manifest as manifests

WORKER = """
    import sys
    import jax
    process, port, folder, task = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, initialization_timeout=60)
    import numpy as np
    from tests.checkpoint.example import abstract, state_on
    from tlx.base.errors import UserError
    from tlx.checkpoint import CheckpointConfig, Checkpoints, Lease
    from tlx.checkpoint import manifest as manifests
    from tlx.parallel import leave

    def save(folder):
        with Lease(folder) as lease, Checkpoints(folder + "/c", CheckpointConfig(keep=2)) as checkpoints:
            checkpoints.prepare()
            assert checkpoints.restore(abstract(state_on(4))) is None
            for step in (1, 2, 3):
                assert checkpoints.save(step, state_on(4, seed=step), {"step": step})
            assert checkpoints.wait() and not checkpoints.save(3, state_on(4, seed=3))
            assert checkpoints.complete_steps() == [2, 3]
            # A rollback reads what the same start has saved: its ids are process 0's.
            assert checkpoints.restore(abstract(state_on(4)), newest=2).step == 2

    def restore(folder):
        loaded = Checkpoints(folder + "/c").restore(abstract(state_on(4)))
        wanted = state_on(4, seed=loaded.step)
        for a, b in zip(jax.tree.leaves(loaded.tree), jax.tree.leaves(wanted), strict=True):
            assert a.sharding == b.sharding
            for x, y in zip(a.addressable_shards, b.addressable_shards, strict=True):
                np.testing.assert_array_equal(np.asarray(x.data), np.asarray(y.data))
        print("restored", loaded.step, loaded.extra, flush=True)

    def fail(folder):
        if process == 1:  # its disk fails
            def broken(*_):
                raise OSError("no space left for process 1")
            manifests.own_files = broken
        checkpoints = Checkpoints(folder + "/c", CheckpointConfig(max_failures=2))
        for step in (4, 5, 6):
            checkpoints.save(step, state_on(4, seed=step))

    def lease(folder):
        with Lease(folder):
            pass

    try:
        {"save": save, "restore": restore, "fail": fail, "lease": lease}[task](folder)
    except UserError as error:
        print(f"{type(error).__name__} {error}", flush=True)
        leave(error.code)  # as the command line does: nothing to wait for the other in
"""


def run(folder, task):
    """(exit statuses, outputs) of the two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-c", textwrap.dedent(WORKER)]
    workers = [
        subprocess.Popen(
            [*command, str(process), port, str(folder), task],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        for process in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=180)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [worker.returncode for worker in workers], outputs


@pytest.mark.slow
def test_two_processes_save_and_one_reads(tmp_path):
    codes, outputs = run(tmp_path, "save")
    assert codes == [0, 0], outputs
    step = tmp_path / "c" / "3"
    files = manifests.read(step).files
    on_disk = {path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file()}
    assert set(files) == on_disk - {"tlx_manifest.json"}
    assert {int(found[1]) for path in files if (found := re.search(r"ocdbt\.process_(\d)", path))} == {0, 1}
    loaded = Checkpoints(tmp_path / "c").restore(abstract(state_on(8)))
    assert (loaded.step, loaded.extra) == (3, {"step": 3})
    assert_same(loaded.tree, state_on(8, seed=3))


@pytest.mark.slow
def test_damage_found_by_one_process_makes_both_fall_back(tmp_path):
    codes, outputs = run(tmp_path, "save")
    assert codes == [0, 0], outputs
    found = manifests.read(tmp_path / "c" / "3")
    target = tmp_path / "c" / "3" / sorted(found.files)[1]  # the share of process 1
    content = np.fromfile(target, np.uint8)
    content[len(content) // 2] ^= 1
    content.tofile(target)
    codes, outputs = run(tmp_path, "restore")
    assert codes == [0, 0], outputs
    assert all("restored 2 {'step': 2}" in output for output in outputs)
    assert len(list((tmp_path / "c").glob("3.corrupt-*"))) == 1


@pytest.mark.slow
def test_a_failure_of_one_process_is_a_failure_of_the_save(tmp_path):
    codes, outputs = run(tmp_path, "save")
    assert codes == [0, 0], outputs
    codes, outputs = run(tmp_path, "fail")
    assert codes == [73, 73], outputs
    assert all("StorageError 2 checkpoints in a row" in output for output in outputs)
    assert "no space left for process 1" in outputs[1]
    # As the next start does, for what writers left that were still at it.
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.prepare()
        assert checkpoints.complete_steps() == [2, 3]
    assert sorted(os.listdir(tmp_path / "c")) == ["2", "3"]


@pytest.mark.slow
def test_a_refused_lease_stops_both_processes(tmp_path):
    holder = {"id": "x", "host": "elsewhere", "boot": "", "namespace": "", "pid": 4, "started": None}
    (tmp_path / "lease.json").write_text(json.dumps(holder | {"monotonic": 0.0}))
    codes, outputs = run(tmp_path, "lease")
    assert codes == [75, 75], outputs
    assert "lease held by elsewhere:4" in outputs[0] and "LeaseError" in outputs[1]
