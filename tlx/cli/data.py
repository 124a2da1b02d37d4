r"""Print the examples that a model gets, prepare their tokens ahead of a run, or write more records.

tlx data show --config=quickstart:mlm --examples=2 --positions=40
tlx data show --config=finetune/reviews --from=runs/mlm      a task's rows, beside their records
tlx data augment --config=finetune/pairs --from=runs/bert --to=more     copies of a task's records (TinyBERT)
tlx data ghost --config=posttrain/llama2_chat:ghost --from=runs/chat --instructions=FILE --to=obeyed
                                                             answers under an instruction (Llama 2's ghost attention)
tlx data answer --config=finetune/translation:en --from=runs/ko-en --column=en --to=back.jsonl \
    --config.data.records.train="('korean.jsonl',)"          a model's answers, as records (back-translation)
tlx data prepare --config=quickstart                         token caches in the cache folder of this machine
tlx data prepare --config=quickstart --to=corpora/python     a corpus that any machine reads: data.tokens
tlx data prepare --config=C --to=gs://b/c4 --runner=beam -- --runner=DataflowRunner --project=P --region=R
"""

import argparse
from typing import TYPE_CHECKING

from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.cli import data_answer, data_augment, data_ghost, flags
from tlx.rollouts import TABLE as ROLLOUTS
from tlx.tasks import TABLE as TASKS

if TYPE_CHECKING:
    from tlx.run import RunConfig
    from tlx.text import Tokenizer


def main(argv: list[str]) -> int:
    """Run `tlx data`; exit 64 for a wrong config or unusable text."""
    # What comes after "--" is for Beam.
    end = argv.index("--") if "--" in argv else len(argv)
    options = flags.parse(_parser(), argv[:end])
    if options.action in _WRITERS:
        if options.config.objective.name not in TASKS:
            raise ConfigError(f"{options.action} is for tasks, this is {options.config.objective.name}")
        _WRITERS[options.action](options)
        return 0
    if options.render:
        places.local_path(options.render)
    # The tables and not run.config, which loads jax: --help does not wait for that.
    if options.config.objective.name in {*TASKS, *ROLLOUTS}:
        _show_records(options)
        return 0
    if options.base is not None:
        raise ConfigError(f"--from is for tasks, this is {options.config.objective.name}")
    # After the parser: these load jax, which --help does not wait for.
    from tlx.data import prepare_tokenizer
    from tlx.run.checks import resolve

    config = resolve(options.config, allow=None)
    if options.action == "prepare" and (options.to or config.data.tokens):
        from tlx.cli import data_prepare

        return data_prepare.prepare(config, options, argv[end + 1 :])
    tokenizer = prepare_tokenizer(config.tokenizer, config.data)
    if options.action == "prepare":
        _prepare(config, tokenizer)
    else:
        _show_examples(config, tokenizer, options)
    return 0


# Actions that write records of a task.
_WRITERS = {"augment": data_augment.augment, "answer": data_answer.answer, "ghost": data_ghost.ghost}


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("data", __doc__)
    parser.add_argument(
        "action",
        choices=("show", "prepare", *_WRITERS),
        help="print examples, prepare tokens, or write more records",
    )
    flags.add_config(parser)
    parser.add_argument("--examples", type=int, default=1, help="number of examples to print (show; 1)")
    parser.add_argument(
        "--positions",
        "--places",
        type=int,
        default=24,
        help="rows of each table of positions (show; 24)",
    )
    parser.add_argument("--batch", type=int, default=0, help="number of the batch to print from (show; 0)")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="split (train)")
    parser.add_argument(
        "--from",
        dest="base",
        metavar="DIR",
        help="for a task: the base model; augment: a masked one; answer: a fine-tuned one; ghost: a run of the task "
        "chat",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (augment and ghost; 0)")
    _add_prepare_flags(parser)
    data_augment.add_flags(parser)
    data_ghost.add_flags(parser)
    data_answer.add_flags(parser)
    return parser


def _add_prepare_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tlx data prepare --to`."""
    group = parser.add_argument_group("prepare")
    group.add_argument(
        "--to",
        metavar="PLACE",
        help="folder or bucket of the corpus (data.tokens); without either, token caches of this machine are made; "
        "augment and ghost: folder of the records; answer: their file",
    )
    group.add_argument(
        "--runner",
        choices=("local", "beam", "slurm"),
        default="local",
        help="what runs the tasks: processes of this machine (local), Apache Beam, whose own flags come after -- "
        "(beam), or array jobs (slurm)",
    )
    group.add_argument(
        "--processes", type=int, default=0, help="local: processes of this machine (0: one for each core)"
    )
    group.add_argument(
        "--task-megabytes",
        type=int,
        default=64,
        help="files are put together to tasks up to this size; no file is cut (64)",
    )
    group.add_argument("--array", type=int, default=16, help="slurm: elements of an array job (16)")
    group.add_argument(
        "--sbatch", default="", help="slurm: sbatch options, as in '--time=8:00:00 --partition=cpu'"
    )
    group.add_argument("--python", default="", help="slurm: command that starts tlx on the hosts (tlx)")
    group.add_argument("--render", metavar="DIR", help="slurm: only write the scripts")
    group.add_argument(
        "--only",
        choices=("hashes", "duplicates", "tokens", "index"),
        help="run this stage alone; those before it are complete",
    )
    group.add_argument("--share", metavar="I/N", help="with --only: run the tasks whose number is I modulo N")


def _show_records(options: argparse.Namespace) -> None:
    """Print a task's rows; with --from, for the base's shape and with its tokenizer."""
    if options.action == "prepare":
        raise ConfigError(f"{options.config.objective.name} reads records: there is no cache to prepare")
    from tlx.cli import data_records
    from tlx.run.assemble import build_tokenizer
    from tlx.trainer.base_model import load_base
    from tlx.trainer.task_config import complete_task_config

    base = options.base and load_base(options.base, add=options.config.tokenizer.add)
    config = complete_task_config(options.config.to_dict(), base)
    first = options.batch * config.train.batch_size
    data_records.show(
        config, build_tokenizer(config), options.split, first, options.examples, options.positions
    )


def _show_examples(config: "RunConfig", tokenizer: "Tokenizer", options: argparse.Namespace) -> None:
    """Print examples of an objective, and its rates."""
    from tlx.cli import data_rates
    from tlx.cli.data_tables import describe
    from tlx.run.assemble import open_pipeline

    pipeline = open_pipeline(config, tokenizer, options.split)
    for b in range(min(options.examples, pipeline.batch_size)):
        row = pipeline.batch(options.batch, [b])
        example = {name: values[0] for name, values in row.items()}
        print(f"=== batch {options.batch}, row {b} ===")
        print("\n".join(describe(example, tokenizer, options.positions)) + "\n")
    print("\n".join(data_rates.lines(pipeline, config, tokenizer.vocab)))


def _prepare(config: "RunConfig", tokenizer: "Tokenizer") -> None:
    """Build the token caches of both splits and print what they hold."""
    from tlx.data import open_caches

    print(f"tokenizer: {tokenizer.vocab.size} ids, sha256 {tokenizer.hash}")
    for split in ("train", "validation"):
        for cache in open_caches(config.data, tokenizer, split):
            size = cache.num_bytes / cache.num_tokens
            print(
                f"{cache.meta['source']}: {cache.num_documents:,} documents, {cache.num_tokens:,} tokens, "
                f"{cache.num_bytes:,} bytes ({size:.2f} a token) in {cache.where}"
            )
