"""Chat templates of imported models: the Jinja template among a tokenizer's files, as transformers renders it.

A template is a program of somebody else. It runs in Jinja's sandbox for immutable values, which reaches neither files
nor Python's internals, and sees nothing but the messages and the names of special ids.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib
import json
from collections.abc import Sequence
from typing import Any

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.text.chat import Message
from tlx.text.imported_files import stated_roles
from tlx.text.tokenizer import Tokenizer

FILE = "chat_template.jinja"
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
_OLDEST_JINJA = (3, 1, 6)  # older ones let a template out of the sandbox


@dataclasses.dataclass(frozen=True)
class ModelTemplate:
    """The chat template that came with a model."""

    source: str
    """The Jinja template."""
    names: tuple[tuple[str, str], ...]
    """Variables of the template and their values, such as ("bos_token", "<s>")."""

    def text(self, messages: Sequence[Message], reply: bool = False, continued: bool = False) -> str:
        """Render a conversation.

        Args:
            messages: The conversation.
            reply: Whether to add the text before an answer that is to be generated.
            continued: Whether the last message is only the beginning of the answer, after which the text ends.

        Returns:
            The text, with special ids by name.

        Raises:
            ConfigError: Jinja is missing, or the template is faulty or refuses the conversation.
        """
        values = [message._asdict() for message in messages]
        names = dict(self.names)
        jinja2 = _import_jinja()
        variables = {"messages": values, "tools": None, "documents": None, "add_generation_prompt": reply}
        try:
            text = _compiled(self.source).render(variables | names)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"the model's own chat template refuses this conversation: {error}") from error
        return _cut_after(text, messages[-1].content) if continued else text


def model_template(tokenizer: Tokenizer) -> ModelTemplate | None:
    """Return the chat template among the files of an imported tokenizer; None where there is none.

    Raises:
        ConfigError: There are several templates and none is the default.
        DataError: A file cannot be read.
    """
    files = getattr(tokenizer, "files", {})
    try:
        settings = [json.loads(files.get(name, b"{}")) for name in _SETTINGS]
        source = files[FILE].decode() if FILE in files else settings[1].get("chat_template")
    except ValueError as error:
        raise DataError(f"cannot read the tokenizer's files: {error}") from error
    if not source:
        return None
    if isinstance(source, list):
        templates = {entry["name"]: entry["template"] for entry in source}
        if "default" not in templates:
            raise ConfigError(one_of("tokenizer_config.json: chat_template", "default", templates))
        source = templates["default"]
    merged = settings[0] | {name: value for name, value in settings[1].items() if value is not None}
    roles = _roles_of_layout(tokenizer) | stated_roles(merged)
    return ModelTemplate(source, tuple((f"{role}_token", token) for role, token in roles.items()))


def _roles_of_layout(tokenizer: Tokenizer) -> dict[str, str]:
    """Return {role: piece} that a SentencePiece model's family has without saying so in its files."""
    layout = getattr(tokenizer, "layout", None)
    return {} if layout is None else layout.roles


def _cut_after(text: str, content: str) -> str:
    """Return the text up to the end of the last message, whose spaces at its end count if the template keeps them."""
    stripped = content.strip()
    if stripped not in text:
        raise ConfigError(
            "the model's own chat template changes the last message, so that it cannot be continued"
        )
    start = text.rindex(stripped)
    whole = content.lstrip()
    return text[: start + len(whole if text[start : start + len(whole)] == whole else stripped)]


def _import_jinja() -> Any:
    """Import Jinja. Raises ConfigError where it is missing, or so old that its sandbox is not tight."""
    advice = "a model's own chat template needs jinja2 3.1.6 or newer: pip install 'tlx-lm[hf]'"
    try:
        jinja2 = importlib.import_module("jinja2")
    except ModuleNotFoundError as error:
        raise ConfigError(advice) from error
    with contextlib.suppress(ValueError):
        if tuple(int(number) for number in jinja2.__version__.split(".")[:3]) < _OLDEST_JINJA:
            raise ConfigError(f"{advice} (this is {jinja2.__version__})")
    return jinja2


@functools.lru_cache(8)
def _compiled(source: str) -> Any:
    """Compile a template in the environment that transformers gives to chat templates."""
    jinja2 = _import_jinja()
    sandbox = importlib.import_module("jinja2.sandbox")
    extension = importlib.import_module("jinja2.ext")

    class Generation(extension.Extension):
        """{% generation %} ... {% endgeneration %}, which marks an answer and changes nothing in the text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            """Return the statements between the tags."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, extension.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ConfigError(f"the model's own chat template is faulty: {error}") from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Write a value as JSON, without Jinja's replacements for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
