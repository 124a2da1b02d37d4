"""Talk to a model that was tuned on conversations.

    tlx chat runs/chat
    tlx chat runs/chat --system='Answer in one sentence.' --temperature=0
    tlx chat DIR --template=chatml                  a model from elsewhere that knows such a template

RUN is a run directory or one of its checkpoints, tuned with the task chat (configs/finetune/chat.py). A line
is a message; /new begins another conversation, /exit or the end of the input (Ctrl-D) ends. Where the model's
length has no room for all that was said, the oldest messages are left out, and it says so.
"""

import argparse
import sys

import tlx
from tlx.api.reply import reply, template_of
from tlx.base.errors import ConfigError
from tlx.cli import flags
from tlx.decode.sampling import Sampling
from tlx.text.chat import TEMPLATES, Message

_MOST = 256  # tokens of an answer, where nothing is said


def main(argv: list[str]) -> int:
    """`tlx chat`: answers on the standard output; exit 64 for a model that was not tuned so."""
    options = flags.parse(_parser(), argv)
    lm = tlx.load(options.run, step=options.step, dtype=options.dtype, allow=options.allow)
    template_of(lm, options.template)
    most = options.max_tokens or min(_MOST, lm.config.data.sequence_length // 2)
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    sampling.validate()
    begin = [Message("system", options.system)] if options.system else []
    said = list(begin)
    seed = options.seed
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        print(f"{options.run} at step {lm.step}; /new begins again, /exit ends", file=sys.stderr)
    while True:
        line = _read(at_terminal)
        if line is None or line == "/exit":
            return 0
        if line == "/new":
            said = list(begin)
        elif line:
            asked = [*said, Message("user", line)]
            try:
                answer = reply(lm, asked, most, sampling, seed, options.template)
            except ConfigError as error:
                print(f"tlx chat: {error}", file=sys.stderr)
                continue
            if answer.left_out:
                print(f"(no room for the {answer.left_out} oldest messages)", file=sys.stderr)
            print(answer.text, flush=True)
            said = [*asked, Message("assistant", answer.text)]
            seed = seed + 1


def _read(at_terminal: bool) -> str | None:
    """The next line; None at the end."""
    if not at_terminal:
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("chat", __doc__)
    flags.add_run(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="what the system says before all")
    parser.add_argument(
        "--template", default="", metavar="NAME", help=f"of a model from elsewhere: {', '.join(TEMPLATES)}"
    )
    parser.add_argument(
        "--max_tokens",
        "--max-tokens",
        type=int,
        default=0,
        help=f"of an answer ({_MOST}, half of the length)",
    )
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (0.7)")
    parser.add_argument("--top_k", "--top-k", type=int, default=0, help="draw from the k likeliest; 0: all")
    parser.add_argument(
        "--top_p", "--top-p", type=float, default=1.0, help="draw from the fewest tokens of this probability"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser
