"""`tlx config --explain`: every key of every config dataclass has a meaning, a type and a default."""

import dataclasses
from typing import Annotated, Literal

import pytest

from tlx import __version__, cli
from tlx.base.config import flatten
from tlx.base.config_files import load_config
from tlx.base.errors import ConfigError
from tlx.base.field_docs import field_docs, key_docs, type_in_words
from tlx.base.lookup import Table
from tlx.cli import explanations
from tlx.run import base_config
from tlx.run.config import OBJECTIVES_AND_TASKS


def test_every_key_is_explained():
    known = explanations.every_key()
    assert len(known) > 500
    for one in known:
        assert one.doc.meaning.endswith((".", ")", "?")) or len(one.doc.meaning) > 10, one.doc.key
        assert one.doc.type and (one.doc.is_group or one.doc.default), one.doc.key
    keys = {one.doc.key for one in known}
    for name in OBJECTIVES_AND_TASKS:
        assert flatten(base_config(name).to_dict()).keys() <= keys, name


def test_one_key_has_meaning_type_legal_values_and_default(capsys):
    assert cli.main(["config", "--explain", "optimizer.muon.scale"]) == 0
    out = capsys.readouterr().out
    assert "Scale of the orthogonal update" in out
    assert "type: one of: 'rms', 'spectral'" in out and "default: 'rms'" in out


def test_a_group_lists_its_keys_and_without_a_key_all_groups(capsys):
    assert cli.main(["config", "--explain=optimizer.schedule"]) == 0
    out = capsys.readouterr().out
    assert all(
        f"optimizer.schedule.{name}\n" in out for name in ("name", "warmup", "final_fraction", "cooldown")
    )
    assert "optimizer.muon" not in out
    assert cli.main(["config", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "optimizer: " in out and "model: " in out and "optimizer.schedule" not in out


def test_with_a_config_its_objective_and_its_values(capsys):
    words = ["config", "quickstart:mlm", "--config.objective", "--help"]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "objective.masking_rate" in out and "objective.mem_len" not in out
    assert "here: 2400" in explanations.explain("config.train.steps", load_config("quickstart:mlm"))
    assert "ladder.size_span" in explanations.explain("size_span", load_config("scaling/quickstart"))
    assert "here: " in explanations.explain("run.optimizer.learning_rate", load_config("scaling/quickstart"))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.stpes", "the nearest: train.steps"),
        ("optimizer.schedule.final", "is now called optimizer.schedule.final_fraction"),
        ("ladder.budgt", "ladder.budget"),
    ],
)
def test_an_unknown_key_gets_the_nearest(key, message):
    with pytest.raises(ConfigError, match=message):
        explanations.explain(key)


def test_objective_and_task_names_are_legal_values():
    out = " ".join(explanations.explain("objective.name").split())
    assert "mlm" in out and "token_classification" in out and '"package.module:attr"' in out


def test_the_page_has_every_key():
    page = explanations.page()
    for one in explanations.every_key():
        assert one.doc.is_group or f"- `{one.doc.key}` (" in page
    assert page.count("## objective, of the") > 20 and "## ladder" in page


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int
    """Size
    of it."""


@dataclasses.dataclass(frozen=True)
class Outer:
    kind: Annotated[str, Table("kind", {"a": "x:y", "b": "x:z"})] = "a"
    """Which."""
    parts: tuple[Inner, ...] = ()
    """Parts."""
    one: Inner = Inner(3)
    """The one."""


@dataclasses.dataclass(frozen=True)
class Further(Outer):
    more: float | None = None
    """More."""


def test_fields_of_base_classes_tables_lists_and_required_fields():
    assert field_docs(Further) == {"kind": "Which.", "parts": "Parts.", "one": "The one.", "more": "More."}
    docs = {doc.key: doc for doc in key_docs(Further, "x.")}
    assert list(docs) == ["x.kind", "x.parts", "x.parts[].size", "x.one", "x.one.size", "x.more"]
    assert docs["x.kind"].type == 'one of: a, b; or "package.module:attr"'
    assert docs["x.parts[].size"].default == "required" and docs["x.one.size"].default == "3"
    assert docs["x.one.size"].meaning == "Size of it." and docs["x.more"].type == "number or None"
    assert type_in_words(tuple[tuple[str, float], ...]) == "list of (text, number)"
    assert type_in_words(Literal["a", 1]) == "one of: 'a', 1"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tlx {__version__}\n"
