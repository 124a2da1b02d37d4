"""Every token of a split is in one window of an epoch; segments and positions say where documents begin."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.corpus import FIRST, VOCAB, make_cache, make_pipeline, random_lengths, text
from tlx.base.errors import ConfigError, DataError
from tlx.data.layouts import make_layout
from tlx.data.packing import make_plan
from tlx.text import Reads


def _layout(tmp_path, lengths, reads, packing="concat", eos=False):
    cache = make_cache(tmp_path / "cache", lengths, eos=eos)
    return make_layout(cache, reads, packing, VOCAB.pad)


def test_concat_by_hand(tmp_path):
    layout = _layout(tmp_path, [3, 4, 2], Reads(4))
    windows = [layout.window(i, 0) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [108, 0, 0, 0],
    ]
    assert [w.segments.tolist() for w in windows] == [[1, 1, 1, 2], [1, 1, 1, 2], [1, 0, 0, 0]]
    assert [w.positions.tolist() for w in windows] == [[0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert all(array.dtype == np.int32 for w in windows for array in w)


def test_documents_end_with_eos(tmp_path):
    layout = _layout(tmp_path, [3, 2], Reads(7), eos=True)
    assert layout.window(0, 0).tokens.tolist() == [100, 101, 102, VOCAB.eos, 103, 104, VOCAB.eos]
    assert layout.window(0, 0).segments.tolist() == [1, 1, 1, 1, 2, 2, 2]


def test_concat_shows_the_overlap_before_a_window(tmp_path):
    layout = _layout(tmp_path, [3, 4], Reads(4, overlap=1))
    windows = [layout.window(i, 0) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [0, 100, 101, 102],
        [102, 103, 104, 105],
        [105, 106, 0, 0],
    ]
    assert [w.segments.tolist() for w in windows] == [[0, 1, 1, 1], [1, 2, 2, 2], [1, 1, 0, 0]]
    assert [w.positions.tolist() for w in windows] == [[0, 0, 1, 2], [0, 0, 1, 2], [0, 1, 0, 0]]


def test_concat_reads_around_from_its_origin(tmp_path):
    layout = _layout(tmp_path, [3, 4, 2], Reads(6))
    windows = [layout.window(i, 7) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [107, 108, 100, 101, 102, 103],
        [104, 105, 106, 0, 0, 0],
    ]
    assert windows[0].segments.tolist() == [1, 1, 2, 2, 2, 3]
    assert windows[0].positions.tolist() == [0, 1, 0, 1, 2, 0]


def test_document_by_hand(tmp_path):
    layout = _layout(tmp_path, [5, 2, 3], Reads(4, "document", 1))
    windows = [layout.window(i, 0) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [0, 100, 101, 102],
        [102, 103, 104, 0],
        [0, 105, 106, 0],
        [0, 107, 108, 109],
    ]
    assert [w.segments.tolist() for w in windows] == [[0, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 1]]


def test_best_fit_by_hand(tmp_path):
    layout = _layout(tmp_path, [5, 9, 3, 2, 6], Reads(8), "best_fit")
    windows = [layout.window(i, 0).tokens.tolist() for i in range(layout.num_windows)]
    assert windows == [
        [105, 106, 107, 108, 109, 110, 111, 112],  # all of the long document but its last token
        [119, 120, 121, 122, 123, 124, 117, 118],  # 6 + 2
        [100, 101, 102, 103, 104, 114, 115, 116],  # 5 + 3
        [113, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert layout.window(1, 0).segments.tolist() == [1] * 6 + [2] * 2
    assert layout.window(1, 0).positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_best_fit_shows_the_overlap_where_there_is_any(tmp_path):
    layout = _layout(tmp_path, [10, 2], Reads(5, overlap=1), "best_fit")
    windows = [layout.window(i, 0).tokens.tolist() for i in range(layout.num_windows)]
    assert windows == [[0, 100, 101, 102, 103], [103, 104, 105, 106, 107], [107, 108, 109, 110, 111]]


def test_best_fit_cuts_nothing_that_fits_and_wastes_little(tmp_path):
    lengths = random_lengths(0, 3000, 120)
    plan = make_plan(np.concatenate([[0], np.cumsum(lengths)]), 128)
    assert sorted(plan.sizes.tolist()) == sorted(lengths.tolist())  # no document is cut
    used = np.add.reduceat(plan.sizes, np.concatenate([[0], plan.ends[:-1]]))
    assert used.max() <= 128
    assert used.sum() / (128 * len(used)) > 0.99


def test_best_fit_packs_inside_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.data.packing.BLOCK", 10)
    lengths = random_lengths(1, 35, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    plan = make_plan(offsets, 32)
    assert sorted(plan.sizes.tolist()) == sorted(lengths.tolist())
    blocks = (np.searchsorted(offsets, plan.starts, "right") - 1) // 10
    for first, last in zip([0, *plan.ends[:-1]], plan.ends, strict=True):
        assert len(set(blocks[first:last])) == 1
    shorter = make_plan(offsets[:21], 32)  # the third block does not matter to the first two
    n = len(shorter.starts)
    assert plan.starts[:n].tolist() == shorter.starts.tolist()


@pytest.mark.parametrize("layout", ["packed", "best_fit", "stream", "document"])
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    length=st.integers(2, 20),
    data=st.data(),
)
def test_an_epoch_has_every_token_once(tmp_path_factory, layout, lengths, length, data):
    overlap = data.draw(st.integers(0, length - 1))
    packing = "best_fit" if layout == "best_fit" else "concat"
    kind = "packed" if layout == "best_fit" else layout
    cache = make_cache(tmp_path_factory.mktemp("cache") / "cache", lengths)
    made = make_layout(cache, Reads(length, kind, overlap), packing, VOCAB.pad)
    origin = int(cache.offsets[data.draw(st.integers(0, len(lengths) - 1))])
    own = collections.Counter()
    for index in range(made.num_windows):
        window = made.window(index, origin)
        real = window.segments > 0
        # In a stream the overlap is what comes next; elsewhere it is what was before.
        new = real.copy()
        if kind == "stream":
            new[length - overlap :] &= index == made.num_windows - 1
        else:
            new[:overlap] = False
        own.update(window.tokens[new].tolist())
        _check(window, cache)
    assert own == collections.Counter(range(FIRST, FIRST + sum(lengths)))


def _check(window, cache):
    """Padding is empty; within a segment tokens and positions count up; segments are documents."""
    real = window.segments > 0
    assert (window.tokens[~real] == VOCAB.pad).all() and (window.positions[~real] == 0).all()
    documents = np.searchsorted(cache.offsets, window.tokens[real] - FIRST, "right")
    segments = window.segments[real]
    if not len(segments):
        return
    assert segments[0] == 1 and np.isin(np.diff(segments), (0, 1)).all()
    same = np.diff(segments) == 0
    assert (np.diff(window.tokens[real])[same] == 1).all()
    assert (np.diff(documents)[same] == 0).all() and (np.diff(documents)[~same] != 0).all()
    starts = np.concatenate([[True], ~same])
    count = np.arange(len(segments))
    assert (window.positions[real] == count - np.maximum.accumulate(count * starts)).all()


@pytest.mark.parametrize(
    "layout, packing", [("packed", "concat"), ("packed", "best_fit"), ("document", "concat")]
)
def test_shuffled_epochs_have_every_token_once_and_differ(tmp_path, layout, packing):
    cache = make_cache(tmp_path / "cache", random_lengths(2, 60, 50))
    pipeline = make_pipeline([cache], Reads(16, layout), batch_size=1, packing=packing)
    epochs = [
        [text(pipeline.batch(k)) for k in range(e * pipeline.num_windows, (e + 1) * pipeline.num_windows)]
        for e in range(3)
    ]
    everything = list(range(FIRST, FIRST + cache.num_tokens))
    for epoch in epochs:
        assert sorted(sum(epoch, [])) == everything
        assert sum(epoch, []) != everything
    assert epochs[0] != epochs[1] != epochs[2]


def test_layouts_refuse_nonsense(tmp_path):
    cache = make_cache(tmp_path / "cache", [5])
    with pytest.raises(ConfigError, match="windows of 4 tokens that overlap by 4"):
        make_layout(cache, Reads(4, overlap=4), "concat", 0)
    with pytest.raises(ConfigError, match="'pack' is not one of: packed, stream, document; did"):
        make_layout(cache, Reads(4, "pack"), "concat", 0)
    with pytest.raises(ConfigError, match="data.packing = 'best_fit' cannot be had with this objective"):
        make_layout(cache, Reads(4, "stream"), "best_fit", 0)


def test_a_token_outside_the_vocabulary_is_noticed_when_read(tmp_path):
    cache = make_cache(tmp_path / "cache", [5, 5])
    path = tmp_path / "cache" / "tokens.bin"
    content = np.fromfile(path, np.uint32)
    content[7] = VOCAB.size
    content.tofile(path)
    layout = make_layout(cache, Reads(4), "concat", 0)
    layout.window(0, 0)
    with pytest.raises(DataError, match=f"damaged: it holds token {VOCAB.size}, outside its vocabulary"):
        layout.window(1, 0)
