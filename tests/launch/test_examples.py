"""The examples of `tlx launch --help` work as written, and all flags that are missing are named at once."""

import shlex

import pytest

from tlx import cli
from tlx.base.errors import ConfigError
from tlx.cli import launch
from tlx.launch.clusters import CLUSTERS
from tlx.launch.tpu_vm import TpuVmOptions


def examples():
    text = (launch.__doc__ or "").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("    tlx launch")]


def test_there_is_an_example_of_every_cluster():
    assert {words[1] for words in examples()} == set(CLUSTERS)


@pytest.mark.parametrize("words", examples(), ids=lambda words: words[1])
def test_examples_work_as_written(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = words if "--dry-run" in words else [*words, "--dry-run"]
    assert cli.main(words) == 0
    assert "# ---- commands" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["gke"], "--config, --name, --image"),
        (["gke", "--config=quickstart", "--name=x"], "--image"),
        (["tpu-vm"], "--config, --name, --workdir, --accelerator, --zone"),
        (["slurm"], "--config, --name"),
    ],
)
def test_all_missing_flags_are_named_at_once(words, missing, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["launch", *words])
    assert stop.value.code == 2
    assert f"the following arguments are required: {missing}\n" in capsys.readouterr().err


def test_empty_options_are_named_together_with_what_they_are():
    with pytest.raises(ConfigError, match="--accelerator and --zone are needed") as error:
        TpuVmOptions().validate()
    assert "--zone: Zone, as us-west4-a." in str(error.value)
