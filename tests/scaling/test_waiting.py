"""A run that a launcher hands to a cluster: its end and its errors are read from its directory."""

import json
import sys

import pytest

from tlx.base.errors import CONFIG, NUMERICS, PREEMPTED, ConfigError
from tlx.run import base_config
from tlx.scaling import wait_for_cluster
from tlx.scaling.running import run

# Queues a "job" (a process of its own) that does as it is told, and returns at once.
_LAUNCHER = """
import json, os, pathlib, subprocess, sys, time
folder, *told = sys.argv[1:]
JOB = '''
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
def add(file, **line):
    with open(folder / file, "a") as handle:
        handle.write(json.dumps(line) + chr(10))
for word in sys.argv[2:]:
    time.sleep(0.1)
    if word == "end":
        (folder / "run.json").write_text(json.dumps({"data": {"train_tokens": 10}}))
        add("metrics.jsonl", kind="validation", step=4, loss=2.0)
        add("events.jsonl", event="end", time=time.time())
    else:
        add("events.jsonl", event="error", exit=int(word), time=time.time())
'''
if told[0] == "refused":
    sys.exit(64)
subprocess.Popen([sys.executable, "-c", JOB, folder, *told])
"""


@pytest.fixture
def wait(tmp_path, monkeypatch):
    monkeypatch.setattr(wait_for_cluster, "POLL_SECONDS", 0.02)
    (tmp_path / "launcher.py").write_text(_LAUNCHER)
    words = [sys.executable, str(tmp_path / "launcher.py"), str(tmp_path)]
    return lambda *told: wait_for_cluster.wait(tmp_path, [*words, *told])


def test_the_end_is_waited_for_through_restarts(wait):
    assert wait(str(PREEMPTED), "137", "end") == 0


def test_an_error_that_no_restart_mends_is_the_end_of_it(wait):
    assert wait("137", str(NUMERICS)) == NUMERICS


def test_errors_of_an_earlier_start_do_not_count(wait, tmp_path):
    old = {"event": "error", "exit": NUMERICS, "time": 1.0}
    (tmp_path / "events.jsonl").write_text(json.dumps(old) + "\n")
    assert wait("end") == 0


def test_what_the_launcher_refuses_is_not_waited_for(wait):
    assert wait("refused") == CONFIG


def test_a_cluster_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match="backend launch:CLUSTER = 'pbs'"):
        run(None, tmp_path, "launch:pbs --nodes=2")


@pytest.mark.long
def test_a_ladder_through_tlx_launch(tmp_path):
    rows = []
    for i, width in enumerate([16, 15]):  # two heads do not divide the second
        config = base_config("clm")
        config.tokenizer.kind, config.data.sequence_length = "bytes", 32
        config.model.num_layers, config.model.width, config.model.attention.num_heads = 1, width, 2
        config.train.steps, config.train.batch_size, config.eval.every = 4, 2, 4
        config.eval.batches = config.eval.final_batches = 1
        row = {"run": f"{i:012x}", "N": 1, "D": 1, "steps": 4, "flops": 1.0, "lr": 1.0, "seed": 0}
        rest = {"batch_tokens": 64, "budget": 1.0, "memory_bytes": 1, "seconds": 1.0}
        rows.append(row | rest | {"config": json.loads(config.to_json())})
    done, failed = run({"runs": rows}, tmp_path, "launch:local --devices=1 --restarts=0", parallel=2)
    assert (done["status"], failed["status"]) == ("done", "failed")
    assert failed["exit"] == CONFIG and 0 < done["loss"] < 20
