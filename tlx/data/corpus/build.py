"""Preparing a corpus: stages of tasks that an engine runs, each done once, and the index that completes it."""

import dataclasses
import functools
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from tlx.base import place as places
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.data.corpus import duplicates, encode
from tlx.data.corpus.index import INDEX, read_index, write_index
from tlx.data.corpus.job import CorpusJob, job_key, opened_tasks, plan_tasks
from tlx.text import Tokenizer, TokenizerConfig, load_tokenizer

Stage = Literal["hashes", "duplicates", "tokens"]

PLAN = "plan.json"
TOKENIZER = "tokenizer"

# Temporary names of tlx.base.files.atomic_open.
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}")


class Runner(Protocol):
    """An engine that calls a function with numbers, anywhere and in any order."""

    def run(self, function: Callable[[int], None], numbers: Sequence[int], title: str) -> None:
        """Return when the function was called with each number.

        Args:
            function: Picklable; writes what it makes into the corpus's place.
            numbers: Its arguments.
            title: What is done, for progress.

        Raises:
            UserError: As a call did.
        """
        ...


class Share(NamedTuple):
    """A part of the tasks of a stage, for several processes that know nothing of each other."""

    index: int = 0
    """Index of this part."""
    count: int = 1
    """Number of parts; task n belongs to part n % count."""


ALL_TASKS = Share()


def begin_corpus(job: CorpusJob, tokenizer: Tokenizer) -> CorpusJob:
    """Write the tokenizer and the plan of a corpus, unless they are there.

    Args:
        job: The corpus, without its key.
        tokenizer: Its tokenizer.

    Returns:
        The job with its key.

    Raises:
        ConfigError: The place holds a corpus of other text or of another config.
    """
    planned = plan_tasks(job.data, job.task_bytes)
    job = dataclasses.replace(job, key=job_key(job, planned, tokenizer))
    place = places.parse(job.place)
    plan = {
        "key": job.key,
        "tokenizer": tokenizer.hash,
        "tokenizer_config": to_dict(job.tokenizer),
        "num_tasks": len(planned.tasks),
    }
    try:
        existing = json.loads(places.read_range(place / PLAN))
    except FileNotFoundError:
        _save_tokenizer(place, tokenizer)
        places.write(place / PLAN, json.dumps(plan, indent=1).encode())
        return job
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {place / PLAN}: {error}") from error
    if existing != plan:
        differing = [name for name in plan if existing.get(name) != plan[name]]
        raise ConfigError(
            f"--to = {job.place} holds a corpus of other files, of another tokenizer or of other values of data or "
            f"--task-megabytes (it differs in {', '.join(differing)}); give another place, or delete it"
        )
    return job


def stored_tokenizer(place: str, config: TokenizerConfig) -> Tokenizer | None:
    """Return the tokenizer of a corpus that was begun with this config of it; None where there is none."""
    path = places.parse(place) / PLAN
    try:
        plan = json.loads(places.read_range(path))
    except (OSError, ValueError):
        return None  # `begin_corpus` says what is wrong with it
    if not isinstance(plan, dict) or plan.get("tokenizer_config") != to_dict(config):
        return None
    return read_tokenizer(place)


def is_complete(job: CorpusJob) -> bool:
    """Return whether the index is written: nothing is left to do."""
    return INDEX in places.list_files(places.parse(job.place))


def stages(job: CorpusJob) -> tuple[Stage, ...]:
    """Return the stages of a corpus in order; all tasks of one are done before the next begins."""
    return ("hashes", "duplicates", "tokens") if job.data.filter.duplicates == "drop" else ("tokens",)


def run_stage(job: CorpusJob, stage: Stage, runner: Runner, share: Share = ALL_TASKS) -> int:
    """Run those tasks of a stage that are not done.

    Args:
        job: The corpus.
        stage: The stage; those before it are complete.
        runner: Runs the tasks.
        share: Part of the tasks to run.

    Returns:
        The number of tasks that were run.

    Raises:
        DataError: An earlier stage is not complete, or a document cannot be used.
    """
    files = places.list_files(places.parse(job.place))
    groups = duplicates.num_groups(files) if len(stages(job)) > 1 else 0
    for earlier in stages(job)[: stages(job).index(stage)]:
        if missing := _open_tasks(job, earlier, groups, files, ALL_TASKS):
            raise DataError(
                f"{job.place}: {len(missing)} tasks of the stage {earlier!r} are not done, which come before "
                f"{stage!r}"
            )
    numbers = _open_tasks(job, stage, groups, files, share)
    if numbers:
        runner.run(functools.partial(run_task, job, stage, groups), numbers, stage)
    return len(numbers)


def run_task(job: CorpusJob, stage: Stage, groups: int, number: int) -> None:
    """Run one task of a stage; running it again changes nothing.

    Args:
        job: The corpus.
        stage: The stage.
        groups: Number of groups in which duplicates are searched; 0: they are kept.
        number: Number of the task, or in "duplicates" of the group.
    """
    if stage == "hashes":
        duplicates.write_hashes(job, number)
    elif stage == "duplicates":
        duplicates.find_duplicates(job, groups, number)
    else:
        encode.encode_task(job, job_tokenizer, groups, number)


def finish_corpus(job: CorpusJob) -> dict[str, Any]:
    """Write the index of a corpus whose stages are complete, or read it where it is there; return it."""
    if is_complete(job):
        return read_index(job.place)
    files = places.list_files(places.parse(job.place))
    missing = _open_tasks(job, "tokens", 0, files, ALL_TASKS)
    if missing:
        raise DataError(
            f"{job.place} is not complete: {len(missing)} of its tasks are not done, such as {missing[0]}; the same "
            "command again does them"
        )
    _remove_partial(files, job)
    return write_index(job, job_tokenizer(job))


def job_tokenizer(job: CorpusJob) -> Tokenizer:
    """Return the tokenizer of a job; loaded once in a process."""
    return _loaded(job.place, job.key)


def read_tokenizer(place: str) -> Tokenizer:
    """Load the tokenizer of a corpus. Raises DataError where it cannot be read."""
    folder = places.parse(place) / TOKENIZER
    names = places.list_files(folder)
    with tempfile.TemporaryDirectory(prefix="tlx-tokenizer-") as local:
        for name in names:
            path = pathlib.Path(local) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(places.read_range(folder / name))
        try:
            return load_tokenizer(local)
        except DataError as error:
            raise DataError(str(error).replace(local, str(folder))) from error


@functools.lru_cache(maxsize=2)
def _loaded(place: str, key: str) -> Tokenizer:
    del key
    return read_tokenizer(place)


def _open_tasks(job: CorpusJob, stage: Stage, groups: int, names: Collection[str], share: Share) -> list[int]:
    """Return the numbers of the tasks of a share that are not done, by the names of the place's objects."""
    total = groups if stage == "duplicates" else len(opened_tasks(job).tasks)
    numbers = range(share.index, total, share.count)
    if stage == "hashes":
        return [number for number in numbers if not duplicates.has_hashes(job, number, names)]
    if stage == "duplicates":
        return [number for number in numbers if duplicates.group_name(number, groups) not in names]
    return [number for number in numbers if encode.seal_name(number) not in names]


def _remove_partial(names: Collection[str], job: CorpusJob) -> None:
    """Delete the files that processes were writing when they were killed."""
    place = places.parse(job.place)
    for name in names:
        if _PARTIAL.fullmatch(name.rpartition("/")[2]):
            (place / name).unlink(missing_ok=True)


def _save_tokenizer(place: places.Place, tokenizer: Tokenizer) -> None:
    with tempfile.TemporaryDirectory(prefix="tlx-tokenizer-") as local:
        tokenizer.save(local)
        for path in sorted(pathlib.Path(local).rglob("*")):
            if path.is_file():
                name = path.relative_to(local).as_posix()
                places.write(place / TOKENIZER / name, path.read_bytes())
