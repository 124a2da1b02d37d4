"""`tlx finetune` with LoRA: a small checkpoint over a base that must stay the same."""

import shutil

import numpy as np
import pytest

import tlx
from tests.cli.test_finetune import finetune, folder, params_of  # noqa: F401 (the fixture)
from tests.run_directory import write_run
from tlx import cli
from tlx.base import tree
from tlx.base.errors import CheckpointError, DataError
from tlx.checkpoint import load_params

LORA = ("--config.adapt.method=lora", "--config.adapt.size=4", "--config.data.records.epochs=12")


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):  # noqa: F811
    """A base, and a run adapted from it."""
    place = tmp_path_factory.mktemp("lora")
    write_run(place / "base", "mlm")
    assert finetune(folder, place / "run", *LORA, base=place / "base") == 0
    return place


@pytest.mark.long
def test_only_the_adapted_part_is_saved(runs):
    saved = tree.flatten(load_params(runs / "run").tree)
    assert saved and all(path.startswith("heads/") or "lora_" in path for path in saved)
    base, found = params_of(runs / "base"), params_of(runs / "run")
    for path in (path for path in base if path.startswith("model/")):
        np.testing.assert_array_equal(found[path], base[path])
    assert np.abs(found["model/encoder/blocks/attention/query/lora_b"]).max() > 0
    scores = tlx.base.files.read_json(runs / "run/scores.json")
    assert scores["validation"]["accuracy"] > 0.6


@pytest.mark.slow
def test_the_base_is_checked(runs, tmp_path):
    texts = ["aei", "bcd"]
    expected = tlx.load(runs / "run").predict(texts)
    shutil.copytree(runs / "base", tmp_path / "moved")
    assert tlx.load(runs / "run", base=tmp_path / "moved").predict(texts) == expected
    write_run(tmp_path / "other", "mlm", steps=(5,))
    with pytest.raises(CheckpointError, match="whose parameters were others"):
        tlx.load(runs / "run", base=tmp_path / "other")
    with pytest.raises(DataError, match="nowhere is not there"):
        tlx.load(runs / "run", base=tmp_path / "nowhere")


@pytest.mark.long
def test_merged_runs_predict_the_same_and_need_no_base(runs, tmp_path):
    texts = ["aei", "bcd", "a", "b", "oooo"]
    assert cli.main(["convert", "merge", str(runs / "run"), str(tmp_path / "merged")]) == 0
    lm = tlx.load(tmp_path / "merged")
    assert not lm.config.model.adapters.any and lm.config.base.path == ""
    for one, other in zip(tlx.load(runs / "run").predict(texts), lm.predict(texts), strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-4)


@pytest.mark.slow
def test_a_run_goes_on_over_its_base(folder, runs, tmp_path, capsys):  # noqa: F811
    words = ["--config.optimizer.schedule.name=constant", "--config.optimizer.schedule.warmup=3"]
    words += [*LORA[:2], "--allow-change=data.records.epochs"]
    for epochs, run in ((2, "one"), (1, "two"), (2, "two")):
        more = f"--config.data.records.epochs={epochs}"
        assert finetune(folder, tmp_path / run, *words, more, base=runs / "base") == 0
    assert "resuming" in capsys.readouterr().out
    one, two = params_of(tmp_path / "one"), params_of(tmp_path / "two")
    assert all(np.array_equal(one[path], two[path]) for path in one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.adapt.method=lora"], "adapts a base model; give one by --from=DIR"),
        (["--config.adapt.method=lore"], "config.adapt.method = 'lore' is not one of: full, head, lora"),
    ],
)
def test_mistakes(folder, tmp_path, words, message, capsys):  # noqa: F811
    assert finetune(folder, tmp_path / "run", *words) == 64
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapted_run_is_no_base_until_it_is_merged(folder, runs, tmp_path, capsys):  # noqa: F811
    assert finetune(folder, tmp_path / "run", base=runs / "run") == 64
    assert "tlx convert merge" in capsys.readouterr().err
