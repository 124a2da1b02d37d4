"""Names reach code through tables only, and code outside tlx only where the caller allows it."""

import pytest

from tlx.base.errors import ConfigError
from tlx.base.lookup import Table

TABLE = Table(
    "thing", {"dict": "collections:OrderedDict", "gone": "collections:Nothing", "away": "no.module:x"}
)


def test_names_of_the_table():
    import collections

    assert TABLE.load("dict") is collections.OrderedDict
    assert TABLE.load("dict", allow=()) is collections.OrderedDict
    assert list(TABLE) == ["dict", "gone", "away"] and len(TABLE) == 3


def test_an_unknown_name_gets_the_choices_and_the_nearest():
    with pytest.raises(
        ConfigError, match="thing = 'dcit' is not one of: dict, gone, away; did you mean 'dict'"
    ):
        TABLE.load("dcit")


def test_outside_code_needs_leave(tmp_path, monkeypatch):
    module = tmp_path / "outside_tlx_x"
    module.mkdir()
    (module / "__init__.py").write_text("")
    (module / "part.py").write_text("raised = []\nvalue = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "outside_tlx_x.part:value"
    for allow in ((), ("outside",), ("tlx",)):
        with pytest.raises(ConfigError, match=r"code outside tlx; pass allow=\('outside_tlx_x',\)"):
            TABLE.load(name, allow=allow)
    with pytest.raises(ConfigError, match="code outside tlx"):
        TABLE.load(name)
    assert TABLE.load(name, allow=("outside_tlx_x",)) == 7
    assert TABLE.load(name, allow=None) == 7


def test_refused_code_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "trap_tlx_x.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError):
        TABLE.load("trap_tlx_x:value", allow=())


def test_a_wrong_outside_name_is_the_users_mistake_a_wrong_table_is_ours():
    for name in (
        "no_such_module_x:value",
        "collections:no_such_attr",
        "collections:a:b",
        ":x",
        "x:",
        ".up:x",
    ):
        with pytest.raises(ConfigError, match="cannot be imported"):
            TABLE.load(name, allow=None)
    with pytest.raises(ModuleNotFoundError):
        TABLE.load("away")
    with pytest.raises(AttributeError):
        TABLE.load("gone")
