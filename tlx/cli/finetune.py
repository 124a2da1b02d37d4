"""Train a model on a task with labels, from a base model; the same command resumes.

    tlx finetune --config=configs/finetune/reviews.py --from=runs/mlm --config.data.records.train="('r.tsv',)"
    tlx finetune --config=C --from=bert-base-uncased/        a directory that save_pretrained wrote
    tlx finetune --config=C --from=runs/mlm --scratch        the same architecture from fresh parameters
    tlx finetune --config=C --from=runs/mlm --seeds=5        five runs: mean, standard deviation, worst
    tlx finetune --config=C --linear=characters              no model: a linear baseline of tf-idf weights

The run's directory holds what a pretraining's does, and scores.json, predictions/SPLIT.jsonl (each record
with its prediction) and, for classes, confusion_SPLIT.png and reliability_SPLIT.png (the accuracy of predictions by
their probability) of the validation and test records. With --seeds it holds a run for each in seed-N, made one after
the other, and seeds.json and seeds.png. From Python: tlx.finetune.
"""

import argparse

from tlx.base.errors import ConfigError
from tlx.cli import flags


def main(argv: list[str]) -> int:
    """Run `tlx finetune`; exit codes as those of `tlx train`."""
    options = flags.parse(_parser(), argv)
    # After the parser: these load jax, which --help does not wait for.
    import jax

    from tlx.trainer import finetune, outcome

    if options.linear:
        _train_linear(options)
        return 0
    result = finetune.train_task(
        options.config, options.config_name, flags.trainer_options(options), options.scratch, options.seeds
    )
    if jax.process_index() == 0 and options.seeds == 1:
        outcome.show_next(result.model.config, result.workdir)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.training_parser("finetune", __doc__)
    parser.add_argument(
        "--from",
        dest="base",
        metavar="DIR",
        help="base model: run, checkpoint, Hugging Face directory or hf://OWNER/NAME",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of runs, from the config's seed on, in WORKDIR/seed-N"
    )
    parser.add_argument(
        "--scratch", action="store_true", help="take the base's architecture, not its parameters"
    )
    parser.add_argument(
        "--linear",
        metavar="UNIT",
        help="fit a linear baseline of tf-idf weights of UNIT (words, characters; of rewards also length)",
    )
    return parser


def _train_linear(options: argparse.Namespace) -> None:
    """Fit the linear baseline; prints its scores."""
    from tlx.trainer import finetune, linear

    finetune.check_is_task(options.config)
    if options.base is not None or options.scratch or options.seeds != 1:
        raise ConfigError("--linear has no base, and no seeds: leave out --from, --scratch and --seeds")
    linear.train_linear(options.config, options.config_name, options.linear, options.workdir)
