"""Look at the examples a model will get, or prepare their token caches ahead of a run.

tlx data show --config=quickstart:mlm --examples=2 --places=40
tlx data show --config=finetune/reviews --from=runs/mlm      a task's rows, beside their records
tlx data prepare --config=quickstart
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np

from tlx.base.errors import ConfigError
from tlx.cli import data_records, flags
from tlx.cli.data_tables import PREFIXES, Example, describe
from tlx.data import Pipeline, open_caches, prepare_tokenizer
from tlx.run import RunConfig
from tlx.run.assemble import build_tokenizer, open_pipeline
from tlx.run.checks import resolve
from tlx.tasks import TABLE as TASKS
from tlx.text import Tokenizer, Vocabulary
from tlx.trainer.base_model import load_base
from tlx.trainer.task_config import complete_task_config

_MEASURED = 1000  # examples behind the rates


def main(argv: list[str]) -> int:
    """`tlx data show` and `tlx data prepare`; exit 64 for a wrong config or unusable text."""
    parser = flags.parser("data", __doc__)
    parser.add_argument("action", choices=("show", "prepare"))
    flags.add_config(parser)
    parser.add_argument("--examples", type=int, default=1, help="how many to print (show)")
    parser.add_argument("--places", type=int, default=24, help="rows of each table of places (show)")
    parser.add_argument("--batch", type=int, default=0, help="the batch to print from (show)")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    parser.add_argument("--from", dest="base", metavar="DIR", help="of a task: the model to be trained")
    options = flags.parse(parser, argv)
    if options.config.objective.name in TASKS:
        _show_records(options)
        return 0
    if options.base is not None:
        raise ConfigError(f"--from is for tasks, this is {options.config.objective.name}")
    config = resolve(options.config)
    tokenizer = prepare_tokenizer(config.tokenizer, config.data)
    if options.action == "prepare":
        _prepare(config, tokenizer)
        return 0
    pipeline = open_pipeline(config, tokenizer, options.split)
    for b in range(min(options.examples, pipeline.batch_size)):
        row = pipeline.batch(options.batch, [b])
        example = {name: values[0] for name, values in row.items()}
        print(f"=== batch {options.batch}, row {b} ===")
        print("\n".join(describe(example, tokenizer, options.places)) + "\n")
    print("\n".join(_rates(pipeline, config, tokenizer.vocab)))
    return 0


def _show_records(options: argparse.Namespace) -> None:
    """A task's rows, for the base's shape and with its tokenizer where one is given."""
    if options.action == "prepare":
        raise ConfigError(f"{options.config.objective.name} reads records: there is no cache to prepare")
    config = complete_task_config(options.config.to_dict(), options.base and load_base(options.base))
    first = options.batch * config.train.batch_size
    data_records.show(config, build_tokenizer(config), options.split, first, options.examples, options.places)


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
    for prefix in PREFIXES:
        if f"{prefix}tokens" not in batch:
            continue
        tokens = batch[f"{prefix}tokens"]
        segments = batch[f"{prefix}segments"]
        real = segments > 0
        name = prefix.replace("_", " ")
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
        masked = shown == vocab.mask
        same = shown == batch["targets"][counted]
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
