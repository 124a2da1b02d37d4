"""Prepared corpora as large as they really are: by hand, with figures for configs/README.md."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.data.test_corpus import BYTES
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
