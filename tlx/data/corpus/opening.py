"""Opens a prepared corpus for training, where it was made of what the config says."""

from collections.abc import Mapping
from typing import Any

from tlx.base.config import flatten, from_dict, to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.data.bad_records import SkippedRecords
from tlx.data.config import DataConfig
from tlx.data.corpus.build import read_tokenizer
from tlx.data.corpus.index import INDEX, read_index
from tlx.data.corpus.job import description
from tlx.data.corpus.prepared_split import PreparedSplit
from tlx.data.sources import Split
from tlx.text import Tokenizer, TokenizerConfig


def open_corpus(data: DataConfig, tokenizer: Tokenizer, split: Split) -> tuple[PreparedSplit, ...]:
    """Open a split of the corpus that data.tokens names.

    Args:
        data: Config of the data; its sources are those that the corpus was made of.
        tokenizer: Tokenizer of the run.
        split: "train" or "validation".

    Returns:
        The split of each source, in the order of `data.sources`.

    Raises:
        ConfigError: The corpus was made of other sources, with other values or by another tokenizer.
        DataError: There is no complete corpus, or it is damaged.
    """
    index = read_index(data.tokens)
    try:
        _check_alike(data, index["data"])
        if index["tokenizer"]["hash"] != tokenizer.hash:
            raise ConfigError(
                f"data.tokens = {data.tokens!r} was made by another tokenizer (sha256 {index['tokenizer']['hash']}) "
                f"than this run's ({tokenizer.hash}); prepare another corpus, or take its tokenizer by "
                f"tokenizer.path = '{data.tokens.rstrip('/')}/tokenizer'"
            )
        splits = tuple(
            PreparedSplit(
                data.tokens,
                entry[split],
                index["tokenizer"]["vocab_size"],
                index["key"],
                int(data.cache_gigabytes * 1e9),
            )
            for entry in index["sources"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{data.tokens}/{INDEX} is damaged: {error!r}") from error
    for opened in splits:
        skipped = SkippedRecords(opened.meta["source"], data.bad_records)
        skipped.read_json(opened.meta.get("skipped", {}))
        skipped.report()
    return splits


def corpus_tokenizer(config: TokenizerConfig, data: DataConfig) -> Tokenizer:
    """Return the tokenizer of the corpus that data.tokens names, which was trained on its text.

    Args:
        config: Config of a tokenizer that is trained.
        data: Config of the data.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: It was trained with other values.
        DataError: There is no complete corpus, or it is damaged.
    """
    stored = read_index(data.tokens)["tokenizer"].get("config", {})
    before = to_dict(from_dict(TokenizerConfig, stored, "tokenizer"))
    for name, value in to_dict(config).items():
        if before[name] != value:
            raise ConfigError(
                f"data.tokens = {data.tokens!r} was prepared with tokenizer.{name} = {before[name]!r}, this config "
                f"has {value!r}; take that value, or prepare another corpus with tlx data prepare --to=PLACE"
            )
    return read_tokenizer(data.tokens)


def _check_alike(data: DataConfig, stored: Mapping[str, Any]) -> None:
    """Raise ConfigError that names the first value of the data config that the corpus was not made with."""
    now = _flat(description(data))
    before = _flat(_with_defaults(stored))
    for name in sorted({*now, *before}):
        if now.get(name) != before.get(name):
            raise ConfigError(
                f"data.tokens = {data.tokens!r} was prepared with {name} = {before.get(name)!r}, this config has "
                f"{now.get(name)!r}; take that value, or prepare another corpus with tlx data prepare --to=PLACE"
            )


def _with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored description with the defaults of keys that were added since."""
    sources = [{**source, "weight": 1.0} for source in stored["sources"]]
    # Names of code are compared only, never imported.
    values = {**stored, "mixture": sources}
    del values["sources"]
    return description(from_dict(DataConfig, values, "data", allow=None))


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    sources = to_dict(content["sources"])
    if len(sources) == 1:
        numbered = {"data": sources[0]}
    else:
        numbered = {f"data.mixture[{index}]": source for index, source in enumerate(sources)}
    others = {name: value for name, value in content.items() if name != "sources"}
    return flatten(numbered) | flatten({"data": others})
