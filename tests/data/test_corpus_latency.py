"""A corpus in a bucket that answers after 20 ms is read as fast as a pod of 2,048 chips reads it: 2.8 MB/s.

One process reads the rows of one in eight of such a pod (of one in 256 or 512 on real hosts), at the pod's pace.

pytest -m long -s tests/data/test_corpus_latency.py
"""

import random
import time

import pytest

from tests import stores
from tests.data.test_corpus import BYTES, example, prepare
from tlx.base.object_store import ObjectStore
from tlx.data import DataConfig, TextConfig, open_caches, prepare_tokenizer
from tlx.data.pipeline import Pipeline
from tlx.data.window import WindowSpec
from tlx.data.window_layouts import make_layout

LATENCY = 0.02
# Bytes a second of a pod that trains on 1.4 million tokens of 2 bytes a second.
RATE = 2.8e6
ROWS = 512
PROCESSES = 8
BATCHES = 40
LENGTH = 2049


@pytest.mark.long
@pytest.mark.parametrize("kind", ["s3"])
def test_nothing_waits_for_a_bucket_with_20_ms(tmp_path, monkeypatch, kind):
    rng = random.Random(0)
    words = ["model", "reads", "tokens", "and", "predicts", "next"]
    (tmp_path / "text").mkdir()
    for i in range(16):
        lines = (" ".join(rng.choices(words, k=50)) for _ in range(4000))
        (tmp_path / "text" / f"{i}.txt").write_text("\n".join(lines))
    place = stores.place(kind, tmp_path)
    text = TextConfig(files=(str(tmp_path / "text" / "*.txt"),), one_document_per_line=True)
    data = DataConfig(source="text", text=text)
    prepare(data, place, task_bytes=1_000_000, shard_tokens=1_000_000)
    data = DataConfig(source="text", text=text, tokens=str(place))
    (split,) = open_caches(data, prepare_tokenizer(BYTES, data), "train")
    windows = WindowSpec(LENGTH, overlap=1)
    pipeline = Pipeline(
        data, [make_layout(split, windows, "concat", 0)], example, None, windows, ROWS, 0, "train"
    )
    read = ObjectStore.read
    requests = 0

    def slow(self, *args):
        nonlocal requests
        requests += 1
        time.sleep(LATENCY)
        return read(self, *args)

    monkeypatch.setattr(ObjectStore, "read", slow)
    batch_bytes = ROWS * LENGTH * 2
    batches = pipeline.iterate(0, range(0, ROWS, PROCESSES))
    for _ in range(3):
        next(batches)
    waits = []
    began = time.perf_counter()
    for number in range(1, BATCHES + 1):
        before = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - before)
        # The step: until this batch's time is over.
        time.sleep(max(0.0, began + number * batch_bytes / RATE - time.perf_counter()))
    seconds = time.perf_counter() - began
    fastest = time.perf_counter()
    for _ in range(30):
        next(batches)
    fastest = 30 * batch_bytes / PROCESSES / (time.perf_counter() - fastest)
    batches.close()
    print(
        f"{kind}: a pod at {BATCHES * batch_bytes / seconds / 1e6:.2f} MB/s for {seconds:.1f} s, {requests} "
        f"requests of 20 ms and more; "
        f"waited {sum(waits) / seconds:.2%} of the time, {max(waits) * 1e3:.1f} ms at most; "
        f"this process as fast as it goes: {fastest / 1e6:.1f} MB/s"
    )
    assert BATCHES * batch_bytes / seconds > 0.99 * RATE
    assert sum(waits) < 0.02 * seconds
