"""Messages of a conversation as records hold them."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import DataError, one_of
from tlx.data.readers import Record
from tlx.text.chat import ROLES, Message

# What other data sets call the roles.
_OTHER_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


def listed_messages(
    value: Any, record: Record, column: str, role_key: str, content_key: str
) -> list[Message]:
    """Check and read a list of messages.

    Args:
        value: The list.
        record: Its record, for messages.
        column: Column of the list, for messages.
        role_key: Key of a message's role.
        content_key: Key of a message's text.

    Returns:
        The messages, their roles under tlx's names.

    Raises:
        DataError: It is no list of messages.
    """
    wanted = f"a list of messages, each with {role_key!r} and {content_key!r}"
    if not isinstance(value, list | tuple):
        raise DataError(f"{record.where}: {column!r} is {type(value).__name__}, expected {wanted}")
    messages = []
    for i, message in enumerate(value):
        where = f"{record.where}: {column}[{i}]"
        if not isinstance(message, Mapping) or not {role_key, content_key} <= set(message):
            raise DataError(
                f"{where} is {message!r:.60}, expected {wanted} (objective.role, objective.content)"
            )
        role = message[role_key]
        content = message[content_key]
        role = _OTHER_NAMES.get(role, role)
        if role not in ROLES:
            raise DataError(f"{where}: " + one_of(role_key, role, [*ROLES, *_OTHER_NAMES]))
        if not isinstance(content, str):
            raise DataError(f"{where}: {content_key!r} is {type(content).__name__}, expected text")
        messages.append(Message(role, content))
    return messages
