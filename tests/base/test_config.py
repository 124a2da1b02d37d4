"""Mappings to nested frozen dataclasses and back; every mistake has a message with the way out."""

import dataclasses
from typing import Any, Literal

import pytest

from tlx.base import config
from tlx.base.errors import ConfigError

pytestmark = pytest.mark.jax_versions


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 4
    rate: float = 0.5
    kind: Literal["a", "bee"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = dataclasses.field(default_factory=Inner)
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("x", 1.0)
    limit: int | None = None
    choice: str | tuple[str, ...] = ""
    flag: bool = False
    rules: tuple[tuple[str, float], ...] = ()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    anything: Any = None
    one: Literal[1, 2] = 1


def test_round_trip_through_plain_values():
    values = {
        "name": "n",
        "inner": {"width": 8, "rate": 1, "kind": "bee"},
        "sizes": [3, 4, 5],
        "pair": ["y", 2],
        "limit": 7,
        "choice": ["p", "q"],
        "flag": True,
        "rules": [["bias", 0], ["kernel", 0.5]],
        "extra": {"deep": {"list": [1, (2,)]}},
    }
    built = config.from_dict(Outer, values)
    assert built.inner == Inner(8, 1.0, "bee") and isinstance(built.inner.rate, float)
    assert built.sizes == (3, 4, 5) and built.pair == ("y", 2.0)
    assert built.choice == ("p", "q") and built.rules == (("bias", 0.0), ("kernel", 0.5))
    plain = config.to_dict(built)
    assert plain["rules"] == [["bias", 0.0], ["kernel", 0.5]] and plain["extra"] == {
        "deep": {"list": [1, [2]]}
    }
    assert config.from_dict(Outer, plain) == dataclasses.replace(built, extra=plain["extra"])


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "config.name is missing"),
        ({"name": "n", "inner": {"widht": 3}}, "unknown key: config.inner = 'widht' .*did you mean 'width'"),
        ({"name": "n", "innner": {}}, "did you mean 'inner'"),
        ({"name": 3}, "config.name = 3 must be str, not int"),
        ({"name": "n", "inner": {"width": 2.5}}, "config.inner.width = 2.5 must be int, not float"),
        ({"name": "n", "inner": {"width": "4"}}, "config.inner.width = '4' must be int, not str"),
        ({"name": "n", "inner": {"width": True}}, "config.inner.width = True must be int, not bool"),
        ({"name": "n", "inner": {"width": None}}, "config.inner.width = None must be int"),
        ({"name": "n", "inner": {"rate": "fast"}}, "config.inner.rate = 'fast' must be float"),
        ({"name": "n", "inner": {"kind": "be"}}, "config.inner.kind = 'be' is not one of: a, bee.*'bee'"),
        ({"name": "n", "inner": 3}, "config.inner = 3 must be a group of Inner's keys"),
        ({"name": "n", "sizes": "12"}, "config.sizes = '12' must be a list"),
        ({"name": "n", "sizes": [1, "b"]}, r"config.sizes\[1\] = 'b' must be int"),
        ({"name": "n", "pair": ["y"]}, "config.pair = .* must have 2 items"),
        ({"name": "n", "limit": "many"}, "config.limit = 'many' must be int"),
        ({"name": "n", "choice": None}, "config.choice must not be None"),
        ({"name": "n", "flag": 1}, "config.flag = 1 must be bool, not int"),
        ({"name": "n", "extra": [1]}, "config.extra = .* must be a group of keys"),
        ({"name": "n", "rules": [["bias"]]}, r"config.rules\[0\] = .* must have 2 items"),
        ({"name": "n", "rules": "bias"}, "config.rules = 'bias' must be a list"),
        ({"name": "n", "sizes": b"12"}, "config.sizes = b'12' must be a list"),
        ({"name": "n", "sizes": {1: 2}}, "config.sizes = {1: 2} must be a list"),
        ({"name": "n", "sizes": {2, 1}}, "config.sizes = {1, 2} must be a list"),
        ({"name": "n", "inner": {"rate": float("nan")}}, "config.inner.rate = nan must be finite"),
        ({"name": "n", "inner": {"rate": 10**400}}, "config.inner.rate = 1000.* must be finite"),
        (
            {"name": "n", "inner": {"width": 2**63}},
            "config.inner.width = 9223372036854775808 must be smaller than",
        ),
        (
            {"name": "n", "inner": {"width": "9" * 5000}},
            r"config.inner.width = '9{299}... \(5,002 characters\)",
        ),
        ({"name": "n", "one": True}, "config.one = True is not one of: 1, 2"),
    ],
)
def test_each_mistake_has_its_message(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config.from_dict(Outer, values)
    assert caught.value.code == 64


def test_whole_floats_pass_for_ints_and_none_for_optionals():
    built = config.from_dict(Outer, {"name": "n", "inner": {"width": 3.0}, "limit": None})
    assert built.inner.width == 3 and isinstance(built.inner.width, int) and built.limit is None
    assert isinstance(config.from_dict(Outer, {"name": "n", "one": 2.0}).one, int)


def test_flatten():
    assert config.flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
