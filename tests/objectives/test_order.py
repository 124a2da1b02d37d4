"""Batch k of every objective is a function of (seed, k): whoever builds it, from wherever, after whatever."""

import pickle
import zlib

import numpy as np
import pytest

from tests.data.corpus import equal, make_cache, make_pipeline, random_lengths
from tests.objectives import small
from tlx.data import WeightedSource
from tlx.data.window import reversed_window
from tlx.objectives import TABLE
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

# First and last tokens of the made-up documents lie between the special ids and the sentinels.
VOCAB = Vocabulary(100_000)
MIXED = (WeightedSource(weight=3.0), WeightedSource(weight=1.0))
# What reads pairs of texts or conversations finds none in these documents.
NAMES = [name for name in TABLE if name != "text_to_text" and not name.endswith("dialogue")]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return [
        make_cache(folder / "a", random_lengths(0, 90, 60), eos=True, name="a"),
        make_cache(folder / "b", random_lengths(1, 30, 60), first=50_000, eos=True, name="b"),
    ]


class Example:
    """An objective's examples with a spec of its own; to be pickled for data workers."""

    def __init__(self, name, spec):
        self.name, self.spec = name, spec

    def __call__(self, rng, window, spec):
        return TABLE.load(self.name).example(rng, window, self.spec)


# Of the rows that tlx 0.2 made before their code was made faster.
SUMS = {"plm": 1841803120, "span_boundary": 3124791500}


@pytest.mark.parametrize("name", SUMS)
def test_rows_that_are_made_faster_stay_what_they_were(name):
    """A run goes on with the rows that it would have had: a checksum of many, forwards, backwards and padded."""
    values = {"pairs": True, "bi_data": True} if name == "plm" else {}
    starts_word = np.arange(small.VOCAB.size) % 3 > 0
    ends_sentence = np.arange(small.VOCAB.size) % 13 == 0
    config = TABLE.load(name).config_class(**values)
    spec = small.spec_of(name, config, 60, starts_word=starts_word, ends_sentence=ends_sentence)
    reads = TABLE.load(name).window_spec(spec)
    total = 0
    for seed in range(40):
        real = reads.length if seed % 4 else 9 * seed % reads.length
        window = small.text(reads.length, real, seed)
        if reads.second_length:
            window = window._replace(second=small.text(reads.second_length, seed=seed + 1))
        if values and seed % 2:
            assert window.second is not None
            window = reversed_window(window)._replace(second=reversed_window(window.second))
        row = TABLE.load(name).example(np.random.default_rng(seed), window, spec)
        for key in sorted(row):
            total = zlib.crc32(row[key].tobytes(), total)
    assert total == SUMS[name]


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_depend_on_their_history(caches, name):
    objective = TABLE.load(name)
    tables = np.arange(VOCAB.size) % 3 == 0, np.arange(VOCAB.size) % 11 == 0
    spec = ObjectiveSpec(objective.config_class(), 32, VOCAB, *tables)
    reads = objective.window_spec(spec)
    pipeline = make_pipeline(caches, reads, example=Example(name, spec), batch_size=8, mixture=MIXED)
    expected = [pipeline.batch(k) for k in range(5)]
    assert not any(equal(expected[0], other) for other in expected[1:])
    fresh = pickle.loads(pickle.dumps(pipeline))
    rows = {key: value[[6, 1]] for key, value in expected[3].items()}
    assert equal(fresh.batch(3, [6, 1]), rows)
    batches = fresh.iterate(2)
    assert all(equal(next(batches), expected[k]) for k in (2, 3, 4))
    batches.close()
    assert equal(pipeline.batch(0), expected[0])
