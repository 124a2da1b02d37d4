"""Batches of an objective's examples: batch k is a function of (seed, k) and nothing else."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.base.files import sha256_json
from tlx.data.batches import Batch, Batches
from tlx.data.config import DataConfig
from tlx.data.order import SourceMixture, epoch_permutation, hash64, row_generator
from tlx.data.prepare import open_caches
from tlx.data.sources import Split
from tlx.data.window import Window, WindowSpec, padding_window, reversed_window
from tlx.data.window_layouts import WindowLayout, check_window_spec, make_layout
from tlx.text import Tokenizer

Example = Callable[[np.random.Generator, Window, Any], Batch]


def build_pipeline(
    data: DataConfig,
    tokenizer: Tokenizer,
    example: Example,
    spec: Any,
    reads: WindowSpec,
    *,
    batch_size: int,
    seed: int,
    split: Split = "train",
) -> "Pipeline":
    """Opens (or writes) the token caches of `split` and lays out their windows.

    ConfigError, or DataError where the text is missing, unreadable or too little for one batch.
    """
    check_window_spec(reads, data.packing)
    caches = open_caches(data, tokenizer, split)
    layouts = [make_layout(cache, reads, data.packing, tokenizer.vocab.pad) for cache in caches]
    pipeline = Pipeline(data, layouts, example, spec, reads, batch_size, seed, split, tokenizer.vocab.pad)
    pipeline.check_lanes()
    if split == "train":
        pipeline.check_size()
    return pipeline


class Pipeline(Batches):
    """Rows of windows, made into examples and batches. Picklable: data workers get a copy.

    Rows of the global stream are numbered r = k * batch_size + b. A row's source, window and random
    numbers follow from r; in a stream layout its window follows from b (a lane of the text) and k.
    """

    def __init__(
        self,
        data: DataConfig,
        layouts: Sequence[WindowLayout],
        example: Example,
        spec: Any,
        reads: WindowSpec,
        batch_size: int,
        seed: int,
        split: Split,
        pad: int,
    ):
        self.batch_size = batch_size
        self.reads = reads
        self._layouts = list(layouts)
        self._example, self._spec = example, spec
        self._seed, self._split, self._pad = seed, split, pad
        self._shuffle = data.shuffle
        self._workers = data.workers
        sizes = np.array([layout.cache.num_tokens for layout in layouts], np.float64)
        powers = (sizes / sizes.sum()) ** data.mixture_power
        weights = [source.weight * power for source, power in zip(data.sources, powers.tolist(), strict=True)]
        self._mixture = SourceMixture(weights)
        self._languages = [data.language_numbers(source) for source in data.sources]
        self.num_tokens = sum(layout.cache.num_tokens for layout in layouts)
        self.num_windows = sum(layout.num_windows for layout in layouts)
        self.fingerprint = sha256_json(
            [
                [layout.cache.fingerprint for layout in layouts],
                weights,
                list(reads),
                data.packing,
                self._languages,
            ]
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches after which every window was read about once (in a stream: the longest lane, exactly)."""
        if self.reads.layout == "stream":
            return max(self._lane_steps(j) for j in range(len(self._layouts)))
        return super().steps_per_epoch

    def check_size(self) -> None:
        """DataError where a source has fewer windows than its rows of one batch."""
        for source, layout in enumerate(self._layouts):
            rows = self._mixture.count(source, self.batch_size)
            if layout.num_windows < rows:
                tokens, name = layout.cache.num_tokens, layout.cache.meta["source"]
                raise DataError(
                    f"{name} is smaller than a batch: {tokens} tokens are {layout.num_windows} windows of "
                    f"{self.reads.length}, a batch takes {rows}; use more text, a smaller train.batch_size "
                    "or a shorter data.sequence_length"
                )

    def check_lanes(self) -> None:
        """ConfigError where rows go on from batch to batch and a source of the mixture gets none of them."""
        if self.reads.both_ways and self.batch_size % 2:
            raise ConfigError(
                f"train.batch_size = {self.batch_size}: where half of the rows read backwards, their number "
                "must be even"
            )
        for source, layout in enumerate(self._layouts):
            if self.reads.layout == "stream" and not self._lanes(source):
                raise ConfigError(
                    f"train.batch_size = {self.batch_size} gives {layout.cache.meta['source']} no row: where "
                    "rows go on from batch to batch, each source of data.mixture needs one of its own"
                )

    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        place = self._lane_place(k, b) if self.reads.layout == "stream" else self._place(k, b, in_order)
        stream = f"{self._split} in order" if in_order else self._split
        row = k * self.batch_size + b
        if place is None or (in_order and place.epoch):
            rng = row_generator(self._seed, stream, row)
            example = self._example(rng, padding_window(self.reads, self._pad), self._spec)
            return example | {"weights": np.zeros_like(example["weights"])}
        layout, epoch = self._layouts[place.source], place.epoch
        if self.reads.copies:
            epoch %= self.reads.copies
            stream, row = f"{stream} copies {place.source} {epoch}", place.window_index
        rng = row_generator(self._seed, stream, row)
        origin = 0
        if self._shuffle and not in_order:
            document = hash64("origin", self._seed, place.source, epoch) % layout.cache.num_documents
            origin = int(layout.cache.offsets[document])
        return self._example(rng, self._window(place, origin, rng), self._spec)

    def _window(self, place: "_Place", origin: int, rng: np.random.Generator) -> Window:
        layout = self._layouts[place.source]
        language, other_language = self._languages[place.source]
        if place.backwards:
            window = layout.window(place.window_index, origin, backwards=True)._replace(language=language)
        else:
            window = layout.window(place.window_index, origin)._replace(language=language)
        if not self.reads.second_length:
            return window
        other = layout.second_window(place.window_index, self.reads.second_length, rng)
        if place.backwards:
            other = reversed_window(other)
        return window._replace(second=other._replace(language=other_language))

    def _place(self, k: int, b: int, in_order: bool) -> "_Place | None":
        """The window of row b of batch k, where rows are independent of each other."""
        row = k * self.batch_size + b
        if in_order:
            for source, layout in enumerate(self._layouts):
                if row < layout.num_windows:
                    return _Place(source, 0, row)
                row -= layout.num_windows
            return None
        source, count = self._mixture.source(row)
        size = self._layouts[source].num_windows
        epoch, index = divmod(count, size)
        if self._shuffle:
            index = epoch_permutation(self._seed, source, epoch, size)(index)
        return _Place(source, epoch, index)

    def _lane_place(self, k: int, b: int) -> "_Place | None":
        """The window of row b of batch k, where row b reads on from batch to batch: each source's windows
        are dealt in equal stretches to the rows that the mixture gives it (both ways: to half of them, and
        those of the reversed text to the others). None behind a stretch's end."""
        backwards, place = divmod(b, self._ways)
        source, lane = self._mixture.source(place)
        size, lanes = self._layouts[source].num_windows, self._lanes(source)
        epoch, step = divmod(k, self._lane_steps(source))
        index = lane * size // lanes + step
        inside = index < (lane + 1) * size // lanes
        return _Place(source, epoch, index, bool(backwards)) if inside else None

    def _lanes(self, source: int) -> int:
        return self._mixture.count(source, self._ways)

    @property
    def _ways(self) -> int:
        """Rows of a batch that read the text one way: the first half, or all."""
        return self.batch_size // (2 if self.reads.both_ways else 1)

    def _lane_steps(self, source: int) -> int:
        return -(-self._layouts[source].num_windows // self._lanes(source))


class _Place(NamedTuple):
    source: int
    epoch: int
    window_index: int  # of the window in its layout
    backwards: bool = False
