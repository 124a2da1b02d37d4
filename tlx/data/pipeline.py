"""Batches of an objective's examples: batch k is a pure function of (seed, k)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError
from tlx.base.files import sha256_json
from tlx.data.batches import Batch, Batches
from tlx.data.config import DataConfig
from tlx.data.order import ScheduledMixture, epoch_permutation, hash64, row_generator
from tlx.data.prepare import open_caches
from tlx.data.sources import Split
from tlx.data.token_split import TokenSplit
from tlx.data.window import Window, WindowSpec, padding_window, reversed_window
from tlx.data.window_layouts import Stream, WindowLayout, check_window_spec, make_layout
from tlx.text import Tokenizer

_KEPT_ORIGINS = 1000  # of pairs (source, epoch)

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
    """Open (or write) the token caches of a split and build the pipeline over their windows.

    Args:
        data: Config of sources and packing.
        tokenizer: Tokenizer of the run.
        example: Function (rng, window, spec) that makes one row of a batch.
        spec: Passed to `example` as it is.
        reads: Specification of the windows.
        batch_size: Rows of a global batch.
        seed: Seed of the order and of all random numbers.
        split: "train" or "validation".

    Returns:
        The pipeline.

    Raises:
        ConfigError: The config is not valid, or does not suit the windows that the objective reads.
        DataError: The text is missing, unreadable, or too short for one batch.
    """
    # Before the text is tokenized, which may take hours.
    check_window_spec(reads, data.packing)
    caches = open_caches(data, tokenizer, split)
    layouts = [make_layout(cache, reads, data.packing, tokenizer.vocab.pad) for cache in caches]
    pipeline = Pipeline(data, layouts, example, spec, reads, batch_size, seed, split)
    pipeline.check_lanes()
    if split == "train":
        pipeline.check_size()
    return pipeline


class Pipeline(Batches):
    """Examples of windows, stacked to batches. Picklable: each data worker gets a copy.

    Rows of the global stream have the index r = k * batch_size + b. A row's source, window and random
    numbers follow from r. In a stream layout its window follows from b (a lane of the text) and k.
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
    ):
        self.batch_size = batch_size
        self.reads = reads
        self._layouts = list(layouts)
        self._example = example
        self._spec = spec
        self._seed = seed
        self._split: Split = split
        self._shuffle = data.shuffle
        self._workers = data.workers
        self._is_remote = any(layout.cache.is_remote for layout in layouts)
        self._origins: dict[tuple[int, int], int] = {}
        sizes = np.array([layout.cache.num_tokens for layout in layouts], np.float64)
        # A power below 1 raises small sources (Conneau and Lample 2019), 0 makes all equal.
        powers = ((sizes / sizes.sum()) ** data.mixture_power).tolist()
        weights = [source.weight * power for source, power in zip(data.sources, powers, strict=True)]
        # Evaluation reads each source in its own order.
        schedule = data.schedule if split == "train" else ()
        stages = [
            [weight * power for weight, power in zip(stage.weights, powers, strict=True)]
            for stage in schedule
        ]
        self._mixture = ScheduledMixture(
            [0, *(stage.step * batch_size for stage in schedule)], [weights, *stages]
        )
        self._has_schedule = bool(schedule)
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
                # Only where there is one, so that the fingerprints of earlier runs stay.
                *([[stage.step for stage in schedule], stages] if schedule else []),
            ]
        )

    @property
    def caches(self) -> tuple[TokenSplit, ...]:
        """Tokens of each source."""
        return tuple(layout.cache for layout in self._layouts)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every window is read about once (in a stream, the steps of the longest lane)."""
        if self.reads.layout == "stream":
            return max(self._lane_steps(source) for source in range(len(self._layouts)))
        return super().steps_per_epoch

    def check_size(self) -> None:
        """Raise DataError where a source has fewer windows than its rows of one batch."""
        for source, layout in enumerate(self._layouts):
            rows = self._mixture.count(source, self.batch_size)
            if layout.num_windows < rows:
                tokens = layout.cache.num_tokens
                name = layout.cache.meta["source"]
                raise DataError(
                    f"{name} is smaller than a batch: {tokens} tokens are {layout.num_windows} windows of "
                    f"{self.reads.length}, a batch takes {rows}; use more text, a smaller train.batch_size "
                    "or a shorter data.sequence_length"
                )

    def check_lanes(self) -> None:
        """Raise ConfigError where the rows of a stream cannot be divided over its sources and directions."""
        if self.reads.both_ways and self.batch_size % 2:
            raise ConfigError(
                f"train.batch_size = {self.batch_size}: where half of the rows read backwards, their number "
                "must be even"
            )
        if self.reads.layout == "stream" and self._has_schedule:
            raise ConfigError(
                "data.schedule cannot be had with this objective, whose rows continue from batch to batch: each row "
                "reads one source"
            )
        for source, layout in enumerate(self._layouts):
            if self.reads.layout == "stream" and not self._lanes[source]:
                raise ConfigError(
                    f"train.batch_size = {self.batch_size} gives {layout.cache.meta['source']} no row: where "
                    "rows continue from batch to batch, each source of data.mixture needs at least one row"
                )

    def _row(self, k: int, b: int, in_order: bool = False) -> Batch:
        if self.reads.layout == "stream":
            address = self._lane_address(k, b)
        else:
            address = self._address(k, b, in_order)
        stream = f"{self._split} in order" if in_order else self._split
        row = k * self.batch_size + b
        if address is None or (in_order and address.epoch):
            rng = row_generator(self._seed, stream, row)
            example = self._example(rng, padding_window(self.reads, self._layouts[0].pad), self._spec)
            return example | {"weights": np.zeros_like(example["weights"])}
        epoch = address.epoch
        if self.reads.copies:
            # The random numbers follow from the version and the window, so that the version repeats exactly.
            epoch %= self.reads.copies
            stream = f"{stream} copies {address.source} {epoch}"
            row = address.window_index
        rng = row_generator(self._seed, stream, row)
        origin = 0
        if self._shuffle and not in_order:
            # Each epoch begins the text at another document, so that windows are cut in other places.
            origin = self._origin(address.source, epoch)
        return self._example(rng, self._window(address, origin, rng), self._spec)

    def _origin(self, source: int, epoch: int) -> int:
        """First token of a source's text in an epoch; kept, since it is read with every row."""
        key = (source, epoch)
        origin = self._origins.get(key)
        if origin is None:
            cache = self._layouts[source].cache
            document = hash64("origin", self._seed, source, epoch) % cache.num_documents
            origin = int(cache.read_offsets(document, document + 1)[0])
            if len(self._origins) >= _KEPT_ORIGINS:
                self._origins.clear()
            self._origins[key] = origin
        return origin

    def _window(self, address: "_WindowAddress", origin: int, rng: np.random.Generator) -> Window:
        layout = self._layouts[address.source]
        language, second_language = self._languages[address.source]
        if address.backwards:
            assert isinstance(layout, Stream)  # only rows of a stream read backwards
            window = layout.window(address.window_index, origin, backwards=True)
        else:
            window = layout.window(address.window_index, origin)
        if not self.reads.second_length:
            return window._replace(language=language)
        second = layout.second_window(address.window_index, self.reads.second_length, rng)
        if address.backwards:
            second = reversed_window(second)
        return window._replace(language=language, second=second._replace(language=second_language))

    def _address(self, k: int, b: int, in_order: bool) -> "_WindowAddress | None":
        """Address of the window of row b of batch k, where rows are independent; None after the end."""
        row = k * self.batch_size + b
        if in_order:
            for source, layout in enumerate(self._layouts):
                if row < layout.num_windows:
                    return _WindowAddress(source, 0, row)
                row -= layout.num_windows
            return None
        source, count = self._mixture.source(row)
        size = self._layouts[source].num_windows
        epoch, index = divmod(count, size)
        if self._shuffle:
            index = epoch_permutation(self._seed, source, epoch, size)(index)
        return _WindowAddress(source, epoch, index)

    def _lane_address(self, k: int, b: int) -> "_WindowAddress | None":
        """Address of the window of row b of batch k in a stream; None after the end of the row's lane.

        Each source's windows are divided into lanes of equal length, one for each row that the mixture gives
        the source. Where text is read both ways, half of the rows read the lanes of the reversed text.
        """
        # The second half of the rows reads backwards (XLNet's bi_data).
        backwards, row = divmod(b, self._rows_one_way)
        source, lane = self._mixture.source(row)
        size = self._layouts[source].num_windows
        lanes = self._lanes[source]
        epoch, step = divmod(k, self._lane_steps(source))
        # Integer division spreads what does not divide: lanes differ by one window at most.
        index = lane * size // lanes + step
        if index >= (lane + 1) * size // lanes:
            return None
        return _WindowAddress(source, epoch, index, bool(backwards))

    @functools.cached_property
    def _lanes(self) -> list[int]:
        """Number of lanes of each source: its rows of a batch in one direction."""
        return [self._mixture.count(source, self._rows_one_way) for source in range(len(self._layouts))]

    @property
    def _rows_one_way(self) -> int:
        """Rows of a batch that read the text in one direction: all, or the first half."""
        return self.batch_size // (2 if self.reads.both_ways else 1)

    def _lane_steps(self, source: int) -> int:
        """Windows of a source's longest lane."""
        return -(-self._layouts[source].num_windows // self._lanes[source])


class _WindowAddress(NamedTuple):
    source: int
    epoch: int
    window_index: int  # within its layout
    backwards: bool = False
