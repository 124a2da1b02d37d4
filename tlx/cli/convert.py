"""Import a model from a Hugging Face directory, or export one.

    tlx convert import bert-base-uncased/ runs/bert
    tlx convert import gpt2/ runs/gpt2 --verify
    tlx convert import roberta-large-mnli/ runs/mnli --task=pair_classification
    tlx convert export runs/bert my-bert/
    tlx convert export runs/bert my-bert/ --push=hf://OWNER/NAME       and upload it; without my-bert/ too
    tlx convert merge runs/lora runs/merged                a run with its LoRA added to the matrices
    tlx convert adapt runs/decoder runs/both --kind=encoder_decoder   the start of a model of another kind
    tlx convert adapter runs/lora my-adapter/              its LoRA alone, for the library peft; or the
                                                           prefix, or the prompt, of a decoder

ELMo's released files (options.json, weights.hdf5 and a vocabulary in one folder) are imported too.

A directory is one that `save_pretrained` or sentence-transformers wrote: config.json, safetensors and the
tokenizer's files. A model with the head of a task (classes, numbers, tags, answers) becomes a run of that
task. A setting that tlx cannot represent is an error that names it. An import ends with a summary of what was
read; --verify also runs the original (with transformers and torch) and prints the largest difference in logits.
"""

import argparse

from tlx.base.errors import ConfigError
from tlx.cli import flags


def main(argv: list[str]) -> int:
    """Run `tlx convert`: exit 64 for an unreadable or unsupported model, 73 where nothing can be written."""
    options = flags.parse(_parser(), argv)
    if options.way != "export" and (options.push or options.public):
        raise ConfigError(f"--push and --public are for export, not for {options.way}")
    if options.public and not options.push:
        raise ConfigError("--public is for --push=hf://OWNER/NAME, which is missing")
    if options.target is None and not options.push:
        raise ConfigError(f"tlx convert {options.way} {options.source}: TO, the folder to write, is missing")
    # After the parser: this loads jax, which --help does not wait for.
    from tlx.cli import convert_actions

    convert_actions.ACTIONS[options.way](options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("convert", __doc__)
    parser.add_argument(
        "way",
        choices=("import", "export", "merge", "adapter", "adapt"),
        help="conversion, as in the examples above",
    )
    parser.add_argument(
        "source", metavar="FROM", help="Hugging Face directory, hf://OWNER/NAME[@REVISION], or run directory"
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TO",
        help="folder to write; it must not exist, or be empty (may be left out with --push)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="dtype of the written parameters; as read by default"
    )
    parser.add_argument("--verify", action="store_true", help="import: compare logits with transformers")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="KEY",
        help="import: ignore this key of config.json, or tensor of this name; may be repeated",
    )
    parser.add_argument(
        "--task",
        help="import: the task that a model's head is read as, pair_classification for pairs of texts, say",
    )
    parser.add_argument(
        "--family", help="export: family to write; by default the first that can represent the model"
    )
    parser.add_argument(
        "--push",
        metavar="hf://OWNER/NAME",
        help="export: upload the directory to this repository of the Hugging Face Hub, with the token of HF_TOKEN "
        "or of `hf auth login`; one that does not exist is created, private",
    )
    parser.add_argument(
        "--without-head", action="store_true", help="export: leave out the head of a fine-tuned model's task"
    )
    parser.add_argument(
        "--public", action="store_true", help="--push: a repository that is created is public"
    )
    parser.add_argument(
        "--kind",
        choices=("encoder", "decoder", "encoder_decoder"),
        help="adapt: kind of the new model; a decoder becomes an encoder or both, an encoder a decoder or both",
    )
    parser.add_argument(
        "--cross-attention",
        choices=("copy", "random"),
        help="adapt: cross-attention begins as the self-attention of its layer (default for a decoder), or is drawn "
        "(default for an encoder)",
    )
    parser.add_argument("--step", type=flags.checkpoint_step, help=flags.STEP_HELP)
    parser.add_argument(
        "--params",
        default="trained",
        metavar="trained|ema|mean:N",
        help=f"export, merge: {flags.PARAMS_HELP}",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside tlx whose code the saved config may name; may be repeated",
    )
    return parser
