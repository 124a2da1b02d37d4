"""Ghost attention: records of conversations in which the first message's instruction holds for the last answer.

Touvron et al. 2023 (Llama 2, arXiv:2307.09288, 3.3): an instruction is joined to all messages of the user, and the
model that is to be tuned samples the last answer. A training record has the instruction in the first message alone,
in half of the records in fewer words, and no loss on what stands before the last answer (the task chat with
`loss_on="last_answer"`): the earlier answers, which are the data set's, need not follow the instruction.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.api.loaded_model import LoadedModel
from tlx.base import place as places
from tlx.base.errors import ConfigError, DataError
from tlx.base.place import BucketPath
from tlx.data.readers import Record
from tlx.decode.sampling import Sampling
from tlx.run.spec import spec_of
from tlx.tasks.chat import Chat, messages_of
from tlx.text.chat import Message, prompt_of
from tlx.trainer.sampled_texts import sample_texts
from tlx.trainer.task_config import get_task


@dataclasses.dataclass(frozen=True)
class GhostAttentionConfig:
    """How instructions are drawn and answers sampled."""

    most_constraints: int = 1
    """Most lines of the file that one instruction joins, at least 1; their number is drawn uniformly."""
    temperature: float = 1.0
    """Temperature of the sampled answers; 0 is greedy."""
    seed: int = 0
    """Seed of all draws."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if self.most_constraints < 1:
            raise ConfigError(f"most_constraints = {self.most_constraints} must be at least 1")
        if self.temperature < 0:
            raise ConfigError(f"temperature = {self.temperature} must be 0 (greedy) or more")


class Instruction(NamedTuple):
    """An instruction that is to hold for a whole conversation."""

    text: str
    """As it is joined to all messages while answers are sampled."""
    short: str
    """In fewer words, for half of the training records; `text` where the file has none."""


class GhostRecords(NamedTuple):
    """Records to tune on, and what was left out."""

    records: list[dict[str, Any]]
    """{"messages": [{"role", "content"}, ...], "instruction"} each."""
    num_long: int
    """Conversations left out because they do not fit the model's rows with the instruction."""
    num_unfinished: int
    """Conversations left out because their answer is empty or was cut at `objective.target_length`."""


class _Conversation(NamedTuple):
    context: list[Message]
    """All messages but the last answer, with the instruction in all of the user's."""
    trained: list[Message]
    """The same as they are trained on, with the instruction in the first one."""
    instruction: str
    """The instruction in full."""


def read_instructions(path: str | os.PathLike | BucketPath) -> list[Instruction]:
    """Read a file with an instruction a line: "TEXT", or "TEXT<tab>SHORT".

    Raises:
        DataError: The file cannot be read, a line has more than two columns, or no line holds an instruction.
    """
    try:
        text = places.parse(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the instructions {path}: {error}") from error
    instructions = []
    for number, line in enumerate(text.splitlines(), 1):
        columns = [column.strip() for column in line.split("\t")]
        if not any(columns):
            continue
        if len(columns) > 2 or not columns[0]:
            raise DataError(f"{path}:{number}: expected 'TEXT' or 'TEXT<tab>SHORT', found {line!r:.60}")
        instructions.append(Instruction(columns[0], columns[-1] or columns[0]))
    if not instructions:
        raise DataError(f"{path}: no line holds an instruction")
    return instructions


def with_instruction(messages: Sequence[Message], instruction: str, *, everywhere: bool) -> list[Message]:
    """Join an instruction to messages of the user.

    Args:
        messages: A conversation.
        instruction: The instruction, put before the message on a line of its own.
        everywhere: Whether all messages of the user get it, or only the first.

    Returns:
        The messages.
    """
    joined = []
    wanted = True
    for message in messages:
        if wanted and message.role == "user":
            message = message._replace(content=f"{instruction}\n{message.content}")
            wanted = everywhere
        joined.append(message)
    return joined


def ghost_records(
    lm: LoadedModel,
    records: Sequence[Record],
    columns: Chat,
    instructions: Sequence[Instruction],
    config: GhostAttentionConfig,
) -> GhostRecords:
    """Sample the last answers of conversations under an instruction.

    Args:
        lm: A run of the task chat.
        records: Conversations; their last answers are replaced.
        columns: Where a record has its messages.
        instructions: What is drawn from.
        config: How.

    Returns:
        The records.

    Raises:
        ConfigError: The model was not tuned by the task chat.
        DataError: A record is no conversation, or none is left.
    """
    spec: Any = spec_of(lm.config, lm.tokenizer)
    if lm.config.objective.name != "chat":
        raise ConfigError(
            f"ghost attention samples answers of a run of the task chat, this is one of "
            f"{lm.config.objective.name!r}: tlx finetune --config=finetune/chat --from=IT makes one"
        )
    conversations = []
    num_long = 0
    room = spec.length - spec.config.target_length - len(spec.prompt)
    for number, record in enumerate(records):
        rng = np.random.default_rng([config.seed, number])
        messages = messages_of(record, columns)
        conversation = _drawn(messages[:-1], instructions, config, rng)
        ids, left_out = prompt_of(conversation.context, spec.config.chat_template, lm.tokenizer, room)
        if left_out or len(ids) > room:
            num_long += 1
        else:
            conversations.append(conversation)
    if not conversations:
        raise DataError(
            f"none of {len(records):,} conversations has room for an instruction and an answer in rows of "
            f"{spec.length} tokens, of which target_length = {spec.config.target_length} are the answer's"
        )
    rows = []
    answers = _answers(lm, [conversation.context for conversation in conversations], spec, config)
    for conversation, answer in zip(conversations, answers, strict=True):
        if answer:
            said = [*conversation.trained, Message("assistant", answer)]
            values = {"messages": [message._asdict() for message in said]}
            rows.append(values | {"instruction": conversation.instruction})
    if not rows:
        raise DataError(
            f"none of {len(conversations):,} sampled answers is a text that ended within objective.target_length = "
            f"{spec.config.target_length} tokens; tune the model longer, or sample at a lower temperature"
        )
    return GhostRecords(rows, num_long, len(conversations) - len(rows))


def _drawn(
    messages: Sequence[Message],
    instructions: Sequence[Instruction],
    config: GhostAttentionConfig,
    rng: np.random.Generator,
) -> _Conversation:
    """Draw the instruction of a conversation, and whether training sees its short form."""
    most = min(config.most_constraints, len(instructions))
    count = int(rng.integers(1, most + 1))
    chosen = [instructions[i] for i in rng.permutation(len(instructions))[:count]]
    text = " ".join(instruction.text for instruction in chosen)
    short = " ".join(instruction.short for instruction in chosen)
    trained = short if rng.random() < 0.5 else text
    return _Conversation(
        with_instruction(messages, text, everywhere=True),
        with_instruction(messages, trained, everywhere=False),
        text,
    )


def _answers(
    lm: LoadedModel, contexts: Sequence[Sequence[Message]], spec: Any, config: GhostAttentionConfig
) -> list[str]:
    """Sample an answer to each context: "" where it is empty or did not end."""
    task = get_task(lm.config)
    # The contexts have one layout, whatever the run's own records had; a system message stands among them.
    layout = dataclasses.replace(
        spec.config, messages="messages", role="role", content="content", prompt="", answer="", system=""
    )
    spec = dataclasses.replace(spec, config=layout)
    values = [{"messages": [message._asdict() for message in context]} for context in contexts]
    records = [Record(f"conversation {number}", value) for number, value in enumerate(values)]
    items = task.prepare(records, lm.tokenizer, spec, labelled=False)
    request, texts = sample_texts(
        lm,
        items,
        spec,
        sampling=Sampling(config.temperature),
        batch_size=lm.config.train.batch_size,
        seed=config.seed,
    )
    predicted = task.predictions({"nats": np.zeros(len(items)), "written": texts}, items, spec)
    answers = []
    for one, tokens in zip(predicted, texts, strict=True):
        # A full answer has ended only where it holds the text that ends one.
        ended = len(tokens) < request.max_tokens
        ended |= bool(request.stop) and request.stop in lm.tokenizer.decode(tokens)
        answers.append(str(one["answer"]) if ended else "")
    return answers
