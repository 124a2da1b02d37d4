"""`tlx data answer`: records with a model's answers in a column, such as translations back into another language."""

import argparse
import dataclasses
from typing import Any

from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open

# Key of a prediction that is written, by what the task predicts: a text, a class, a number.
_KEYS = ("answer", "label", "score")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tlx data answer`."""
    group = parser.add_argument_group("answer")
    group.add_argument("--column", default="", help="column that the answers are written to")


def answer(options: argparse.Namespace) -> None:
    """Write all records of data.records.train with the answers of --from in --column, one JSON a line, to --to.

    Raises:
        ConfigError: --from, --to or --column is missing, the model is fine-tuned on no task, or its predictions have
            no one value.
    """
    if options.base is None or not options.to or not options.column:
        raise ConfigError("tlx data answer needs --from=RUN, --to=FILE.jsonl and --column=NAME")
    target = places.parse(options.to)
    from tlx.api.load import load
    from tlx.data.records import read_records
    from tlx.run.config import parse_config
    from tlx.trainer.outcome import to_json

    config = parse_config(options.config, allow=None)
    lm = load(options.base)
    # Read as test records are, of which none is held out.
    files = dataclasses.replace(config.data.records, test=config.data.records.train)
    records = read_records(files, "test", config.seed, config.data.bad_records)
    predictions: list[dict[str, Any]] = lm.predict([dict(record.values) for record in records])
    key = next((key for key in _KEYS if key in predictions[0]), None)
    if key is None:
        raise ConfigError(
            f"the predictions of {options.base} have {', '.join(predictions[0])}; answers are written of tasks whose "
            f"predictions have {', '.join(_KEYS)}"
        )
    with atomic_open(target) as handle:
        for record, prediction in zip(records, predictions, strict=True):
            handle.write(to_json({**record.values, options.column: prediction[key]}) + "\n")
    print(f"{len(records):,} records with answers in {options.column!r}: {target}")
