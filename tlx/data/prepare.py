"""From a config to the tokenizer and the token caches, both made once and kept in the user's cache folder."""

from collections.abc import Iterator, Sequence

from tlx.base.config import to_dict
from tlx.base.files import cache_folder, sha256_json
from tlx.data.build_once import build_once
from tlx.data.cache import FORMAT, TokenCache
from tlx.data.config import DataConfig, WeightedSource
from tlx.data.sources import Source, Split, open_source
from tlx.data.tokenize import write_cache
from tlx.text import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer


def prepare_tokenizer(config: TokenizerConfig, data: DataConfig) -> Tokenizer:
    """The run's tokenizer; where one has to be trained, on the train split of `data`, and only once."""
    config.validate()
    if config.path is not None or config.kind == "bytes":
        return make_tokenizer(config, ())
    data.validate()
    sources = [open_source(source, "train") for source in data.sources]
    weights = [source.weight for source in data.sources]
    key = sha256_json(
        [FORMAT, to_dict(config), weights, [[s.source for s in data.sources], [s.identity for s in sources]]]
    )
    return build_once(
        cache_folder() / "tokenizers" / key[:32],
        lambda folder: make_tokenizer(config, _sample(sources, weights, config.train_bytes)).save(folder),
        load_tokenizer,
    )


def open_caches(data: DataConfig, tokenizer: Tokenizer, split: Split) -> tuple[TokenCache, ...]:
    """The token cache of each of the config's sources, written first where it is missing or damaged."""
    data.validate()
    return tuple(_open_cache(source, tokenizer, split, data.add_eos) for source in data.sources)


def _open_cache(config: WeightedSource, tokenizer: Tokenizer, split: Split, add_eos: bool) -> TokenCache:
    source = open_source(config, split)
    key = sha256_json([FORMAT, config.source, source.identity, tokenizer.hash, add_eos])
    return build_once(
        cache_folder() / "tokens" / key[:32],
        lambda folder: write_cache(folder, source, tokenizer, add_eos),
        TokenCache,
    )


def _sample(sources: Sequence[Source], weights: Sequence[float], num_bytes: int) -> Iterator[str]:
    """At most about `num_bytes` of text: each source by its weight, each of its parts the same, from its
    beginning (a document is never cut)."""
    for source, weight in zip(sources, weights, strict=True):
        share = num_bytes * weight / sum(weights) / len(source.parts)
        for part in source.parts:
            yield from _first(share, (text for document in source.read(part) for text in document.texts))


def _first(num_bytes: float, texts: Iterator[str]) -> Iterator[str]:
    size = 0
    for text in texts:
        if size >= num_bytes:
            return
        size += len(text)
        yield text
