"""--config=FILE:arg and --config.a.b=value, and the message for each way to get them wrong."""

import pytest

from tlx.base.errors import ConfigError
from tlx.cli import flags

FILE = """
from ml_collections import ConfigDict, config_dict

def get_config(arg=""):
    train = dict(steps=3, clip_norm=1.0, until=config_dict.placeholder(int), rate=0.5, groups=(("a", 1),))
    return ConfigDict(dict(name="x", arg=arg, fast=True, train=train))
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(FILE)
    return str(path)


def parse(*words):
    parser = flags.parser("test", "about")
    flags.add_config(parser)
    parser.add_argument("--workdir")
    return flags.parse(parser, list(words))


def test_overrides_and_argument(config_file):
    options = parse(
        f"--config={config_file}:mlm:tiny",
        "--config.train.steps=7",
        "--config.train.clip_norm=None",
        "--config.train.until=9",
        "--config.train.groups=[('b', 2), ('c', 3)]",
        "--config.fast=false",
        "--config.name=12",
    )
    config = options.config
    assert (config.arg, options.config_name) == ("mlm:tiny", "tiny-mlm-tiny")
    assert (config.train.steps, config.train.clip_norm, config.train.until) == (7, None, 9)
    assert tuple(config.train.groups) == (("b", 2), ("c", 3))
    assert config.fast is False and config.name == "12"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.train.setps=3", "did you mean 'steps'"),
        ("--config.trian.steps=3", "did you mean 'train'"),
        ("--config.train.steps.more=3", "is a value, not a group"),
        ("--config.train=3", "is a group; set one of its keys: "),
        ("--config.train.steps", "has no value"),
        ("--config.=3", "unknown key"),
        ("--config.train..steps=3", "unknown key"),
        ("--config.train.steps={'a.b': 1}", "config.train.steps = {'a.b': 1} cannot be stored"),
    ],
)
def test_wrong_overrides(config_file, word, message):
    with pytest.raises(ConfigError, match=message):
        parse(f"--config={config_file}", word)


def test_values_after_a_space_and_a_config_without_its_flag(config_file):
    words = (
        f"{config_file}:mlm",
        "--config.train.steps",
        "7",
        "--workdir",
        "w",
        "--config.train.rate",
        "-1e-3",
    )
    options = parse(*words)
    assert (options.config.train.steps, options.config.train.rate, options.workdir) == (7, -1e-3, "w")
    assert options.config_words == [
        f"--config={config_file}:mlm",
        "--config.train.steps=7",
        "--config.train.rate=-1e-3",
    ]
    parser = flags.parser("test", "about")
    parser.add_argument("action")
    flags.add_config(parser)
    parser.add_argument("--deep", action="store_true")
    options = flags.parse(parser, ["--deep", "show", config_file])
    assert (options.action, options.config.name, options.deep) == ("show", "x", True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config.train.steps", "--workdir=x"), None),
        (("too", "many"), "unexpected word 'too'"),
        (("--train.steps=3",), "is changed by --config.train.steps=3"),
    ],
)
def test_words_that_are_no_values(config_file, capsys, words, message):
    if message is None:
        with pytest.raises(ConfigError, match="--config.train.steps has no value"):
            parse(f"--config={config_file}", *words)
        return
    with pytest.raises(SystemExit) as stop:
        parse(f"--config={config_file}", *words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_config_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--workdir", "x")
    assert stop.value.code == 2 and "required: --config" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 5000, "-" * 5000 + "1", "9" * 5000, "{[]}", "1is", "{1: 2"])
def test_what_is_no_literal_stays_text(config_file, text):
    """The types of the config refuse it, with its key."""
    assert parse(f"--config={config_file}", f"--config.train.steps={text}").config.train.steps == text


def test_an_override_needs_a_file():
    parser = flags.parser("test", "about")
    flags.add_config(parser, required=False)
    with pytest.raises(ConfigError, match="--config=FILE"):
        flags.parse(parser, ["--config.a=3"])


def test_unknown_flag_names_the_nearest(config_file, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(f"--config={config_file}", "--wrokdir=x")
    assert stop.value.code == 2
    assert "did you mean '--workdir'" in capsys.readouterr().err


def test_unknown_file_and_file_without_function(tmp_path):
    with pytest.raises(ConfigError, match="no file 'nowhere.py'"):
        flags.load_config("nowhere.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match="get_config"):
        flags.load_config(str(tmp_path / "empty.py"))
