"""`tlx data prepare --to=PLACE`: a corpus of sealed shards of tokens, made by an engine and read from anywhere."""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError
from tlx.cli import data_slurm
from tlx.data import prepare_tokenizer
from tlx.data.corpus.beam_runner import BeamRunner
from tlx.data.corpus.build import (
    ALL_TASKS,
    Runner,
    Share,
    begin_corpus,
    finish_corpus,
    is_complete,
    run_stage,
    stages,
    stored_tokenizer,
)
from tlx.data.corpus.job import SPLITS, CorpusJob, opened_tasks
from tlx.data.corpus.local_runner import LocalRunner
from tlx.data.tokenize import num_cores
from tlx.run import RunConfig


def prepare(config: RunConfig, options: argparse.Namespace, beam_flags: Sequence[str]) -> int:
    """Prepare the corpus of a config, as far as it is not there, and print what it holds.

    Args:
        config: Config of a run.
        options: Flags of `tlx data prepare`.
        beam_flags: Flags of Beam, the words after "--".

    Returns:
        The exit code.

    Raises:
        ConfigError: A flag has a value that is none, or the place holds another corpus.
        DataError: The text cannot be used.
    """
    place = options.to or config.data.tokens
    share = _share(options)
    if options.processes < 0 or options.task_megabytes < 1 or options.array < 1:
        raise ConfigError("--processes must be 0 or more, --task-megabytes and --array 1 or more")
    if beam_flags and options.runner != "beam":
        raise ConfigError(f"words after -- are flags of Beam (--runner=beam), here {' '.join(beam_flags)}")
    # The text itself is read, not a corpus of it.
    data = dataclasses.replace(config.data, tokens="")
    tokenizer = stored_tokenizer(place, config.tokenizer) or prepare_tokenizer(config.tokenizer, data)
    print(f"tokenizer: {tokenizer.vocab.size} ids, sha256 {tokenizer.hash}")
    job = CorpusJob(place, data, config.tokenizer, task_bytes=options.task_megabytes << 20)
    job = begin_corpus(job, tokenizer)
    if is_complete(job):
        print(f"{place} is complete: nothing is left to do")
    elif options.runner == "slurm":
        return data_slurm.submit(options, (*stages(job), "index"))
    else:
        num_tasks = len(opened_tasks(job).tasks)
        processes = options.processes or num_cores()
        # Of fewer tasks than cores, each is encoded by several threads.
        job = dataclasses.replace(job, threads=max(1, processes // num_tasks))
        runner = BeamRunner(beam_flags) if options.runner == "beam" else LocalRunner(processes)
        for stage in stages(job):
            if options.only in (None, stage):
                _run(job, stage, runner, share)
    if options.only in (None, "index"):
        print("\n".join(_lines(finish_corpus(job), place)))
    return 0


def _run(job: CorpusJob, stage: Any, runner: Runner, share: Share) -> None:
    start = time.monotonic()
    done = run_stage(job, stage, runner, share)
    print(
        f"{stage}: {done:,} tasks in {time.monotonic() - start:,.1f} s; those that were done before are skipped"
    )


def _share(options: argparse.Namespace) -> Share:
    """Return the part of the tasks that --share names."""
    if options.share is None:
        return ALL_TASKS
    index, _, count = options.share.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--share = {options.share!r} must be I/N with I from 0 to N - 1, as in 3/100")
    if options.only in (None, "index"):
        raise ConfigError("--share is of one stage: give --only=hashes, duplicates or tokens")
    return Share(int(index), int(count))


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
