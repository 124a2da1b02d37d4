"""Batch k is a function of (seed, k): whoever builds it, in which process, after whatever."""

import collections
import itertools
import pickle

import numpy as np
import pytest

from tests.data.corpus import (
    FIRST,
    VOCAB,
    CountingTokenizer,
    equal,
    example,
    make_cache,
    make_pipeline,
    random_lengths,
    text,
)
from tlx.base.errors import ConfigError, DataError
from tlx.data import DataConfig, TextConfig, WeightedSource, build_pipeline
from tlx.data.config import MixtureStage
from tlx.data.window import WindowSpec

pytestmark = pytest.mark.jax_versions

LAYOUTS = [
    (WindowSpec(16), "concat"),
    (WindowSpec(17, overlap=1), "concat"),
    (WindowSpec(16), "best_fit"),
    (WindowSpec(16, "stream", 8), "concat"),
    (WindowSpec(16, "document"), "concat"),
]
MIXED = (WeightedSource(weight=3.0), WeightedSource(weight=1.0))


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return [
        make_cache(folder / "a", random_lengths(0, 90, 60), eos=True, name="a"),
        make_cache(folder / "b", random_lengths(1, 30, 60), first=50_000, eos=True, name="b"),
    ]


@pytest.fixture(params=LAYOUTS, ids=lambda p: f"{p[0].layout}-{p[1]}-{p[0].overlap}")
def pipeline(request, caches):
    reads, packing = request.param
    return make_pipeline(caches, reads, batch_size=8, packing=packing, mixture=MIXED)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_rows_do_not_depend_on_who_builds_them(pipeline, num_processes):
    rows = np.split(np.arange(8), num_processes)
    for k in (0, 3, 200):
        whole = pipeline.batch(k)
        parts = [pickle.loads(pickle.dumps(pipeline)).batch(k, own) for own in rows]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in whole}
        assert equal(whole, joined)
        assert equal(pipeline.batch(k, [5, 2]), {key: value[[5, 2]] for key, value in whole.items()})


def test_iterating_from_the_middle_gives_the_same_batches(pipeline):
    expected = [pipeline.batch(k) for k in range(12)]
    for start in (0, 5):
        batches = pipeline.iterate(start)
        for k in range(start, 12):
            assert equal(next(batches), expected[k])
        batches.close()
    own = pipeline.iterate(7, rows=[1, 6])
    assert equal(next(own), pipeline.batch(7, [1, 6]))
    own.close()


def test_workers_give_the_same_batches_and_start_no_jax_backend(caches):
    import jax

    assert jax.devices()  # as in a training process: the parent has its backend
    pipeline = make_pipeline(caches, WindowSpec(16), batch_size=4, mixture=MIXED, workers=2, example=_spying)
    alone = make_pipeline(caches, WindowSpec(16), batch_size=4, mixture=MIXED, example=_spying)
    batches = pipeline.iterate(3)
    for k in range(3, 10):
        batch, expected = next(batches), alone.batch(k)
        assert batch.pop("backend").max() == 0 and expected.pop("backend").min() == 1
        assert equal(batch, expected)
    batches.close()


def _spying(rng, window, spec):
    from jax._src import xla_bridge

    return example(rng, window, spec) | {"backend": np.array(xla_bridge.backends_are_initialized(), np.int32)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_error(caches, workers):
    batches = make_pipeline(caches[:1], WindowSpec(16), workers=workers, example=_failing).iterate()
    with pytest.raises(DataError, match="this document is bad"):
        next(batches)


def _failing(rng, window, spec):
    raise DataError("this document is bad")


def test_seeds_and_epochs_differ(caches):
    one, same, other = (make_pipeline(caches[:1], WindowSpec(16), seed=seed) for seed in (0, 0, 1))
    assert equal(one.batch(0), same.batch(0))
    assert not np.array_equal(one.batch(0)["tokens"], other.batch(0)["tokens"])
    draws = {float(x) for p in (one, other) for k in range(20) for x in p.batch(k)["random"]}
    assert len(draws) == 2 * 20 * 4
    validation = make_pipeline(caches[:1], WindowSpec(16), split="validation")
    assert not np.array_equal(one.batch(0)["random"], validation.batch(0)["random"])


def test_unshuffled_rows_come_in_order(caches):
    pipeline = make_pipeline(caches[:1], WindowSpec(16), shuffle=False)
    tokens = sum((text(pipeline.batch(k)) for k in range(pipeline.steps_per_epoch)), [])
    count = caches[0].num_tokens
    assert tokens[:count] == caches[0].tokens.tolist()  # and then the next epoch begins
    assert tokens[count:] == tokens[: len(tokens) - count]


def test_the_mixture_keeps_its_shares_and_each_source_its_epochs(caches):
    pipeline = make_pipeline(caches, WindowSpec(16), batch_size=8, mixture=MIXED)
    seen = collections.Counter()
    num_b = 0
    for k in range(200):
        tokens = pipeline.batch(k)["tokens"]
        from_b = (tokens[:, :2] >= 50_000).any(axis=1)
        assert from_b.sum() == 2  # a quarter of 8, in every batch
        for row in tokens[from_b]:
            if num_b < 3 * pipeline._layouts[1].num_windows:
                seen.update(row[row >= 50_000].tolist())
            num_b += 1
    assert set(seen) == set(range(50_000, 50_000 + int(caches[1].num_tokens) - caches[1].num_documents))
    assert set(seen.values()) == {3}  # three epochs of b, each with every token once


def test_weights_change_at_their_steps(caches):
    stages = (MixtureStage(5, (1.0, 1.0)), MixtureStage(9, (1.0, 3.0)))
    plain = make_pipeline(caches, WindowSpec(16), batch_size=8, mixture=MIXED)
    staged = make_pipeline(caches, WindowSpec(16), batch_size=8, mixture=MIXED, schedule=stages)
    assert all(equal(staged.batch(k), plain.batch(k)) for k in range(5))
    from_b = [int((staged.batch(k)["tokens"][:, :2] >= 50_000).any(axis=1).sum()) for k in range(14)]
    assert from_b == [2] * 5 + [4] * 4 + [6] * 5
    assert equal(pickle.loads(pickle.dumps(staged)).batch(11, [6, 1]), staged.batch(11, [6, 1]))
    # No window of an epoch is left out or read twice where the weights change.
    rows = [staged._address(k, b, False) for k in range(60) for b in range(8)]
    for source in range(2):
        size = staged._layouts[source].num_windows
        windows = [row.window_index for row in rows if row.source == source]
        assert sorted(windows[:size]) == list(range(size))
    assert staged.fingerprint != plain.fingerprint
    held_out = make_pipeline(
        caches, WindowSpec(16), batch_size=8, split="validation", mixture=MIXED, schedule=stages
    )
    assert equal(
        held_out.batch(9), make_pipeline(caches, WindowSpec(16), 8, 0, "validation", mixture=MIXED).batch(9)
    )


@pytest.mark.parametrize(
    "schedule, message",
    [
        ((MixtureStage(5, (1.0,)),), r"schedule\[0\].weights = \(1.0,\) must be 2 numbers above 0"),
        ((MixtureStage(5, (1.0, 0.0)),), "must be 2 numbers above 0"),
        ((MixtureStage(0, (1.0, 1.0)),), r"schedule\[0\].step = 0 must be above 0"),
        ((MixtureStage(5, (1.0, 1.0)), MixtureStage(5, (2.0, 1.0))), "step = 5 must be above 5"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_an_error(schedule, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(mixture=MIXED, schedule=schedule).validate()


def test_a_stream_has_no_schedule(caches):
    stages = (MixtureStage(5, (1.0, 1.0)),)
    pipeline = make_pipeline(caches, WindowSpec(16, "stream"), batch_size=8, mixture=MIXED, schedule=stages)
    with pytest.raises(ConfigError, match="data.schedule cannot be had with this objective"):
        pipeline.check_lanes()
    with pytest.raises(
        ConfigError, match="data.schedule changes the weights of data.mixture, which is empty"
    ):
        DataConfig(schedule=stages).validate()


def test_a_stream_reads_on_from_batch_to_batch(caches):
    reads = WindowSpec(16, "stream", 6)
    pipeline = make_pipeline(caches, reads, batch_size=8, mixture=MIXED)
    steps = [pipeline._lane_steps(0), pipeline._lane_steps(1)]
    compared = 0
    for k in range(min(steps) * 2):
        this, following = pipeline.batch(k), pipeline.batch(k + 1)
        for b in range(8):
            source = int(this["tokens"][b].max() >= 50_000)
            whole = (this["segments"][b] > 0).all() and (following["segments"][b] > 0).any()
            if whole and (k + 1) % steps[source]:
                assert np.array_equal(
                    this["tokens"][b][10:][following["segments"][b][:6] > 0],
                    following["tokens"][b][:6][following["segments"][b][:6] > 0],
                )
                compared += 1
    assert compared > 50


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_a_stream_epoch_has_every_token_once(caches, batch_size):
    pipeline = make_pipeline(caches[:1], WindowSpec(10, "stream"), batch_size=batch_size)
    steps = pipeline.steps_per_epoch
    epochs = [sum((text(pipeline.batch(e * steps + k)) for k in range(steps)), []) for e in range(2)]
    everything = sorted(caches[0].tokens.tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert batch_size > 1 or epochs[0] != epochs[1]  # another origin


def test_one_pass_in_order(pipeline, caches):
    batches = list(pipeline.epoch_batches())
    again = list(pipeline.epoch_batches())
    assert len(batches) == pipeline.steps_per_epoch
    assert all(equal(a, b) for a, b in zip(batches, again, strict=True))
    own = list(pipeline.epoch_batches(rows=[3]))
    assert all(equal(a, {k: v[[3]] for k, v in b.items()}) for a, b in zip(own, batches, strict=True))
    overlap = pipeline.reads.overlap
    seen = sum((text(batch) for batch in batches), [])
    everything = sum((cache.tokens.tolist() for cache in caches), [])
    if overlap == 0:
        assert collections.Counter(seen) == collections.Counter(everything)
    assert set(seen) == set(everything)
    for batch in batches:
        assert batch["tokens"].shape == (8, pipeline.reads.length)
        assert (batch["weights"][batch["segments"] == 0] == 0).all()


def test_one_pass_of_streams_of_different_lengths(caches):
    pipeline = make_pipeline(caches, WindowSpec(10, "stream"), batch_size=8, mixture=MIXED)
    assert pipeline._lane_steps(0) != pipeline._lane_steps(1)
    seen = sum((text(batch) for batch in pipeline.epoch_batches()), [])
    assert sorted(seen) == sorted(sum((cache.tokens.tolist() for cache in caches), []))


def test_a_pass_does_not_depend_on_the_batch_size(caches):
    def rows(batch_size):
        pipeline = make_pipeline(
            caches, WindowSpec(16), batch_size=batch_size, mixture=MIXED, split="validation"
        )
        rows = [row for b in pipeline.epoch_batches() for row in zip(b["tokens"], b["random"], strict=True)]
        return [(t.tolist(), float(r)) for t, r in rows[: pipeline.num_windows]]

    assert rows(3) == rows(8)


def test_fingerprint_follows_the_text_and_its_cut(caches, tmp_path):
    base = make_pipeline(caches[:1], WindowSpec(16)).fingerprint
    copy = make_cache(tmp_path / "copy", random_lengths(0, 90, 60), eos=True, name="elsewhere")
    other = make_cache(tmp_path / "other", random_lengths(0, 91, 60), eos=True)
    assert make_pipeline([copy], WindowSpec(16), batch_size=2, seed=5).fingerprint == base
    assert make_pipeline([other], WindowSpec(16)).fingerprint != base
    assert make_pipeline(caches[:1], WindowSpec(17)).fingerprint != base
    assert make_pipeline(caches[:1], WindowSpec(16), packing="best_fit").fingerprint != base


def _build(tmp_path, monkeypatch, documents, **kwargs):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{d}"}}\n' for d in documents))
    files = (str(tmp_path / "a.jsonl"),)
    data = DataConfig(
        source="text", text=TextConfig(files=files, validation_files=files), **kwargs.pop("data", {})
    )
    kwargs = {"batch_size": 4, "seed": 0, **kwargs}
    tokenizer = kwargs.pop("tokenizer", CountingTokenizer())
    return build_pipeline(data, tokenizer, example, None, kwargs.pop("reads", WindowSpec(8)), **kwargs)


def test_build_pipeline_from_files(tmp_path, monkeypatch):
    pipeline = _build(tmp_path, monkeypatch, ["100:130", "130:150"], data={"shuffle": False})
    assert (pipeline.num_tokens, pipeline.num_windows, pipeline.steps_per_epoch) == (52, 7, 2)
    assert text(pipeline.batch(0)) == [*range(100, 130), VOCAB.eos, 130]


def test_too_little_text_for_a_batch(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"a.jsonl \(train\) is smaller than a batch: 12 tokens are 2 windows"
    ):
        _build(tmp_path, monkeypatch, ["100:111"])
    validation = _build(tmp_path, monkeypatch, ["100:111"], split="validation")
    (batch,) = validation.epoch_batches()
    assert batch["weights"].sum(axis=1).tolist() == [8, 4, 0, 0]


def test_a_source_without_a_row_of_the_stream(caches):
    pipeline = make_pipeline(caches, WindowSpec(8, "stream"), batch_size=2, mixture=MIXED)
    with pytest.raises(ConfigError, match="batch_size = 2 gives b no row"):
        pipeline.check_lanes()


def test_a_token_outside_the_vocabulary_names_its_record(tmp_path, monkeypatch):
    documents = ["100:110", f"{VOCAB.size - 2}:{VOCAB.size + 3}"]
    with pytest.raises(DataError, match=rf"a.jsonl:2: token {VOCAB.size} at position 2 is outside the vocab"):
        _build(tmp_path, monkeypatch, documents)


def test_the_last_documents_are_not_lost(caches):
    pipeline = make_pipeline(caches[:1], WindowSpec(16), batch_size=7)
    rows = itertools.chain.from_iterable(pipeline.batch(k)["tokens"] for k in range(pipeline.steps_per_epoch))
    last = int(caches[0].tokens[-2])
    assert last > FIRST and any(last in row for row in rows)
