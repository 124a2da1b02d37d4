"""Documents whose every token is different, so that a test can say where each one went."""

import pathlib

import numpy as np

from tlx.data import DataConfig, Pipeline
from tlx.data.cache import TokenCache
from tlx.data.sources import Document
from tlx.data.tokenize import write_cache
from tlx.data.window import WindowSpec
from tlx.data.window_layouts import make_layout
from tlx.text import Vocabulary

FIRST = 100  # id of the first token of text; ids below are special
VOCAB = Vocabulary(1 << 20)


class CountingTokenizer:
    """Reads "start:stop" as the ids start..stop."""

    hash = "counting"

    def __init__(self, vocab: Vocabulary = VOCAB):
        self.vocab = vocab

    def encode_batch(self, texts):
        return [np.arange(*map(int, text.split(":")), dtype=np.int32) for text in texts]


class Lengths:
    """A source with documents of the given lengths, numbered on from FIRST; a part for each."""

    num_bytes = None

    def __init__(self, lengths, first=FIRST, name="lengths", parallel=False):
        self.parallel = parallel
        ends = first + np.cumsum(lengths)
        self.name = name
        self.identity = [list(map(int, lengths)), first]
        self.parts = [f"{end - length}:{end}" for end, length in zip(ends, lengths, strict=True)]

    def read(self, part):
        yield Document(f"{self.name} {part}", part)


def make_cache(
    folder: pathlib.Path, lengths, first=FIRST, eos=False, name="lengths", parallel=False
) -> TokenCache:
    """A token cache of documents of these lengths (eos not counted)."""
    folder.mkdir(parents=True)
    write_cache(folder, Lengths(lengths, first, name, parallel), CountingTokenizer(), eos)
    return TokenCache(folder)


def random_lengths(seed: int, count: int, longest: int) -> np.ndarray:
    """Lengths of documents, most of them short."""
    return np.ceil(longest * np.random.default_rng(seed).random(count) ** 2).astype(int) + 1


def example(rng, window, spec):
    """The window itself, and a random number."""
    del spec
    return {
        "tokens": window.tokens,
        "segments": window.segments,
        "positions": window.positions,
        "weights": (window.segments > 0).astype(np.float32),
        "random": np.array(rng.random(), np.float32),
    }


def make_pipeline(
    caches, reads: WindowSpec, batch_size=4, seed=0, split="train", example=example, **config
) -> Pipeline:
    """A pipeline over finished caches."""
    data = DataConfig(**config)
    layouts = [make_layout(cache, reads, data.packing, VOCAB.pad) for cache in caches]
    return Pipeline(data, layouts, example, None, reads, batch_size, seed, split)


def text(batch) -> list[int]:
    """Tokens that are not padding, rows one after the other."""
    return batch["tokens"][batch["segments"] > 0].tolist()


def equal(a, b) -> bool:
    """Whether two batches are the same."""
    return set(a) == set(b) and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)
