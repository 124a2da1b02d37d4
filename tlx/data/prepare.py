"""The tokenizer and the tokens of a config: a prepared corpus, or caches that are built once in the user's folder."""

import pathlib
from collections.abc import Iterator, Sequence

from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.base.files import cache_folder, sha256_json
from tlx.data.bad_records import DEFAULT_POLICY, BadRecord, BadRecordPolicy, SkippedRecords, surrogate_in
from tlx.data.build_once import build_once
from tlx.data.cache import FORMAT, TokenCache
from tlx.data.config import DataConfig, WeightedSource
from tlx.data.corpus.opening import corpus_tokenizer, open_corpus
from tlx.data.sources import Document, Source, Split, open_source
from tlx.data.token_split import TokenSplit
from tlx.data.tokenize import write_cache
from tlx.text import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer

# Text beyond which several processes need a prepared corpus: about 5 core-minutes of SentencePiece.
MOST_SHARED_BYTES = 10**9


def prepare_tokenizer(config: TokenizerConfig, data: DataConfig) -> Tokenizer:
    """Load or build the tokenizer; a vocabulary is trained once, on the train split of `data`."""
    config.validate()
    if config.path is not None or config.kind == "bytes":
        return make_tokenizer(config, ())
    data.validate()
    if data.tokens:
        return corpus_tokenizer(config, data)
    sources = [open_source(source, "train") for source in data.sources]
    weights = [source.weight for source in data.sources]
    names = [source.source for source in data.sources]
    identities = [source.identity for source in sources]
    policy = data.bad_records
    key = sha256_json([FORMAT, to_dict(config), weights, [names, identities], *_policy_key(policy)])
    return build_once(
        cache_folder() / "tokenizers" / key[:32],
        lambda folder: make_tokenizer(config, _sample(sources, weights, config.train_bytes, policy)).save(
            folder
        ),
        load_tokenizer,
    )


def open_caches(data: DataConfig, tokenizer: Tokenizer, split: Split) -> tuple[TokenSplit, ...]:
    """Open the prepared corpus, or else the token cache of each source; writes those that are missing or damaged.

    Args:
        data: Config of the sources.
        tokenizer: Tokenizer of the run; its hash is part of the key of a cache.
        split: "train" or "validation".

    Returns:
        The tokens of each source, in the order of `data.sources`.

    Raises:
        ConfigError: The config is not valid, or the corpus was made with another one.
        DataError: A source cannot be read or has no documents.
    """
    data.validate()
    if data.tokens:
        return open_corpus(data, tokenizer, split)
    if data.filter.is_active:
        raise ConfigError(
            "data.filter leaves out records while a corpus is prepared: run tlx data prepare --to=PLACE with this "
            "config, and set data.tokens = PLACE"
        )
    return tuple(_open_cache(source, tokenizer, split, data) for source in data.sources)


def check_text_size(data: DataConfig, tokenizer: Tokenizer, num_processes: int) -> None:
    """Raise ConfigError where several processes would wait for a host that tokenises much text.

    Args:
        data: Config of the sources.
        tokenizer: Tokenizer of the run.
        num_processes: Processes of the run.
    """
    if num_processes == 1 or data.tokens:
        return
    waiting = 0
    for config in data.sources:
        sizes: dict[str, int] = {}  # of the parts: both splits may have the same ones
        splits: tuple[Split, ...] = ("train", "validation")
        for split in splits:
            source = open_source(config, split)
            if not _cache_path(config, source, tokenizer, data).exists():
                sizes.update(zip(source.parts, getattr(source, "part_sizes", ()), strict=False))
        waiting += sum(sizes.values())
    if waiting > MOST_SHARED_BYTES:
        raise ConfigError(
            f"the text is {waiting / 1e9:.1f} GB, and {num_processes} processes would wait for each host to tokenise "
            f"it; above {MOST_SHARED_BYTES / 1e9:g} GB, prepare it once: tlx data prepare --config=C --to=PLACE, "
            "then --config.data.tokens=PLACE"
        )


def _cache_path(
    config: WeightedSource, source: Source, tokenizer: Tokenizer, data: DataConfig
) -> pathlib.Path:
    """Folder of the token cache of a source."""
    # All that the tokens depend on, so that a changed file or tokenizer never meets an old cache.
    key = sha256_json(
        [FORMAT, config.source, source.identity, tokenizer.hash, data.add_eos, *_policy_key(data.bad_records)]
    )
    return cache_folder() / "tokens" / key[:32]


def _open_cache(config: WeightedSource, tokenizer: Tokenizer, split: Split, data: DataConfig) -> TokenCache:
    source = open_source(config, split)
    add_eos = data.add_eos
    policy = data.bad_records
    cache = build_once(
        _cache_path(config, source, tokenizer, data),
        lambda folder: write_cache(folder, source, tokenizer, add_eos, policy),
        TokenCache,
    )
    skipped = SkippedRecords(source.name, policy)
    skipped.read_json(cache.meta.get("skipped", {}))
    skipped.report()
    return cache


def _policy_key(policy: BadRecordPolicy) -> list[str]:
    """Part of a cache's key: only skipping changes what is in it, so that older caches stay valid."""
    return ["skip"] if policy.action == "skip" else []


def _sample(
    sources: Sequence[Source],
    weights: Sequence[float],
    num_bytes: int,
    policy: BadRecordPolicy = DEFAULT_POLICY,
) -> Iterator[str]:
    """Yield about `num_bytes` of text for training a vocabulary.

    Each source contributes by its weight, equally from the beginning of each of its parts. Documents are
    never cut.
    """
    for source, weight in zip(sources, weights, strict=True):
        # From every file: the first file alone may be of one kind or language.
        part_bytes = num_bytes * weight / sum(weights) / len(source.parts)
        skipped = SkippedRecords(source.name, policy)
        for part in source.parts:
            valid = skipped.filter(_valid(document) for document in source.read(part))
            yield from _first(part_bytes, (text for document in valid for text in document.texts))


def _valid(document: Document | BadRecord) -> Document | BadRecord:
    """Return the document, or a BadRecord where it is not valid Unicode."""
    if isinstance(document, Document):
        for text in document.texts:
            if surrogate_in(text):
                return BadRecord(f"{document.name} {surrogate_in(text)}")
    return document


def _first(num_bytes: float, texts: Iterator[str]) -> Iterator[str]:
    """Yield texts until their total length reaches `num_bytes`."""
    size = 0
    for text in texts:
        if size >= num_bytes:
            return
        size += len(text)
        yield text
