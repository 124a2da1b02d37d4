"""`tlx data prepare --to=PLACE`: a corpus of sealed shards of tokens, made by an engine and read from anywhere."""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.data import prepare_tokenizer
from tlx.data.corpus.build import Runner, begin_corpus, finish_corpus, is_complete, run_stage, stages
from tlx.data.corpus.job import SPLITS, CorpusJob, opened_tasks
from tlx.data.corpus.local_runner import LocalRunner
from tlx.data.tokenize import num_cores
from tlx.run import RunConfig


def prepare(config: RunConfig, options: argparse.Namespace) -> int:
    """Prepare the corpus of a config, as far as it is not there, and print what it holds."""
    place = options.to or config.data.tokens
    for flag in ("processes", "task_megabytes"):
        if getattr(options, flag) < (flag == "task_megabytes"):
            raise ConfigError(f"--{flag.replace('_', '-')} = {getattr(options, flag)} must be 1 or more")
    # The text itself is read, not a corpus of it.
    data = dataclasses.replace(config.data, tokens="")
    tokenizer = prepare_tokenizer(config.tokenizer, data)
    print(f"tokenizer: {tokenizer.vocab.size} ids, sha256 {tokenizer.hash}")
    job = CorpusJob(place, data, config.tokenizer, task_bytes=options.task_megabytes << 20)
    job = begin_corpus(job, tokenizer)
    if is_complete(job):
        print(f"{place} is complete: nothing is left to do")
    else:
        _run_stages(job, options)
    print("\n".join(_lines(finish_corpus(job), place)))
    return 0


def _run_stages(job: CorpusJob, options: argparse.Namespace) -> None:
    """Run what is left of all stages, and print how fast it was."""
    processes = options.processes or num_cores()
    num_tasks = len(opened_tasks(job).tasks)
    # Of fewer tasks than cores, each is encoded by several threads.
    job = dataclasses.replace(job, threads=max(1, processes // num_tasks))
    runner: Runner = LocalRunner(processes)
    for stage in stages(job):
        start = time.monotonic()
        done = run_stage(job, stage, runner)
        seconds = time.monotonic() - start
        print(f"{stage}: {done:,} tasks in {seconds:,.1f} s, {num_tasks - done:,} were done before")


def _lines(index: Mapping[str, Any], place: str) -> Iterator[str]:
    """Yield lines with the contents of a corpus and what was left out."""
    for source in index["sources"]:
        for split in SPLITS:
            entry = source[split]
            size = entry["num_bytes"] / entry["num_tokens"]
            yield (
                f"{entry['source']}: {entry['num_documents']:,} documents, {entry['num_tokens']:,} tokens, "
                f"{entry['num_bytes']:,} bytes ({size:.2f} a token) in {len(entry['shards']['names']):,} shards"
            )
            for reason, count in entry["filtered"].items():
                yield f"  {count:,} left out: {reason}"
            if entry["skipped"]:
                bad = entry["skipped"]
                yield f"  skipped {bad['num_bad']:,} bad records, left out {bad['num_blank']:,} empty documents"
    yield f"train with --config.data.tokens={place}"
