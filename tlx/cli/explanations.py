"""Meaning, type, legal values and default of every config key: of `tlx config --explain` and of a page."""

import difflib
import functools
import re
import textwrap
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tlx.base.errors import ConfigError
from tlx.base.field_docs import KeyDoc, key_docs
from tlx.base.renamed_keys import new_path
from tlx.evaluation.few_shot import FewShotConfig
from tlx.objectives import TABLE as OBJECTIVES
from tlx.run import RunConfig
from tlx.run.config import OBJECTIVES_AND_TASKS
from tlx.scaling.ladder import LadderConfig

_FEW_SHOT = "few-shot evaluation"
_WIDTH = 100

_OBJECTIVE = KeyDoc(
    "objective.name",
    "Objective or task; it decides which other keys of objective there are.",
    f'one of: {", ".join(OBJECTIVES_AND_TASKS)}; or "package.module:attr"',
    "'clm'",
    False,
)


class Explained(NamedTuple):
    """A key, and the configs that have it."""

    doc: KeyDoc
    """Its documentation."""
    owners: tuple[str, ...]
    """Names of the objectives, tasks or kinds of config that it belongs to; empty for every run."""


def explain(key: str, config: ConfigDict | None = None) -> str:
    """Return the meaning, type, legal values and default of a key, or of each key of a group.

    Args:
        key: dotted key ("optimizer.learning_rate"), a group, the last part of a key, or "" for all groups.
        config: config whose values are shown too; of the keys of objectives only those of its own.

    Returns:
        The text.

    Raises:
        ConfigError: there is no such key (with the nearest ones, or the key's new name).
    """
    key = key.removeprefix("config.").strip(".")
    known = every_key()
    if config is not None:
        owners = _owners(config)
        known = [one for one in known if not one.owners or not owners.isdisjoint(one.owners)]
        if "ladder" in config:
            key = key.removeprefix("run.") if key != "run" else ""
    if not key:
        groups = [one for one in known if "." not in one.doc.key]
        return "\n".join(_lines(one, config) for one in groups)
    selected = _matches(key, known)
    if not selected:
        raise _unknown(key, known)
    return "\n".join(_lines(one, config) for one in selected)


@functools.cache
def every_key() -> list[Explained]:
    """Return every key of every config dataclass: of runs, objectives, tasks, ladders, few-shot evaluations.

    Keys that several of them share stand together, with all owners.
    """
    owners: dict[KeyDoc, list[str]] = {}
    for doc in key_docs(RunConfig, ""):
        owners[doc] = []
    owners[_OBJECTIVE] = []
    for name in OBJECTIVES_AND_TASKS:
        config_class = OBJECTIVES_AND_TASKS.load(name).config_class
        for doc in key_docs(config_class, "objective."):
            if doc.key != _OBJECTIVE.key:
                owners.setdefault(doc, []).append(name)
    for doc in key_docs(FewShotConfig, ""):
        if doc.key.startswith("objective."):
            owners.setdefault(doc, []).append(_FEW_SHOT)
    for doc in key_docs(LadderConfig, "ladder."):
        owners.setdefault(doc, []).append("ladder")
    return [Explained(doc, tuple(names)) for doc, names in owners.items()]


def page() -> str:
    """Return a page in Markdown of every key, by group."""
    sections: dict[str, list[Explained]] = {}
    for one in every_key():
        if not one.doc.is_group:
            sections.setdefault(_section(one), []).append(one)
    lines = ["# Config keys", "", "`tlx config --explain KEY` prints the same.", ""]
    for name in sorted(sections):
        lines += [f"## {name}", ""]
        for one in sections[name]:
            owners = f" Of {', '.join(one.owners)}." if len(one.owners) > 1 else ""
            meaning = re.sub(r"([*_<\[\]])", r"\\\1", one.doc.meaning + owners)
            kind = re.sub(r"([*_<\[\]])", r"\\\1", one.doc.type)
            lines.append(f"- `{one.doc.key}` ({kind}; default `{one.doc.default}`): {meaning}")
        lines.append("")
    return "\n".join(lines)


def _section(one: Explained) -> str:
    """Return the heading of the page below which a key stands."""
    if len(one.owners) == 1 and one.owners[0] != "ladder":
        kind = "objective" if one.owners[0] in OBJECTIVES else "task"
        return one.owners[0] if one.owners[0] == _FEW_SHOT else f"objective, of the {kind} {one.owners[0]}"
    if one.owners and one.owners[0] != "ladder":
        return "objective, of several"
    return one.doc.key.rpartition(".")[0].removesuffix("[]") or "the run"


def _matches(key: str, known: list[Explained]) -> list[Explained]:
    """Return the keys that are meant: the key itself, a group and all in it, or keys with this last part."""
    index = re.compile(r"\[\d*\]")
    plain = index.sub("", key)
    exact = []
    for one in known:
        name = index.sub("", one.doc.key)
        if name == plain or name.startswith(plain + "."):
            exact.append(one)
    if exact:
        return exact
    return [one for one in known if one.doc.key.endswith("." + key)]


def _unknown(key: str, known: list[Explained]) -> ConfigError:
    """Make the error for a key that does not exist."""
    renamed = new_path(key)
    if renamed is not None and _matches(renamed, known):
        return ConfigError(f"{key} is now called {renamed}")
    names = [one.doc.key for one in known]
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    last = key.rpartition(".")[2]
    near += [
        name for name in names if difflib.SequenceMatcher(None, name.rpartition(".")[2], last).ratio() > 0.8
    ]
    shown = ", ".join(dict.fromkeys(near[:6])) or "none is similar"
    return ConfigError(f"unknown key {key!r}; the nearest: {shown}. `tlx config --explain` lists all groups")


def _owners(config: Any) -> set[str]:
    """Return the name of the objective or task of a config, and "ladder" for a ladder's."""
    ladder = {"ladder"} if "ladder" in config else set()
    objective = (config.run if ladder else config).get("objective") or {}
    return ladder | {str(objective.get("name") or _FEW_SHOT)}


def _lines(one: Explained, config: Any) -> str:
    """Return the lines that explain a key, with its value in a config where there is one."""
    doc = one.doc
    if doc.is_group:
        return f"{doc.key}: {doc.meaning}"
    facts = [f"type: {doc.type}", f"default: {doc.default}"]
    if config is not None:
        value = _value(config, doc.key)
        facts += [f"here: {value}"] if value is not None else []
    owners = [f"of: {', '.join(one.owners)}"] if one.owners else []
    lines = textwrap.wrap(doc.meaning, _WIDTH - 4)
    for fact in facts + owners:
        lines += textwrap.wrap(fact, _WIDTH - 4, subsequent_indent="  ")
    return "\n".join([doc.key, *(f"    {line}" for line in lines)])


def _value(config: Any, key: str) -> str | None:
    """Return the value of a key in a config, as Python writes it; None where the config does not have it."""
    node = config.run if "ladder" in config and not key.startswith("ladder.") else config
    for name in key.split("."):
        if name not in node:
            return None
        node = node[name]
        if not hasattr(node, "keys"):
            return repr(node)
    return None
