"""Names of code in files: no reader of run.json, a plan or a tokenizer imports what its caller has not allowed."""

import copy
import gc
import importlib
import json
import pkgutil
import sys

import pytest

import tlx
from tests.cli.tiny import write_config
from tests.run_directory import tiny_config, write_run
from tlx import cli
from tlx.base.config import flatten, to_dict
from tlx.base.errors import CONFIG, ConfigError, UserError
from tlx.base.files import read_json, write_json
from tlx.base.lookup import Table
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.scaling.ledger import Ledger
from tlx.scaling.running import run as run_ladder
from tlx.text import load_tokenizer

NAME = "planted_tlx_x.part:value"
KEYS = ("objective.name", "optimizer.name", "optimizer.schedule.name", "data.source", "data.mixture")


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """A function that says whether the planted module was imported."""
    folder = tmp_path / "planted_tlx_x"
    folder.mkdir()
    trace = tmp_path / "imported"
    (folder / "__init__.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    (folder / "part.py").write_text("value = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield trace.exists
    for name in [name for name in sys.modules if name.startswith("planted_tlx_x")]:
        del sys.modules[name]


def planted(config, key):
    """The nested config with the planted name at a dotted key."""
    config = copy.deepcopy(config)
    *groups, last = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[last] = [{"source": NAME}] if last == "mixture" else NAME
    return config


def test_no_table_imports_a_foreign_name_by_default(imported):
    for package in (
        "optim",
        "objectives",
        "tasks",
        "data",
        "text",
        "models",
        "launch",
        "bench",
        "nn",
        "run",
        "cli",
    ):
        folder = importlib.import_module(f"tlx.{package}")
        for module in pkgutil.iter_modules(folder.__path__, f"tlx.{package}."):
            importlib.import_module(module.name)
    tables = [item for item in gc.get_objects() if isinstance(item, Table) and item.kind != "thing"]
    assert len(tables) >= 12
    for table in tables:
        with pytest.raises(ConfigError, match="code outside tlx; pass allow="):
            table.load(NAME)
    assert not imported()


def test_no_value_of_a_config_is_imported_unless_it_is_allowed(imported):
    config = to_dict(tiny_config("clm"))
    texts = [key for key, value in flatten(config).items() if isinstance(value, str)]
    assert {*KEYS[:-1]} <= {*texts}
    for key in (*texts, "data.mixture"):
        try:
            resolve(planted(config, key))
        except UserError as error:
            assert "\n" not in str(error)
        if key in KEYS:
            with pytest.raises(ConfigError, match=r"pass allow=\('planted_tlx_x',\)"):
                resolve(planted(config, key), allow=("planted",))
    assert not imported()


def test_a_name_that_the_user_writes_is_imported(imported, tmp_path):
    # The planted value is no objective: it is found and of no use.
    with pytest.raises(ConfigError, match="is a NoneType, not an objective"):
        tlx.train(planted(to_dict(tiny_config("clm")), "objective.name"), workdir=tmp_path / "run")
    assert imported()


def test_no_verb_imports_what_a_foreign_run_names(imported, tmp_path, capsys):
    folder = write_run(tmp_path / "run", "clm")
    saved = read_json(folder / "run.json")
    config = write_config(tmp_path)
    for key in KEYS:
        write_json(folder / "run.json", saved | {"config": planted(saved["config"], key)})
        with pytest.raises(ConfigError, match="code outside tlx"):
            tlx.load(folder)
        with pytest.raises(ConfigError, match="code outside tlx"):
            tlx.train(str(config), workdir=folder)
        for words in (
            ["generate", str(folder), "--prompt=a"],
            ["evaluate", str(folder)],
            ["convert", "export", str(folder), str(tmp_path / "out")],
            ["train", f"--config={config}", f"--from={folder}", f"--workdir={tmp_path / 'new'}"],
            ["finetune", "--config=finetune/quickstart", f"--from={folder}", f"--workdir={tmp_path / 'new'}"],
        ):
            assert cli.main(words) == CONFIG
            assert "code outside tlx; pass allow=('planted_tlx_x',)" in capsys.readouterr().err, words
    assert not imported()


def test_a_foreign_plan_is_neither_imported_nor_run_by_the_shell(imported, tmp_path):
    row = {"run": "a", "config": {}, "lr": 1.0, "seed": 0, "steps": 1}
    row |= {"flops": 1.0, "memory_bytes": 1, "N": 1, "D": 1}
    backend = "command:true {config} {run}"
    for key in KEYS:
        folder = tmp_path / key
        Ledger(folder).start({"runs": [row | {"config": planted(to_dict(tiny_config("clm")), key)}]})
        with pytest.raises(ConfigError, match="code outside tlx"):
            run_ladder(None, folder, backend)
        assert not (folder / "runs").exists()
    hostile = tmp_path / "shell"
    config = json.loads(json.dumps(to_dict(tiny_config("clm"))))
    Ledger(hostile).start({"runs": [row | {"run": "a; touch owned", "config": config}]})
    run_ladder(None, hostile, f"command:cd {tmp_path}; true {{config}} {{run}}")
    assert not (tmp_path / "owned").exists()
    assert not imported()


def test_a_foreign_tokenizer_names_no_code(imported, tmp_path):
    folder = write_run(tmp_path / "run", "clm")
    path = folder / "tokenizer" / "tokenizer.json"
    write_json(path, read_json(path) | {"kind": NAME})
    with pytest.raises(UserError, match="code outside tlx"):
        load_tokenizer(folder / "tokenizer")
    assert not imported()


def test_a_config_of_the_user_may_name_code_and_a_resumed_run_keeps_it(imported):
    config = base_config("clm")
    config.optimizer.schedule.name = NAME
    assert resolve(config, allow=None).optimizer.schedule.name == NAME
    assert resolve(config, allow=("planted_tlx_x",)).optimizer.schedule.name == NAME
    assert imported()
