"""The examples in the help of every verb have the flags that the verb takes."""

import importlib
import re
import shlex

import pytest

from tlx.cli import VERBS, flags


def examples():
    """[(command, words)] of the examples in the docstrings of all verbs."""
    lines = []
    for target in VERBS.values():
        text = importlib.import_module(target.partition(":")[0]).__doc__ or ""
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            # A comment follows an example after several spaces.
            match = re.match(r" *(tlx .*?)(?: {3,}\S.*)?$", line)
            if match and "..." not in match[1]:
                lines.append(re.sub(r"  +", " ", match[1]))
    return lines


class _Parsed(Exception):
    """Raised in place of what a verb does."""


@pytest.mark.parametrize("command", examples())
def test_flags_of_examples_exist(command, monkeypatch, capsys):
    def parse(parser, argv):
        words = flags._with_config_flag(parser, flags._with_equals_signs(argv))
        _, unknown = parser.parse_known_args([word for word in words if not word.startswith("--config.")])
        assert not unknown, command
        raise _Parsed

    monkeypatch.setattr(flags, "parse", parse)
    verb, *words = shlex.split(command)[1:]
    with pytest.raises(_Parsed):
        VERBS.load(verb)(words)


def test_there_is_an_example_of_every_verb():
    assert {command.split()[1] for command in examples()} == set(VERBS)
