"""Talk to a model that was tuned on conversations.

    tlx chat runs/chat
    tlx chat runs/chat --system='Answer in one sentence.' --temperature=0
    tlx chat DIR                                    an imported model that came with a chat template
    tlx chat DIR --template=chatml                  one that was tuned with this template, but came without
    tlx chat MINILM --retrieve=ChatbotData.csv --columns=Q,A        stored answers, found by embeddings

RUN is a run directory or one of its checkpoints, tuned with the task chat (configs/finetune/chat.py), or an imported
model whose files hold a chat template (chat_template.jinja, or chat_template in tokenizer_config.json). A line
is a message; /new starts another conversation, /exit or the end of the input (Ctrl-D) ends. When the
conversation is longer than the model's context, the oldest messages are left out, and a line says so.

With --retrieve any model that embeds texts answers with the stored answer whose message is nearest to the last one.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from tlx.base.errors import ConfigError
from tlx.cli import flags

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel

_MAX_TOKENS = 256  # of an answer, by default


def main(argv: list[str]) -> int:
    """Run `tlx chat`: answers on the standard output; exit 64 for a model that was not tuned for it."""
    options = flags.parse(_parser(), argv)
    if options.best_of < 0:
        raise ConfigError(f"--best_of={options.best_of} must be 0 or more")
    if options.retrieve:
        unused = [name for name in ("best_of", "system", "template") if getattr(options, name)]
        if unused:
            raise ConfigError(f"--retrieve looks answers up: leave out --{', --'.join(unused)}")
    # After the parser: these load jax, which --help does not wait for.
    from tlx.api.load import load
    from tlx.api.reply import template_of

    model = load(
        options.run,
        step=options.step,
        dtype=options.dtype,
        allow=options.allow,
        params=options.params,
        weights=options.weights,
    )
    if options.retrieve:
        _retrieve(model, options)
        return 0
    template_of(model, options.template)  # an error before the first message
    _converse(model, options)
    return 0


def _retrieve(model: "LoadedModel", options: argparse.Namespace) -> None:
    """Answer messages from the standard input with stored answers."""
    from tlx.api.retrieval import AnswerIndex
    from tlx.data.readers import read_files
    from tlx.data.readers.record import RecordFiles

    columns = options.columns.split(",")
    if len(columns) != 2 or not all(columns):
        raise ConfigError(f"--columns = {options.columns!r} must name two columns, such as Q,A")
    records = read_files([options.retrieve], RecordFiles(), "--retrieve")
    texts = [[record.text(column, "--columns").strip() for column in columns] for record in records]
    texts = [pair for pair in texts if all(pair)]
    if not texts:
        raise ConfigError(f"--retrieve={options.retrieve}: no record has both a message and an answer")
    index = AnswerIndex(model, [message for message, _ in texts], [answer for _, answer in texts])
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        print(f"{len(texts):,} answers of {options.retrieve}; /exit ends", file=sys.stderr)
    while True:
        line = _read(at_terminal)
        if line is None or line == "/exit":
            return
        if line:
            try:
                answer = index.find(line)[0].answer
            except ConfigError as error:
                # A message that is too long: the conversation goes on without it.
                print(f"tlx chat: {error}", file=sys.stderr)
                continue
            if cut := model.num_cut_tokens(line):
                limit = model.config.embed.max_tokens
                print(f"(the last {cut} tokens are not read: the model embeds {limit})", file=sys.stderr)
            print(answer, flush=True)


def _converse(model: "LoadedModel", options: argparse.Namespace) -> None:
    """Answer messages from the standard input until /exit or its end."""
    from tlx.api.reply import best_reply, reply_pieces, reply_request
    from tlx.decode.prefixes import PrefixStore
    from tlx.decode.sampling import Sampling
    from tlx.text.chat import Message

    max_tokens = options.max_tokens or min(_MAX_TOKENS, model.config.data.sequence_length // 2)
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    sampling.validate()
    beginning = [Message("system", options.system)] if options.system else []
    history = list(beginning)
    # A message is read after the turns before it, which are not read again.
    decoder = model.row_decoder._replace(prefixes=PrefixStore())
    seed = options.seed
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        print(f"{options.run} at step {model.step}; /new begins again, /exit ends", file=sys.stderr)
    while True:
        line = _read(at_terminal)
        if line is None or line == "/exit":
            return
        if line == "/new":
            history = list(beginning)
        elif line:
            messages = [*history, Message("user", line)]
            try:
                request = reply_request(model, messages, max_tokens, sampling, options.template)
            except ConfigError as error:
                # Such as a message that is too long: the conversation goes on without it.
                print(f"tlx chat: {error}", file=sys.stderr)
                continue
            if request.left_out:
                print(f"(no room for the {request.left_out} oldest messages)", file=sys.stderr)
            request = request._replace(row=request.row._replace(seed=seed))
            if options.best_of:
                answer = best_reply(model, request, options.best_of)
                print(answer, end="")
            else:
                answer = ""
                for piece in reply_pieces(model, decoder, request.row, request.stop):
                    print(piece, end="", flush=True)
                    answer += piece
            print(flush=True)
            history = [*messages, Message("assistant", answer)]
            seed += 1


def _read(at_terminal: bool) -> str | None:
    """Return the next line without surrounding spaces; None at the end of the input."""
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
    flags.add_weights(parser)
    parser.add_argument(
        "--retrieve", metavar="GLOB", help="records with messages and answers, which are looked up"
    )
    parser.add_argument(
        "--columns", default="message,answer", metavar="M,A", help="their columns (message,answer)"
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="system message of every conversation")
    parser.add_argument(
        "--template",
        default="",
        metavar="NAME",
        help="chat template, such as chatml, llama3 or zephyr; by default that of the run or of the model's files",
    )
    parser.add_argument(
        "--max_tokens",
        "--max-tokens",
        type=int,
        default=0,
        help=f"maximum tokens of an answer; 0: {_MAX_TOKENS}, but at most half of the sequence length",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="sampling temperature; 0 is greedy (0.7)"
    )
    parser.add_argument(
        "--top_k", "--top-k", type=int, default=0, help="sample from the k likeliest tokens; 0: from all"
    )
    parser.add_argument(
        "--top_p",
        "--top-p",
        type=float,
        default=1.0,
        help="sample from the fewest tokens whose probabilities sum to at least this; 1.0: from all",
    )
    parser.add_argument(
        "--best_of",
        "--best-of",
        type=int,
        default=0,
        metavar="N",
        help="draw N answers to each message, and print the likeliest (sample-and-rank); 0: show one as it comes",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    return parser
