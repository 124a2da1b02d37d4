"""Overrides of configs that nobody would write: one message or the value as it was given, never a traceback."""

import ast
import contextlib
import io
import json
import math
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli import tiny
from tests.fuzzing import fuzzed
from tlx import cli
from tlx.base.config import flatten
from tlx.base.errors import CONFIG

OBJECTIVES = ("mlm", "clm", "span_corruption")

NESTED = st.recursive(
    st.integers(-1, 2), lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=4
)
LITERALS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.integers(-2, 3),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=8),
    st.binary(max_size=3),
    NESTED,
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
).map(repr)
LONG = ("[" * 5000, "-" * 5000 + "1", "9" * 5000)
STRANGE = ("1e999", "{", "[1,", "__import__('os')", "a=b", "None", "True", "1j", *LONG)
WORDS = LITERALS | st.sampled_from(STRANGE) | st.text(max_size=12)


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    """A length of billions is refused before it is allocated: 8 GiB more than now would be an error."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as handle:
        pages = int(handle.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**33, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Resolved values by dotted key of each objective's config, and the file."""
    file = tiny.write_config(tmp_path_factory.mktemp("fuzz"))
    resolved = {}
    for name in OBJECTIVES:
        code, out, err = run(f"--config={file}:{name}")
        assert code == 0, err
        resolved[name] = flatten(json.loads(out))
    return file, resolved


def run(*words):
    out = io.StringIO()
    err = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(["config", "--json", *words])
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def plain(value):
    """A value as JSON holds it."""
    return json.loads(json.dumps(value)) if not isinstance(value, float) else value


def same(value, text, key):
    """Whether a resolved value is that of the word. None in the model's group is its default."""
    if value == text or (text == "None" and key.startswith("model.")):
        return True
    if value == [text]:
        return True  # one text stands for a list of one
    try:
        literal = plain(ast.literal_eval({"true": "True", "false": "False"}.get(text, text)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    if isinstance(literal, str) and value == [literal]:
        return True
    both_nan = all(isinstance(x, float) and math.isnan(x) for x in (value, literal))
    return both_nan or (value == literal and isinstance(value, bool) == isinstance(literal, bool))


@pytest.mark.slow
@fuzzed(300, deadline=20_000)
@given(data=st.data())
def test_overrides(configs, data):
    file, resolved = configs
    name = data.draw(st.sampled_from(OBJECTIVES))
    before = resolved[name]
    key = data.draw(st.sampled_from(sorted(before)))
    text = data.draw(WORDS)
    code, out, err = run(f"--config={file}:{name}", f"--config.{key}={text}")
    assert code in (0, CONFIG), (key, text, err)
    if code:
        assert out == "" and err.startswith("tlx config: ") and len(err) < 4000, (key, text, err)
        return
    after = flatten(json.loads(out))
    value = after.get(key, {k: v for k, v in after.items() if k.startswith(f"{key}.")})
    assert same(value, text, key), (key, text, value)
    others = before.keys() - {name for name in before if name == key or name.startswith(f"{key}.")}
    changed = [name for name in others if name in after and not same(after[name], repr(before[name]), name)]
    assert not changed, (key, text, changed)


@pytest.mark.slow
@fuzzed(300, deadline=20_000)
@given(data=st.data())
def test_keys(configs, data):
    """Keys that are not there, groups, and values under values."""
    file, resolved = configs
    keys = sorted(resolved["clm"])
    key = data.draw(st.sampled_from(keys))
    at = data.draw(st.integers(0, len(key)))
    noise = data.draw(st.text(max_size=3) | st.sampled_from([".", "..", "[0]", "__class__", "_fields"]))
    wrong = key[:at] + noise + key[data.draw(st.integers(at, len(key))) :]
    code, out, err = run(
        f"--config={file}:clm", f"--config.{wrong}{data.draw(st.sampled_from(['=1', '', '=']))}"
    )
    assert code in (0, CONFIG), (wrong, err)
    if code:
        assert out == "" and err.startswith("tlx config: ") and len(err) < 4000, (wrong, err)
    else:
        assert flatten(json.loads(out)).keys() >= {wrong.partition("=")[0]}
