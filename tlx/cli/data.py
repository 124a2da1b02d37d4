"""Look at the examples a model will get, or prepare their token caches ahead of a run.

tlx data show --config=quickstart:mlm --examples=2 --places=40
tlx data prepare --config=quickstart
"""

import time
from collections.abc import Iterator, Mapping

import numpy as np

from tlx.base.errors import ConfigError
from tlx.cli import flags
from tlx.data import Pipeline, build_pipeline, open_caches, prepare_tokenizer
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.protocol import Spec
from tlx.run import RunConfig, resolve
from tlx.tasks import TABLE as TASKS
from tlx.text import Tokenizer, Vocabulary

_MEASURED = 1000  # examples behind the rates
_PREFIXES = ("", "encoder_", "decoder_")

Example = Mapping[str, np.ndarray]


def main(argv: list[str]) -> int:
    """`tlx data show` and `tlx data prepare`; exit 64 for a wrong config or unusable text."""
    parser = flags.parser("data", __doc__)
    parser.add_argument("action", choices=("show", "prepare"))
    flags.add_config(parser)
    parser.add_argument("--examples", type=int, default=1, help="how many to print (show)")
    parser.add_argument("--places", type=int, default=24, help="rows of each table of places (show)")
    parser.add_argument("--batch", type=int, default=0, help="the batch to print from (show)")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    options = flags.parse(parser, argv)
    config = resolve(options.config)
    if config.objective.name in TASKS:
        raise ConfigError(f"{config.objective.name} reads records, not text; tlx data is for text")
    tokenizer = prepare_tokenizer(config.tokenizer, config.data)
    if options.action == "prepare":
        _prepare(config, tokenizer)
        return 0
    pipeline = _pipeline(config, tokenizer, options.split)
    for b in range(min(options.examples, pipeline.batch_size)):
        row = pipeline.batch(options.batch, [b])
        example = {name: values[0] for name, values in row.items()}
        print(f"=== batch {options.batch}, row {b} ===")
        print("\n".join(describe(example, tokenizer, options.places)) + "\n")
    print("\n".join(_rates(pipeline, config, tokenizer.vocab)))
    return 0


def describe(example: Example, tokenizer: Tokenizer, places: int) -> Iterator[str]:
    """Lines that show one example: its texts as the model gets them, then its arrays place by place."""
    for prefix in _PREFIXES:
        if f"{prefix}tokens" in example:
            yield from _describe_text(example, prefix, tokenizer)
    counted = example["weights"] > 0
    yield f"targets: {int(counted.sum())}, of text: {tokenizer.decode(example['targets'][counted])!r}"
    for title, columns in _tables(example):
        yield f"{title}:"
        yield from _table(columns, tokenizer, places)


def _describe_text(example: Example, prefix: str, tokenizer: Tokenizer) -> Iterator[str]:
    tokens, segments = example[f"{prefix}tokens"], example[f"{prefix}segments"]
    numbers = [int(number) for number in np.unique(segments) if number]
    yield (
        f"{prefix.rstrip('_') or 'input'}: {len(tokens)} places, {int((segments == 0).sum())} of padding, "
        f"{len(numbers)} segments"
    )
    for number in numbers:
        text = tokenizer.decode(tokens[segments == number], keep_special=True)
        yield f"  segment {number}, {int((segments == number).sum())} tokens"
        yield from (f"  | {line}" for line in text.split("\n"))


def _tables(example: Example) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Arrays that belong together: one for each place of an input, one for each target."""
    left = dict(example)
    if "target_positions" in left:
        names = ("target_positions", "targets", "weights")
        gathered = {name: left.pop(name) for name in names}
        gathered["shown"] = example["tokens"][gathered["target_positions"]]
        yield "targets", gathered
    for prefix in _PREFIXES:
        tokens = left.get(f"{prefix}tokens")
        if tokens is None:
            continue
        own = [name for name in left if name.startswith(prefix) and left[name].shape == tokens.shape]
        own = [name for name in own if prefix or not name.startswith(_PREFIXES[1:])]
        if prefix == "decoder_":
            own += [name for name in ("targets", "weights") if name in left]
        yield f"{prefix.rstrip('_') or 'input'}", {name.removeprefix(prefix): left[name] for name in own}


def _table(columns: Mapping[str, np.ndarray], tokenizer: Tokenizer, places: int) -> Iterator[str]:
    size = len(next(iter(columns.values())))
    rows = [["place", *columns]]
    for place in range(min(size, places)):
        rows.append([str(place), *(_cell(name, columns[name][place], tokenizer) for name in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if size > places:
        yield f"  ... {size - places} more"


def _cell(name: str, value: np.generic, tokenizer: Tokenizer) -> str:
    if name in ("tokens", "targets", "shown"):
        return f"{int(value)} {tokenizer.piece(int(value))!r}"
    return f"{value:g}"


def _rates(pipeline: Pipeline, config: RunConfig, vocab: Vocabulary) -> Iterator[str]:
    """Lines with what a thousand examples have on average, and how fast they are made."""
    batches = range(-(-_MEASURED // pipeline.batch_size))
    pipeline.batch(0)  # imports and page faults are not the pipeline's speed
    start = time.process_time()
    made = [pipeline.batch(k) for k in batches]
    seconds = time.process_time() - start
    joined = {name: np.concatenate([batch[name] for batch in made]) for name in made[0]}
    count = len(joined["weights"])
    yield f"=== rates, over {count} examples of {config.objective.name} ==="
    for name, value in measure(joined, vocab).items():
        yield f"{name:32} {value:.4g}"
    raw = count * pipeline.reads.length
    yield f"{'raw tokens/s, one core':32} {raw / max(seconds, 1e-9):,.0f}"
    yield (
        f"{pipeline.num_tokens:,} tokens in {pipeline.num_windows:,} windows of {pipeline.reads.length} "
        f"({pipeline.reads.layout}), {pipeline.steps_per_epoch:,} batches of {pipeline.batch_size} an epoch"
    )


def measure(batch: Example, vocab: Vocabulary) -> dict[str, float]:
    """Means over the rows of a batch, by what they say."""
    rates: dict[str, float] = {}
    for prefix in _PREFIXES:
        if f"{prefix}tokens" not in batch:
            continue
        tokens, segments = batch[f"{prefix}tokens"], batch[f"{prefix}segments"]
        real, name = segments > 0, prefix.replace("_", " ")
        rates[f"{name}padding, share of places"] = float(1 - real.mean())
        rates[f"{name}segments per row"] = float(segments.max(axis=1).mean())
        first_sentinel = vocab.size - vocab.added - vocab.num_sentinels
        rates[f"{name}masks, share of tokens"] = float((tokens[real] == vocab.mask).mean())
        rates[f"{name}sentinels per row"] = float(((tokens >= first_sentinel) & real).sum(axis=1).mean())
    counted = batch["weights"] > 0
    rates["targets per row"] = float(counted.sum(axis=1).mean())
    rates["targets, share of places"] = float(counted.mean())
    if "target_positions" in batch:
        shown = np.take_along_axis(batch["tokens"], batch["target_positions"], axis=1)[counted]
        masked, same = shown == vocab.mask, shown == batch["targets"][counted]
        rates["targets, share of tokens"] = float(counted.sum() / max((batch["segments"] > 0).sum(), 1))
        rates["targets shown as mask"] = float(masked.mean())
        rates["targets shown unchanged"] = float(same.mean())
        rates["targets shown as another"] = float((~masked & ~same).mean())
    return rates


def _prepare(config: RunConfig, tokenizer: Tokenizer) -> None:
    print(f"tokenizer: {tokenizer.vocab.size} ids, sha256 {tokenizer.hash}")
    for split in ("train", "validation"):
        for cache in open_caches(config.data, tokenizer, split):
            size = cache.num_bytes / cache.num_tokens
            print(
                f"{cache.meta['source']}: {cache.num_documents:,} documents, {cache.num_tokens:,} tokens, "
                f"{cache.num_bytes:,} bytes ({size:.2f} a token) in {cache.folder}"
            )


def _pipeline(config: RunConfig, tokenizer: Tokenizer, split: str) -> Pipeline:
    parts = OBJECTIVES.load(config.objective.name)
    spec = Spec.of(config.objective, config.data.sequence_length, tokenizer, config.data.languages)
    return build_pipeline(
        config.data,
        tokenizer,
        parts.example,
        spec,
        parts.reads(spec),
        batch_size=config.train.batch_size,
        seed=config.seed,
        split=split,
    )
