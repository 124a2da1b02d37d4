"""Prepared corpora as large and as far away as they really are: by hand, with figures for configs/DATA.md."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import stores
from tests.data.test_corpus import BYTES, objects_of, prepare, source, write_texts
from tlx.data import DataConfig, prepare_tokenizer
from tlx.data.corpus.index import INDEX
from tlx.data.corpus.job import FORMAT, SPLITS, description
from tlx.data.corpus.shard import BLOCK, num_blocks, shard_layouts

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[2]
SHARDS = 1600
DOCUMENTS = 62_500  # of each shard
LENGTH = 1000  # tokens of each document

_OPEN = """
import resource, sys, time
from tlx.base.config import from_dict
from tlx.data import DataConfig, open_caches, prepare_tokenizer
from tlx.data.pipeline import Pipeline
from tlx.data.window import WindowSpec
from tlx.data.window_layouts import make_layout
from tlx.text import TokenizerConfig
from tests.data.corpus import example

def memory():
    lines = open("/proc/self/status").read()
    return int(lines.split("VmHWM:")[1].split()[0]) / 1000

data = DataConfig(tokens=sys.argv[1])
tokenizer = prepare_tokenizer(TokenizerConfig(kind="bytes"), data)
before = memory()
start = time.perf_counter()
(split,) = open_caches(data, tokenizer, "train")
layout = make_layout(split, WindowSpec(2049, overlap=1), "concat", 0)
pipeline = Pipeline(data, [layout], example, None, WindowSpec(2049, overlap=1), 64, 0, "train")
opened = time.perf_counter() - start
after = memory()
start = time.perf_counter()
for k in range(50):
    pipeline.batch(k)
rate = 50 * 64 / (time.perf_counter() - start)
print(split.num_tokens, split.num_documents, opened, after - before, after, memory(), rate)
"""


def _write_sparse(place: pathlib.Path) -> None:
    """A corpus of 1e11 tokens and 1e8 documents, whose tokens take no room on the disk."""
    tokens = DOCUMENTS * LENGTH
    layout = shard_layouts(np.array([DOCUMENTS]), np.array([tokens]), np.array([0]), 2)
    offsets = (np.arange(DOCUMENTS + 1) * LENGTH).astype(np.uint32).tobytes()
    blocks = np.minimum(-(-np.arange(num_blocks(tokens) + 1) * BLOCK // LENGTH), DOCUMENTS).astype(np.uint32)
    (place / "tokens").mkdir(parents=True)
    names = [f"tokens/{number:06d}-train-000" for number in range(SHARDS)]
    with (place / names[0]).open("wb") as handle:
        handle.truncate(int(layout.size[0]))
        handle.seek(int(layout.offsets[0]))
        handle.write(offsets)
        handle.seek(int(layout.blocks[0]))
        handle.write(blocks.tobytes())
    for name in names[1:]:
        os.link(place / names[0], place / name)
    tokenizer = prepare_tokenizer(BYTES, DataConfig())
    entry = {
        "source": "sparse",
        "parallel": False,
        "num_documents": SHARDS * DOCUMENTS,
        "num_tokens": SHARDS * tokens,
        "num_replies": 0,
        "num_bytes": SHARDS * tokens,
        "max_token": 0,
        "fingerprint": "sparse",
        "skipped": {},
        "filtered": {},
        "shards": {
            "names": names,
            "documents": [DOCUMENTS] * SHARDS,
            "tokens": [tokens] * SHARDS,
            "replies": [0] * SHARDS,
            "sha256": ["0" * 64] * SHARDS,
        },
    }
    index = {
        "format": FORMAT,
        "key": "sparse",
        "tokenizer": {"hash": tokenizer.hash, "vocab_size": tokenizer.vocab.size, "config": {}},
        "data": description(DataConfig()),
        "sources": [dict.fromkeys(SPLITS, entry)],
    }
    (place / INDEX).write_text(json.dumps(index))


def test_a_corpus_of_a_hundred_billion_tokens_opens_at_once(tmp_path):
    _write_sparse(tmp_path / "sparse")
    command = [sys.executable, "-c", _OPEN, str(tmp_path / "sparse")]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    tokens, documents, seconds, grown, opened, peak, rate = map(float, out.stdout.split())
    assert tokens == 1e11 and documents == 1e8
    print(
        f"\nopened in {seconds:.3f} s and {grown:.1f} MB ({opened:.0f} MB with Python and its packages); {peak:.0f} "
        f"MB after 3,200 windows of 2,049 tokens at {rate:,.0f} windows/s"
    )
    assert seconds < 1 and opened < 200


@contextlib.contextmanager
def _delayed(address: str, milliseconds: float):
    port = stores.free_port()
    target = address.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "tests.data.delay_proxy", str(port), target, str(milliseconds)]
    with subprocess.Popen(command, cwd=ROOT) as proxy:
        time.sleep(2)
        try:
            with stores.environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}"):
                yield
        finally:
            proxy.kill()


_READ = """
import sys, time
import numpy as np
from tests.data.test_corpus_at_scale import far_pipeline

pipeline = far_pipeline(sys.argv[1], sys.argv[2])
batches = pipeline.iterate()
next(batches)
time.sleep(1)
waits = []
sizes = 0
start = time.perf_counter()
for step in range(int(sys.argv[3])):
    due = start + step * float(sys.argv[4])
    time.sleep(max(due - time.perf_counter(), 0))
    asked = time.perf_counter()
    sizes += 2 * next(batches)["tokens"].size
    waits.append(time.perf_counter() - asked)
seconds = time.perf_counter() - start
print(f"{sizes / seconds / 1e6:.2f} {sum(waits) / seconds:.4f} {max(waits):.4f} {time.process_time() / seconds:.2f}")
"""


def far_pipeline(glob, place):
    """Rows of 2,048 tokens from a bucket."""
    from tests.data.corpus import example
    from tlx.data import open_caches
    from tlx.data.pipeline import Pipeline
    from tlx.data.window import WindowSpec
    from tlx.data.window_layouts import make_layout

    data = dataclasses.replace(source(glob), tokens=place)
    (split,) = open_caches(data, prepare_tokenizer(BYTES, data), "train")
    reads = WindowSpec(2048)
    return Pipeline(data, [make_layout(split, reads, "concat", 0)], example, None, reads, 64, 0, "train")


def test_a_pod_does_not_wait_for_a_bucket_20_ms_away(tmp_path, monkeypatch):
    """2.8 MB/s, what 2,048 chips read together, by one process: 64 rows of 4 KB every 94 ms."""
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    glob = write_texts(tmp_path / "text", files=16, records=3000)
    with stores.seaweedfs(tmp_path) as bucket:
        prepare(source(glob), f"{bucket}/corpus", task_bytes=1 << 18, shard_tokens=1 << 18)
        with _delayed(os.environ["AWS_ENDPOINT_URL"], 20):
            step = 64 * 2048 * 2 / 2.8e6
            words = [glob, f"{bucket}/corpus", "150", str(step)]
            out = subprocess.run(
                [sys.executable, "-c", _READ, *words], cwd=ROOT, capture_output=True, text=True
            )
    assert out.returncode == 0, out.stderr
    rate, waiting, longest, cores = map(float, out.stdout.split())
    print(
        f"\n{rate:.2f} MB/s at 20 ms: {waiting:.2%} of the time waited for data, {longest * 1000:.0f} ms at most; "
        f"{cores:.2f} cores"
    )
    assert rate > 2.7 and waiting < 0.02


BEAM = """
import dataclasses, sys
from tests.data.test_corpus import BYTES
from tests.data.test_corpus_at_scale import beam_job
from tlx.data.corpus import build
from tlx.data.corpus.beam_runner import BeamRunner

job = beam_job(sys.argv[1], sys.argv[2])
flags = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
for stage in build.stages(job):
    build.run_stage(job, stage, BeamRunner(flags))
build.finish_corpus(job)
"""


def beam_job(glob, place):
    """A corpus of 24 tasks, begun."""
    from tlx.data.corpus import build
    from tlx.data.corpus.job import CorpusJob

    data = source(glob)
    job = CorpusJob(place, data, BYTES, task_bytes=1 << 17, shard_tokens=1 << 16)
    return build.begin_corpus(job, prepare_tokenizer(BYTES, data))


def test_beam_with_two_workers_of_which_one_is_killed(tmp_path, monkeypatch):
    """The bytes are those of the local runner, and what was done before the kill is not touched.

    TLX_BEAM_PYTHON names a Python with the extra `beam`, where this one has none.
    """
    python = os.environ.get("TLX_BEAM_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import apache_beam"], capture_output=True).returncode:
        pytest.skip("needs pip install -e '.[beam]'")
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    glob = write_texts(tmp_path / "text", files=24, records=600)
    prepare(source(glob), tmp_path / "local", task_bytes=1 << 17, shard_tokens=1 << 16)
    place = tmp_path / "beam"
    command = [python, "-c", BEAM, glob, str(place)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    while len(list(place.glob("tasks/*.json"))) < 4:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    workers = _beam_workers(process.pid)
    assert len(workers) == 2
    os.kill(random.choice(workers), signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in place.glob("tasks/*.json")}
    try:
        errors = process.communicate(timeout=45)[1]
        print(
            f"\nafter the kill the pipeline ended with {process.returncode}: {errors.strip().splitlines()[-1:]}"
        )
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        print("\nafter the kill the pipeline stood still, and was ended")
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    first = len(list(place.glob("tasks/*.json")))
    again = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    assert objects_of(place) == objects_of(tmp_path / "local")
    print(f"{first} of {len(list(place.glob('tasks/*.json')))} tasks were done before the second start")


def _beam_workers(parent: int) -> list[int]:
    """Worker processes of Beam's DirectRunner that a process has started."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_text().split("\0")
            ancestor = int(re.search(r"PPid:\s+(\d+)", (path / "status").read_text())[1])
            if any("sdk_worker_main" in word for word in words) and words[0].endswith("python"):
                if ancestor == parent or _parent_of(ancestor) == parent:
                    found.append(int(path.name))
    return found


def _parent_of(pid: int) -> int:
    return int(re.search(r"PPid:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])
