"""The tokenizer and the token caches of a config, built once in the user's cache folder."""

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
    """Load or build the tokenizer; a vocabulary is trained once, on the train split of `data`."""
    config.validate()
    if config.path is not None or config.kind == "bytes":
        return make_tokenizer(config, ())
    data.validate()
    sources = [open_source(source, "train") for source in data.sources]
    weights = [source.weight for source in data.sources]
    names = [source.source for source in data.sources]
    identities = [source.identity for source in sources]
    key = sha256_json([FORMAT, to_dict(config), weights, [names, identities]])
    return build_once(
        cache_folder() / "tokenizers" / key[:32],
        lambda folder: make_tokenizer(config, _sample(sources, weights, config.train_bytes)).save(folder),
        load_tokenizer,
    )


def open_caches(data: DataConfig, tokenizer: Tokenizer, split: Split) -> tuple[TokenCache, ...]:
    """Open the token cache of each source; writes those that are missing or damaged.

    Args:
        data: Config of the sources.
        tokenizer: Tokenizer of the run; its hash is part of the key of a cache.
        split: "train" or "validation".

    Returns:
        One cache per source, in the order of `data.sources`.

    Raises:
        ConfigError: The config is not valid.
        DataError: A source cannot be read or has no documents.
    """
    data.validate()
    return tuple(_open_cache(source, tokenizer, split, data.add_eos) for source in data.sources)


def _open_cache(config: WeightedSource, tokenizer: Tokenizer, split: Split, add_eos: bool) -> TokenCache:
    source = open_source(config, split)
    # All that the tokens depend on, so that a changed file or tokenizer never meets an old cache.
    key = sha256_json([FORMAT, config.source, source.identity, tokenizer.hash, add_eos])
    return build_once(
        cache_folder() / "tokens" / key[:32],
        lambda folder: write_cache(folder, source, tokenizer, add_eos),
        TokenCache,
    )


def _sample(sources: Sequence[Source], weights: Sequence[float], num_bytes: int) -> Iterator[str]:
    """Yield about `num_bytes` of text for training a vocabulary.

    Each source contributes by its weight, equally from the beginning of each of its parts. Documents are
    never cut.
    """
    for source, weight in zip(sources, weights, strict=True):
        # From every file: the first file alone may be of one kind or language.
        part_bytes = num_bytes * weight / sum(weights) / len(source.parts)
        for part in source.parts:
            texts = (text for document in source.read(part) for text in document.texts)
            yield from _first(part_bytes, texts)


def _first(num_bytes: float, texts: Iterator[str]) -> Iterator[str]:
    """Yield texts until their total length reaches `num_bytes`."""
    size = 0
    for text in texts:
        if size >= num_bytes:
            return
        size += len(text)
        yield text
