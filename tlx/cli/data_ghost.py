"""`tlx data ghost`: records of conversations whose last answer follows an instruction of the first message."""

import argparse

from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open
from tlx.cli.data_augment import empty_folder


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tlx data ghost`."""
    group = parser.add_argument_group("ghost")
    group.add_argument(
        "--instructions",
        metavar="FILE",
        help="an instruction a line, and after a tab the same in fewer words, for half of the records",
    )
    group.add_argument(
        "--most-constraints", type=int, default=1, help="most lines that one instruction joins (1)"
    )
    group.add_argument("--temperature", type=float, default=1.0, help="of the sampled answers (1)")


def ghost(options: argparse.Namespace) -> None:
    """Write the conversations of the training records with answers that follow an instruction, to --to.

    Raises:
        ConfigError: --from, --instructions or --to is missing, the folder is not empty, or the config is of another
            task than chat.
    """
    if options.config.objective.name != "chat":
        raise ConfigError(f"ghost is for the task chat, this is {options.config.objective.name}")
    if options.base is None or not options.to or not options.instructions:
        raise ConfigError("tlx data ghost needs --from=CHAT_RUN, --instructions=FILE and --to=FOLDER")
    folder = empty_folder(options.to)
    from tlx.api.load import load
    from tlx.data.records import read_records
    from tlx.run.config import parse_config
    from tlx.trainer.ghost_attention import GhostAttentionConfig, ghost_records, read_instructions
    from tlx.trainer.outcome import to_json

    settings = GhostAttentionConfig(
        most_constraints=options.most_constraints, temperature=options.temperature, seed=options.seed
    )
    settings.validate()
    config = parse_config(options.config, allow=None)
    config.objective.validate()
    instructions = read_instructions(options.instructions)
    records = read_records(config.data.records, "train", config.seed, config.data.bad_records)
    lm = load(options.base)
    made = ghost_records(lm, records, config.objective, instructions, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_open(folder / "train.jsonl") as handle:
        handle.writelines(to_json(values) + "\n" for values in made.records)
    print(
        f"{len(records):,} conversations, {len(made.records):,} with an answer under an instruction: "
        f"{folder / 'train.jsonl'}"
    )
    if made.num_long or made.num_unfinished:
        print(
            f"left out: {made.num_long:,} too long for the model's rows, {made.num_unfinished:,} whose answer is "
            "empty or did not end"
        )
    print(
        "train on them: --config.objective.messages=messages --config.objective.role=role "
        "--config.objective.content=content --config.objective.loss_on=last_answer "
        f"--config.data.records.format=jsonl --config.data.records.train=\"('{folder / 'train.jsonl'}',)\""
    )
