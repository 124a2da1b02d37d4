"""A run in a bucket is the run in a folder: the same losses bit for bit, resumed, killed, loaded, reported."""

import json
import os
import signal
import time

import numpy as np
import pytest

import tlx
from tests import stores
from tests.cli import tiny
from tlx.base import line_segments
from tlx.base import place as places
from tlx.base.errors import ConfigError, StorageError
from tlx.cli import main
from tlx.training.journal import Journal, read_lines


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny.write_config(tmp_path_factory.mktemp("config"))


def losses(run):
    lines = read_lines(run / "metrics.jsonl")
    return [(line["step"], line["kind"], line["loss"]) for line in lines]


@pytest.mark.long
@pytest.mark.slow
def test_the_same_run_in_a_folder_and_in_buckets(config_file, tmp_path, capsys):
    """Ten steps, and ten more by the same call: metrics, events, parameters, generated text and report are equal."""
    seen = {}
    for kind in ("folder", "gs", "s3"):
        run = stores.place(kind, tmp_path)
        for steps in (10, 20):
            overrides = {"train.steps": steps, "eval.final": steps == 20}
            model, _ = tlx.train(f"{config_file}:clm", workdir=str(run), overrides=overrides)
        address = str(run)
        loaded = tlx.load(address)
        assert loaded.step == 20 and (run / "loss.png").is_file()
        events = [line["event"] for line in read_lines(run / "events.jsonl")]
        texts = [lm.generate("def ", max_tokens=8, seed=1, temperature=1.0) for lm in (model, loaded)]
        assert tlx.load(address, step=10).step == 10
        seen[kind] = (losses(run), events, texts)
    assert len(seen["folder"][0]) > 20
    assert seen["gs"] == seen["folder"] and seen["s3"] == seen["folder"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3"])
def test_killed_at_random_moments_in_a_bucket_it_ends_as_in_a_folder(config_file, tmp_path, kind):
    words = ("train", f"--config={config_file}:clm", "--config.train.steps=30")
    tiny.finish(tiny.tlx(*words, f"--workdir={tmp_path}/one"))
    run = stores.place(kind, tmp_path)
    for wait in (0.0, 1.0):
        process = tiny.tlx(*words, f"--workdir={run}", "--config.log.print_every=1")
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    tiny.finish(tiny.tlx(*words, f"--workdir={run}"))
    assert losses(run) == losses(tmp_path / "one")
    own = json.loads((tmp_path / "one" / "checkpoints" / "30" / "tlx_manifest.json").read_bytes())
    other = json.loads((run / "checkpoints" / "30" / "tlx_manifest.json").read_bytes())
    assert own["leaves"] == other["leaves"]


@pytest.mark.parametrize("kind", ["memory", "gs"])
def test_journals_are_segments_that_readers_join(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(line_segments, "SEGMENT_BYTES", 100)
    run = stores.place(kind, tmp_path)
    journal = Journal(run)
    for step in range(1, 10):
        journal.metrics(step, {"loss": 1.0 / step})
        journal.flush()
    assert len(list((run / "metrics.jsonl").iterdir())) > 2
    # The next start keeps what was before its checkpoint; a killed writer may still have segments of its own.
    resumed = Journal(run)
    resumed.resume(5)
    resumed.metrics(6, {"loss": 7.0})
    resumed.event("resume", step=5)
    assert [line["step"] for line in resumed.read("metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert resumed.read("metrics.jsonl")[-1]["loss"] == 7.0
    # Another writer, of an error say, writes over no segment.
    Journal(run).error(StorageError("full"))
    assert [line["event"] for line in read_lines(run / "events.jsonl")] == ["resume", "error"]
    assert len(read_lines(run / "metrics.jsonl")) == 6 and read_lines(run / "samples.jsonl") == []


def test_lines_reach_the_bucket_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(line_segments, "FLUSH_SECONDS", 0.01)
    run = stores.place("memory", tmp_path)
    journal = Journal(run)
    for step in (1, 2):
        journal.metrics(step, {"loss": 1.0})
        deadline = time.monotonic() + 20
        while len(read_lines(run / "metrics.jsonl")) < step and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(read_lines(run / "metrics.jsonl")) == step


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_conversions_read_and_write_buckets(kind, config_file, tmp_path, capsys):
    """A run goes out to a Hugging Face directory in a bucket and comes back as a run there, equal in its logits."""
    words = ["--config.train.steps=2", "--config.eval.final=False"]
    assert main(["train", f"--config={config_file}:clm", f"--workdir={tmp_path}/run", *words]) == 0
    exported, imported, merged = (str(stores.place(kind, tmp_path)) for _ in range(3))
    assert main(["convert", "export", f"{tmp_path}/run", exported]) == 0
    assert main(["convert", "import", exported, imported]) == 0
    assert main(["convert", "merge", imported, merged]) == 0
    ids = [[5, 6, 7, 8]]
    expected = tlx.load(tmp_path / "run").logits(ids)
    for address in (exported, imported, merged):
        np.testing.assert_array_equal(tlx.load(address).logits(ids), expected)
    capsys.readouterr()
    assert main(["convert", "merge", imported, merged]) == 64
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--config=quickstart:clm:tiny", "--workdir=gcs://b/run"], "did you mean 'gs://'?"),
        (["train", "--config=quickstart:clm:tiny", "--workdir=memory://bkt/run"], "a folder, gs:// or s3://"),
        (["generate", "ftp://b/run", "--prompt=x"], "is not one of: gs://, s3://, a folder"),
        (["evaluate", "s3://B/run"], "names no bucket"),
        (["report", "gcs://b/run"], "did you mean 'gs://'?"),
        (
            ["scale", "status", "--config=scaling/quickstart:tiny", "--folder=gcs://b/x"],
            "did you mean 'gs://'?",
        ),
        (["finetune", "--config=finetune/quickstart:tiny", "--from=gcs://b/run"], "did you mean 'gs://'?"),
    ],
)
def test_what_is_no_place_is_one_line_and_leaves_no_folder(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) != 0
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1, err
    assert not os.listdir(tmp_path)


def test_a_missing_extra_is_told_before_anything_else(monkeypatch):
    monkeypatch.setattr(places.check_installed.__globals__["importlib"].util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tlx-lm\[gcs\]'"):
        tlx.train("quickstart:clm:tiny", workdir="gs://bucket/run")
