"""Config files that fail: one message with the file and the line; names of runs; paths that do not exist."""

import pytest
from ml_collections import ConfigDict

from tlx.base.config_files import load_config, run_name
from tlx.base.errors import ConfigError
from tlx.base.nearest_path import suggest_paths

BASE = "from tlx.run import base_config\n"

FAILING = {
    "syntax": (
        'def get_config(arg=""):\n    c = dict(\n    return c\n',
        r":2: '\(' was never closed: c = dict\(",
    ),
    "no argument": (
        "def get_config():\n    return {}\n",
        r':1: get_config\(\) must take one .*get_config\(arg=""\)',
    ),
    "two arguments": (
        "\ndef get_config(arg, size):\n    return {}\n",
        r":2: get_config\(arg, size\) must take one",
    ),
    "None": (
        '\ndef get_config(arg=""):\n    pass\n',
        r":2: get_config returned None; it must return a config",
    ),
    "a number": ('def get_config(arg=""):\n    return 3\n', ":1: get_config returned 3 of type int"),
    "no function": ("x = 1\n", "has no function get_config; write"),
    "import": ("import nothere_module\n", ":1: ModuleNotFoundError: No module named 'nothere_module'"),
    "type": (
        BASE
        + 'def get_config(arg=""):\n    c = base_config("clm")\n    c.train.steps = "100"\n    return c\n',
        r':4: TypeError: .*steps.*\(line: c.train.steps = "100"\)',
    ),
    "key": (
        BASE + 'def get_config(arg=""):\n    c = base_config("clm")\n    c.train.stepz = 1\n    return c\n',
        r':4: AttributeError: .*Did you mean "steps"',
    ),
    "inside": (
        "def half(x):\n    return x / 0\n\ndef get_config(arg=''):\n    return half(1)\n",
        r":2: ZeroDivisionError: division by zero \(line: return x / 0\)",
    ),
    "user error": (
        BASE + 'def get_config(arg=""):\n    return base_config("clmm")\n',
        r":3: objective = 'clmm'",
    ),
    "exit": ("def get_config(arg=''):\n    raise KeyError('no such thing')\n", ":2: KeyError: no such thing"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_file_that_fails_is_one_line_with_its_place(tmp_path, case):
    source, message = FAILING[case]
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(str(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_relative_path_has_its_line_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text('def get_config(arg=""):\n    return nothing\n')
    with pytest.raises(ConfigError, match=r"^mine.py:2: NameError: .*\(line: return nothing\)"):
        load_config("mine.py")


def test_a_plain_dict_is_a_config_too(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('def get_config(arg=""):\n    return {"train": {"steps": 3}, "arg": arg}\n')
    config = load_config(f"{path}:a:b")
    assert isinstance(config, ConfigDict) and (config.train.steps, config.arg) == (3, "a:b")


def test_a_defect_of_a_packaged_config_stays_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.base.config_files.packaged_configs", lambda: tmp_path)
    (tmp_path / "broken.py").write_text("def get_config(arg=''):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_config("broken")


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("configs/quickstart.py:mlm:tiny", "quickstart-mlm-tiny"),
        ("quickstart", "quickstart"),
        ("configs/finetune/quickstart.py", "finetune-quickstart"),
        ("finetune/quickstart:tiny", "finetune-quickstart-tiny"),
        ("scaling/quickstart", "scaling-quickstart"),
        ("mine/configs/a/b.py", "a-b"),
        ("mine/b.py", "b"),
    ],
)
def test_configs_of_one_name_have_runs_of_their_own(tmp_path, monkeypatch, name, run):
    for folder in ("configs/finetune", "mine/configs/a"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "configs/quickstart.py",
        "configs/finetune/quickstart.py",
        "mine/configs/a/b.py",
        "mine/b.py",
    ):
        (tmp_path / file).write_text("")
    monkeypatch.chdir(tmp_path)
    assert run_name(name) == run


def test_an_unknown_path_gets_the_nearest_and_the_folder(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    for name in ("mine.py", "other.py", "mine.txt"):
        (tmp_path / "configs" / name).write_text("")
    monkeypatch.chdir(tmp_path)
    for name in ("configs/mein.py", "config/mine.py"):
        with pytest.raises(ConfigError) as error:
            load_config(name)
        message = str(error.value)
        assert "the nearest: configs/mine.py" in message and "mine.txt" not in message
        assert message.endswith(f"; the current folder is {tmp_path}")
    with pytest.raises(ConfigError, match="the nearest: finetune/quickstart"):
        load_config("finetune/quikstart")
    assert suggest_paths("nothing/like/it") == f"the current folder is {tmp_path}"
    assert suggest_paths(tmp_path / "configs/oter.py").startswith("the nearest: configs/other.py")
