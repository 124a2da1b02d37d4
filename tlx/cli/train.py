"""Pretrain a model, or resume a run: the same command resumes what was interrupted.

    tlx train --config=configs/quickstart.py
    tlx train --config=quickstart:mlm --workdir=runs/mlm --config.train.steps=3000
    tlx train --config=configs/mine.py --from=bert-base-uncased/     train a base model further
    tlx train --config=configs/mine.py --step=4000                   go on from an older checkpoint

The run's directory holds run.json, metrics.jsonl, events.jsonl, tokenizer/ and checkpoints/. From Python:
tlx.train.
"""

from tlx.cli import flags


def main(argv: list[str]) -> int:
    """Run `tlx train`: exit 0 when done, 42 when stopped and saved, else the table in tlx/base/errors.py."""
    parser = flags.training_parser("train", __doc__)
    parser.add_argument(
        "--from",
        dest="base",
        metavar="DIR",
        help="run, checkpoint, Hugging Face directory or hf://OWNER/NAME whose model is trained further, with its "
        "tokenizer",
    )
    parser.add_argument(
        "--step",
        type=flags.checkpoint_step,
        help='checkpoint that the run goes on from, this time: its number or "best"; later ones are set aside; '
        "the newest sound one by default",
    )
    options = flags.parse(parser, argv)
    # After the parser: these load jax, which --help does not wait for.
    import jax

    from tlx.trainer import pretrain, summary

    trainer_options = flags.trainer_options(options)._replace(step=options.step)
    result = pretrain.pretrain(options.config, options.config_name, trainer_options)
    if jax.process_index() == 0:
        summary.show_next(result.model, result.workdir, options.config_words)
    return 0
