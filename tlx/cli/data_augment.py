"""`tlx data augment`: the records of a task with copies whose words are replaced."""

import argparse
from typing import Any

from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open
from tlx.base.place import Place


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tlx data augment`."""
    group = parser.add_argument_group("augment")
    group.add_argument("--copies", type=int, default=20, help="copies of each record (20)")
    group.add_argument(
        "--probability", type=float, default=0.4, help="probability with which a word is replaced (0.4)"
    )
    group.add_argument("--candidates", type=int, default=15, help="candidates of a word (15)")
    group.add_argument(
        "--vectors",
        default="",
        metavar="FILE",
        help="word vectors (GloVe's text files), whose neighbours replace words of several pieces; by default the "
        "model's token table",
    )


def empty_folder(path: str) -> Place:
    """Return the folder or bucket of new records; ConfigError where it holds something."""
    folder = places.parse(path)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--to = {path!r} is not empty")
    return folder


def augment(options: argparse.Namespace) -> None:
    """Write the training records with their copies, and the held-out ones as they are, to --to.

    Raises:
        ConfigError: --from or --to is missing, the folder is not empty, or the task has no columns of text.
    """
    if options.base is None or not options.to:
        raise ConfigError("tlx data augment needs --from=MASKED_MODEL and --to=FOLDER")
    folder = empty_folder(options.to)
    from tlx.api.load import load
    from tlx.data.records import read_records
    from tlx.run.config import get_objective, parse_config
    from tlx.trainer.augment import AugmentConfig, augmented
    from tlx.trainer.outcome import to_json

    settings = AugmentConfig(
        copies=options.copies,
        probability=options.probability,
        candidates=options.candidates,
        vectors=options.vectors,
        seed=options.seed,
    )
    settings.validate()
    config = parse_config(options.config, allow=None)
    task: Any = get_objective(config)
    columns = [name for name, _ in task.text_columns(config.objective) if name]
    if not columns:
        raise ConfigError(f"{config.objective.name} has no columns of text to change")
    lm = load(options.base)

    records = read_records(config.data.records, "train", config.seed, config.data.bad_records)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic_open(folder / "train.jsonl") as handle:
        for values in augmented(records, columns, lm, settings):
            handle.write(to_json(values) + "\n")
            count += 1
    print(f"{len(records):,} records, {count:,} with their copies: {folder / 'train.jsonl'}")
    words = (
        f"--config.data.records.format=jsonl --config.data.records.train=\"('{folder / 'train.jsonl'}',)\""
    )
    if not config.data.records.validation:
        held_out = read_records(config.data.records, "validation", config.seed, config.data.bad_records)
        with atomic_open(folder / "validation.jsonl") as handle:
            handle.writelines(to_json(dict(record.values)) + "\n" for record in held_out)
        # Copies of a record must not be held out beside it.
        words += f" --config.data.records.validation=\"('{folder / 'validation.jsonl'}',)\""
    print(f"train on them: {words}")
