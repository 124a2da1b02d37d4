"""Every token of a split is in one window of an epoch; segments and positions say where documents begin."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.data.corpus import FIRST, VOCAB, make_cache, make_pipeline, random_lengths, text
from tlx.base.errors import ConfigError, DataError
from tlx.data import DataConfig, WeightedSource
from tlx.data.document_windows import count_windows
from tlx.data.packing import best_fit_plan
from tlx.data.window import Window, WindowSpec, reversed_window
from tlx.data.window_layouts import make_layout


def _layout(tmp_path, lengths, reads, packing="concat", eos=False):
    cache = make_cache(tmp_path / "cache", lengths, eos=eos)
    return make_layout(cache, reads, packing, VOCAB.pad)


def test_concat_by_hand(tmp_path):
    layout = _layout(tmp_path, [3, 4, 2], WindowSpec(4))
    windows = [layout.window(i, 0) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [108, 0, 0, 0],
    ]
    assert [w.segments.tolist() for w in windows] == [[1, 1, 1, 2], [1, 1, 1, 2], [1, 0, 0, 0]]
    assert [w.positions.tolist() for w in windows] == [[0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert all(array.dtype == np.int32 for w in windows for array in w[:3])


def test_documents_end_with_eos(tmp_path):
    layout = _layout(tmp_path, [3, 2], WindowSpec(7), eos=True)
    assert layout.window(0, 0).tokens.tolist() == [100, 101, 102, VOCAB.eos, 103, 104, VOCAB.eos]
    assert layout.window(0, 0).segments.tolist() == [1, 1, 1, 1, 2, 2, 2]


def test_concat_shows_the_overlap_before_a_window(tmp_path):
    layout = _layout(tmp_path, [3, 4], WindowSpec(4, overlap=1))
    windows = [layout.window(i, 0) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [0, 100, 101, 102],
        [102, 103, 104, 105],
        [105, 106, 0, 0],
    ]
    assert [w.segments.tolist() for w in windows] == [[0, 1, 1, 1], [1, 2, 2, 2], [1, 1, 0, 0]]
    assert [w.positions.tolist() for w in windows] == [[0, 0, 1, 2], [0, 0, 1, 2], [0, 1, 0, 0]]


def test_concat_reads_around_from_its_origin(tmp_path):
    layout = _layout(tmp_path, [3, 4, 2], WindowSpec(6))
    windows = [layout.window(i, 7) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [107, 108, 100, 101, 102, 103],
        [104, 105, 106, 0, 0, 0],
    ]
    assert windows[0].segments.tolist() == [1, 1, 2, 2, 2, 3]
    assert windows[0].positions.tolist() == [0, 1, 0, 1, 2, 0]


def test_document_by_hand(tmp_path):
    layout = _layout(tmp_path, [5, 2, 3], WindowSpec(4, "document", 1))
    windows = [layout.window(i, 0) for i in range(layout.num_windows)]
    assert [w.tokens.tolist() for w in windows] == [
        [0, 100, 101, 102],
        [102, 103, 104, 0],
        [0, 105, 106, 0],
        [0, 107, 108, 109],
    ]
    assert [w.segments.tolist() for w in windows] == [[0, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 1]]


def test_best_fit_by_hand(tmp_path):
    layout = _layout(tmp_path, [5, 9, 3, 2, 6], WindowSpec(8), "best_fit")
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
    layout = _layout(tmp_path, [10, 2], WindowSpec(5, overlap=1), "best_fit")
    windows = [layout.window(i, 0).tokens.tolist() for i in range(layout.num_windows)]
    assert windows == [[0, 100, 101, 102, 103], [103, 104, 105, 106, 107], [107, 108, 109, 110, 111]]


def test_best_fit_cuts_nothing_that_fits_and_wastes_little(tmp_path):
    lengths = random_lengths(0, 3000, 120)
    plan = best_fit_plan(make_cache(tmp_path / "c", lengths), 128)
    assert sorted(plan.sizes.tolist()) == sorted(lengths.tolist())  # no document is cut
    used = np.add.reduceat(plan.sizes, np.concatenate([[0], plan.ends[:-1]]))
    assert used.max() <= 128
    assert used.sum() / (128 * len(used)) > 0.99


def test_best_fit_packs_inside_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.data.packing.BLOCK", 10)
    lengths = random_lengths(1, 35, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    plan = best_fit_plan(make_cache(tmp_path / "c", lengths), 32)
    assert sorted(plan.sizes.tolist()) == sorted(lengths.tolist())
    blocks = (np.searchsorted(offsets, plan.starts, "right") - 1) // 10
    for first, last in zip([0, *plan.ends[:-1]], plan.ends, strict=True):
        assert len(set(blocks[first:last])) == 1
    shorter = best_fit_plan(
        make_cache(tmp_path / "shorter", lengths[:20]), 32
    )  # the third block does not matter to the first two
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
    made = make_layout(cache, WindowSpec(length, kind, overlap), packing, VOCAB.pad)
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
    pipeline = make_pipeline([cache], WindowSpec(16, layout), batch_size=1, packing=packing)
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
        make_layout(cache, WindowSpec(4, overlap=4), "concat", 0)
    with pytest.raises(ConfigError, match="'pack' is not one of: packed, stream, document, parallel"):
        make_layout(cache, WindowSpec(4, "pack"), "concat", 0)
    with pytest.raises(ConfigError, match="data.packing = 'best_fit' cannot be had with this objective"):
        make_layout(cache, WindowSpec(4, "stream"), "best_fit", 0)


def test_a_token_outside_the_vocabulary_is_noticed_when_read(tmp_path):
    cache = make_cache(tmp_path / "cache", [5, 5])
    path = tmp_path / "cache" / "tokens.bin"
    content = np.fromfile(path, np.uint32)
    content[7] = VOCAB.size
    content.tofile(path)
    layout = make_layout(cache, WindowSpec(4), "concat", 0)
    layout.window(0, 0)
    with pytest.raises(DataError, match=f"damaged: it holds token {VOCAB.size}, outside its vocabulary"):
        layout.window(1, 0)


def _others(layout, index, length, draws=2000):
    rng = np.random.default_rng(0)
    return [layout.second_window(index, length, rng) for _ in range(draws)]


def test_other_text_begins_at_any_token_of_the_split(tmp_path):
    layout = _layout(tmp_path, [5, 7, 8], WindowSpec(4, "stream", second_length=6))
    starts = [int(window.tokens[0]) - FIRST for window in _others(layout, 0, 6)]
    counts = np.bincount(starts, minlength=15)
    assert len(counts) == 15 and stats.chisquare(counts).pvalue > 1e-3
    for window in _others(layout, 0, 6, 100):
        _check(window, layout.cache)
        assert window.segments.all()


def test_other_text_of_documents_is_of_another_one(tmp_path):
    layout = _layout(tmp_path, [6, 3, 2], WindowSpec(4, "document", second_length=4))
    starts = [int(window.tokens[0]) - FIRST for window in _others(layout, 1, 4)]  # beside the first document
    counts = np.bincount(starts, minlength=11)
    # Documents alike, then their tokens alike.
    expected = np.repeat([1 / 6, 1 / 4], [3, 2]) * len(starts)
    assert counts[:6].sum() == 0 and stats.chisquare(counts[6:], expected).pvalue > 1e-3
    assert {tuple(w.tokens.tolist()) for w in _others(layout, 1, 4, 300) if w.tokens[0] == FIRST + 7} == {
        (107, 108, 0, 0)
    }
    alone = _layout(tmp_path / "alone", [6], WindowSpec(4, "document", second_length=4))
    assert {int(window.tokens[0]) for window in _others(alone, 0, 4)} == set(range(100, 106))


def test_pairs_by_hand(tmp_path):
    cache = make_cache(tmp_path / "cache", [3, 2, 6, 1], eos=True, parallel=True)
    layout = make_layout(cache, WindowSpec(4, "parallel", second_length=3), "concat", VOCAB.pad)
    pairs = [(layout.window(i, 0), layout.second_window(i, 3, None)) for i in range(layout.num_windows)]
    eos = VOCAB.eos
    assert [[w.tokens.tolist() for w in pair] for pair in pairs] == [
        [[100, 101, 102, eos], [103, 104, eos]],
        [[105, 106, 107, 108], [111, eos, 0]],
    ]
    assert pairs[1][1].segments.tolist() == [1, 1, 0] and pairs[1][1].positions.tolist() == [0, 1, 0]


def test_text_without_translation_can_stand_beside_pairs(tmp_path):
    reads = WindowSpec(4, "packed_or_parallel", second_length=4)
    pairs = make_cache(tmp_path / "pairs", [3, 2, 4, 1], parallel=True)
    plain = make_cache(tmp_path / "plain", [3, 6], first=500)
    pipeline = make_pipeline([pairs, plain], reads, mixture=(WeightedSource(),) * 2, example=_both)
    rows = [
        (a.tolist(), b.tolist())
        for k in range(2)
        for a, b in zip(*map(pipeline.batch(k).get, ("tokens", "other")), strict=True)
    ]
    assert ([100, 101, 102, 0], [103, 104, 0, 0]) in rows and ([105, 106, 107, 108], [109, 0, 0, 0]) in rows
    assert all(b == [0] * 4 and min(x for x in a if x) >= 500 for a, b in rows if max(a) >= 500)


def _both(rng, window, spec):
    del rng, spec
    return {
        "tokens": window.tokens,
        "other": window.second.tokens,
        "languages": np.array([window.language, window.second.language], np.int32),
        "weights": (window.segments > 0).astype(np.float32),
    }


def test_pairs_are_refused_where_they_are_not_expected(tmp_path):
    pairs = make_cache(tmp_path / "pairs", [3, 2], parallel=True)
    plain = make_cache(tmp_path / "plain", [3, 2])
    with pytest.raises(ConfigError, match="reads pairs of texts, but lengths has none"):
        make_layout(plain, WindowSpec(4, "parallel", second_length=4), "concat", 0)
    with pytest.raises(ConfigError, match="lengths has pairs of texts"):
        make_layout(pairs, WindowSpec(4), "concat", 0)
    with pytest.raises(ConfigError, match="'parallel' without room for a translation"):
        make_layout(pairs, WindowSpec(4, "parallel"), "concat", 0)


def test_windows_know_their_languages(tmp_path):
    caches = [make_cache(tmp_path / name, [3, 2, 4, 1], parallel=name == "b") for name in "ab"]
    sources = (WeightedSource(language="fi"), WeightedSource(language="en", target_language="fi"))
    reads = WindowSpec(4, "packed_or_parallel", second_length=4)
    pipeline = make_pipeline(caches, reads, mixture=sources, example=_both)
    batch = pipeline.batch(0)
    is_pair = (batch["other"] != VOCAB.pad).any(axis=1)
    assert DataConfig(mixture=sources).languages == ("fi", "en")
    assert batch["languages"].tolist() == [[1, 0] if pair else [0, 0] for pair in is_pair]
    assert DataConfig().languages == ("",)


def test_shares_are_sizes_to_a_power(tmp_path):
    caches = [make_cache(tmp_path / "a", [900]), make_cache(tmp_path / "b", [100], first=5000)]
    for power, share in ((0.0, 1 / 2), (0.5, 3 / 4), (1.0, 9 / 10)):
        pipeline = make_pipeline(
            caches, WindowSpec(10), 200, mixture=(WeightedSource(),) * 2, mixture_power=power
        )
        assert np.mean(pipeline.batch(0)["tokens"][:, 0] < 5000) == pytest.approx(share, abs=0.01)


def test_copies_repeat_with_their_epochs(tmp_path):
    cache = make_cache(tmp_path / "cache", random_lengths(2, 20, 20))

    def epoch(pipeline, number):
        rows = [
            pipeline.batch(k)
            for k in range(number * pipeline.num_windows, (number + 1) * pipeline.num_windows)
        ]
        return {(tuple(row["tokens"][0].tolist()), float(row["random"][0])) for row in rows}

    copied = make_pipeline([cache], WindowSpec(8, copies=2), batch_size=1)
    epochs = [epoch(copied, number) for number in range(5)]
    assert epochs[0] == epochs[2] == epochs[4] and epochs[1] == epochs[3]
    assert not {draw for _, draw in epochs[0]} & {draw for _, draw in epochs[1]}
    fresh = make_pipeline([cache], WindowSpec(8), batch_size=1)
    epochs = [{draw for _, draw in epoch(fresh, number)} for number in range(3)]
    assert not epochs[0] & epochs[2] and not epochs[0] & epochs[1]


def test_half_of_the_rows_read_backwards(tmp_path):
    """Rows 0 and 1 of 4 read the text once, rows 2 and 3 the reversed text, each continuing itself."""
    cache = make_cache(tmp_path / "cache", [7, 9, 13])
    pipeline = make_pipeline([cache], WindowSpec(6, "stream", 3, both_ways=True), 4, shuffle=False)
    batches = list(pipeline.epoch_batches())
    rows = [[b["tokens"][row][b["segments"][row] > 0].tolist() for b in batches] for row in range(4)]
    for row, pieces in enumerate(rows):
        step = -1 if row > 1 else 1
        pieces = [piece for piece in pieces if piece]
        assert all(np.all(np.diff(piece) == step) for piece in pieces)
        assert all(b[0] == a[0] + 3 * step for a, b in zip(pieces, pieces[1:], strict=False))
    text = set(range(FIRST, FIRST + 29))
    assert set(sum(rows[0] + rows[1], [])) == set(sum(rows[2] + rows[3], [])) == text
    assert rows[0][0][0] == FIRST and rows[2][0][0] == FIRST + 28
    backwards = batches[1]
    assert backwards["segments"][2].tolist() == [1] * 6
    assert backwards["positions"][2].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="must be even"):
        make_pipeline([cache], WindowSpec(6, "stream", 3, both_ways=True), 3).check_lanes()
    with pytest.raises(ConfigError, match="'packed' both ways"):
        make_layout(cache, WindowSpec(6, both_ways=True), "concat", 0)


def test_a_reversed_window_counts_documents_from_its_end():
    real = Window(*(np.array(x, np.int32) for x in ([5, 6, 7, 8, 0], [1, 1, 1, 2, 0], [4, 5, 6, 0, 0])))
    back = reversed_window(real)
    assert back.tokens.tolist() == [8, 7, 6, 5, 0] and back.segments.tolist() == [1, 2, 2, 2, 0]
    assert back.positions.tolist() == [0, 0, 1, 2, 0] and back.backwards


def test_windows_of_documents_are_counted_by_blocks(tmp_path, monkeypatch):
    lengths = random_lengths(5, 500, 60)
    cache = make_cache(tmp_path / "c", lengths)
    ends = np.cumsum(-(-lengths // 16))
    monkeypatch.setattr("tlx.data.document_windows._BLOCK", 8)
    monkeypatch.setattr("tlx.data.document_windows._READ", 64)
    counts = count_windows(cache, 16)
    assert counts.num_windows == ends[-1] and len(counts.before) == 64
    for index in range(counts.num_windows):
        document, piece = counts.find(cache, index)
        expected = int(np.searchsorted(ends, index, "right"))
        assert document.index == expected
        assert piece == index - (ends[expected - 1] if expected else 0)
        assert document.stop - document.start == lengths[expected]
    monkeypatch.setattr("tlx.data.document_windows._MANY", 1)
    assert np.array_equal(count_windows(cache, 16).before, counts.before)
    (kept,) = tmp_path.glob("c-documents-16/before.npy")
    written = kept.stat().st_mtime_ns
    assert np.array_equal(count_windows(cache, 16).before, counts.before)
    assert kept.stat().st_mtime_ns == written
