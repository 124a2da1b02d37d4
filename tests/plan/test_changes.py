"""What does not fit is refused, with changes that make it fit; the search finds what fits and is fastest."""

import dataclasses
import json
import types

import pytest

import tlx.plan
from tests.plan import tiny
from tlx import cli
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.cli.flags import load_config, override
from tlx.plan.changes import shortest
from tlx.plan.estimate import estimate
from tlx.plan.footprint import with_execution
from tlx.plan.search import OTHERS, search
from tlx.plan.target import parse_target
from tlx.run import base_config

LARGE = """
from tlx.run import base_config

def get_config(arg=""):
    config = base_config("clm")
    config.tokenizer.kind, config.data.sequence_length, config.train.batch_size = "bytes", 2048, 64
    model = config.model
    model.width, model.num_layers, model.attention.num_heads = 2048, 24, 16
    model.position.kind = "rotary"
    config.mesh.data, config.mesh.fsdp = 1, -1
    return config
"""


@pytest.fixture
def large(tmp_path):
    """A billion parameters, nothing recomputed: twice the memory of a chip of v5e."""
    path = tmp_path / "large.py"
    path.write_text(LARGE)
    return path


@pytest.mark.slow
def test_twice_too_large_is_refused_with_changes_that_work(large, capsys):
    words = ["plan", f"--config={large}", "--target=tpu:v5e:4x4", "--method=analytic", "--json"]
    assert cli.main(words) == 78
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert 1.7 < found["memory_bytes_per_chip"] / found["memory_bytes_available"] < 4
    assert len(found["changes"]) == 1  # one change is enough, so one is all
    assert cli.main([*words, *found["changes"]]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]


@pytest.mark.long
def test_several_changes_where_one_is_not_enough():
    values = base_config("clm")
    values.tokenizer.kind, values.data.sequence_length, values.train.batch_size = "bytes", 4096, 256
    values.model.width, values.model.num_layers, values.model.attention.num_heads = 4096, 48, 32
    values.model.position.kind = "rotary"
    found = tlx.plan.plan(values, "tpu:v5e:8x8", "analytic")  # all parameters on every chip
    assert not found.fits and len(found.changes) > 1
    for word in found.changes:
        override(values, word)
    assert tlx.plan.plan(values, "tpu:v5e:8x8", "analytic").fits


@pytest.mark.slow
def test_one_change_is_found_though_all_together_would_not_fit():
    """A tensor axis leaves more rows to a device: with everything else that saves, it is too much here."""
    config = load_config("configs/pod/llama2_70b_v5p.py")
    with pytest.raises(ConfigError, match=r"mesh.num_slices = 1, .* has 8 slices: set it to 8"):
        tlx.plan.plan(config, "tpu:v6e:16x16 x 8 slices", "analytic")
    config.mesh.num_slices = 8
    found = tlx.plan.plan(config, "tpu:v6e:16x16 x 8 slices", "analytic")
    assert not found.fits and len(found.changes) == 1
    assert found.changes[0].startswith("--config.model.execution.remat=")


def test_a_list_of_four_is_found_where_three_are_too_few(monkeypatch):
    """GPT-3 on 2,048 chips of v5e: in 16 bits the first moment takes the last 0.17 GB off a chip."""

    def stub(config, *_, **__):
        saved = [
            config.model.execution.remat == "full",
            config.mesh.fsdp == 8,
            config.optimizer.momentum_dtype == "bfloat16",
            config.loss.chunk == 128,
        ]
        return types.SimpleNamespace(fits=all(saved), step_ms=1.0, memory={"total": 1})

    monkeypatch.setattr("tlx.plan.changes.estimate", stub)
    config = tiny.config("clm")
    config = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, chunk=256),
        mesh=dataclasses.replace(config.mesh, data=8, fsdp=1),
    )
    words = shortest(config, parse_target("cpu:8"))
    assert {word.split("=")[0] for word in words} >= {
        "--config.model.execution.remat",
        "--config.mesh.fsdp",
        "--config.optimizer.momentum_dtype",
        "--config.loss.chunk",
    }


@pytest.mark.slow
def test_a_model_that_nothing_makes_fit():
    found = tlx.plan.plan(tiny.config("clm", "fsdp", width=32768, num_layers=64), "cpu:8", "analytic")
    assert not found.fits and found.changes == ()


@pytest.mark.long
def test_search_finds_what_fits_and_writes_it_down(large, tmp_path, capsys):
    chosen = tmp_path / "chosen.py"
    words = ["plan", f"--config={large}", "--target=tpu:v5e:2x4", "--method=analytic", "--search", "--json"]
    assert cli.main([*words, f"--write={chosen}"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = [row["plan"]["memory_bytes_per_chip"] for row in found["front"]]
    assert sizes == sorted(sizes, reverse=True) and all(row["plan"]["fits"] for row in found["front"])
    plan = tlx.plan.plan(load_config(str(chosen)), "tpu:v5e:2x4", "analytic")
    best = found["front"][0]
    assert plan.fits and best["changes"] == found["best"]
    assert plan.to_json()["step_ms"] == best["plan"]["step_ms"]
    with pytest.raises(ConfigError, match="no mesh, microbatches and remat"):
        tlx.plan.layouts(load_config(str(large)), "cpu:2", "analytic")


@pytest.mark.long
def test_a_search_asks_about_the_layout_that_the_config_has():
    """The estimate would not choose it; the compiler, which has the last word, may."""
    config, target = with_execution(tiny.config(), remat="statistics+fed"), parse_target("cpu:8")

    def compiled(one):
        mine = (one.model.execution.remat, one.mesh) == (config.model.execution.remat, config.mesh)
        plan = estimate(one, target)
        return dataclasses.replace(plan, method="a compiler", step_ms=plan.step_ms / (2 if mine else 1))

    assert search(config, target, None)[0].change.words != ()
    found = search(config, target, compiled)
    assert found[0].change.words == ()
    train = dataclasses.replace(config.train, batch_size=12)  # which eight devices do not divide
    found = search(dataclasses.replace(config, train=train), target, None)
    assert all(one.change.words != () for one in found)


@pytest.mark.slow
def test_a_search_compiles_each_size_of_tensor_and_then_more_of_the_fastest():
    config, target = tiny.config(), parse_target("cpu:8")
    asked = []

    def compiled(one):
        plan = estimate(one, target)
        asked.append(plan.mesh)
        # Fastest is tensor = 2, and of that fsdp = 2, which the estimate does not say.
        step_ms = 1.0 + 4.0 * (plan.mesh["tensor"] != 2) + (plan.mesh["fsdp"] != 2)
        return dataclasses.replace(plan, method="a compiler", step_ms=step_ms)

    best = search(config, target, compiled)[0].plan
    assert (best.mesh["data"], best.mesh["fsdp"], best.mesh["tensor"]) == (2, 2, 2)
    sizes = [mesh["tensor"] for mesh in asked[1:]]
    different = len(set(sizes))
    assert sorted(sizes[:different]) == sorted(set(sizes)) and different >= 3
    assert set(sizes[different:]) == {2} and len(sizes[different:]) <= OTHERS


@pytest.mark.slow
def test_a_ladder_has_a_line_for_every_size(tmp_path, capsys):
    runs = [
        {"run": f"r{width}", "config": to_dict(tiny.config("clm", "fsdp", width=width))}
        for width in (64, 64, 128)
    ]
    (tmp_path / "plan.json").write_text(json.dumps({"runs": runs}))
    words = ["plan", f"--ladder={tmp_path / 'plan.json'}", "--target=cpu:8", "--method=analytic"]
    assert cli.main([*words, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["r64", "r128"]
    assert cli.main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert cli.main([*words[:1], f"--ladder={tmp_path}", *words[2:]]) == 64
    assert cli.main(["plan", "--target=cpu:8"]) == 64


@pytest.mark.slow
def test_launch_refuses_what_does_not_fit(large, capsys, monkeypatch):
    for name in ("TLX_TPU_PYTHON", "TLX_GPU_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tlx.plan.compilers.compiler_python", lambda target, given=None: None)
    words = ["launch", "local", f"--config={large}", "--name=large", "--dry-run"]
    assert cli.main([*words, "--plan=tpu:v5e:4x4"]) == 78
    said = capsys.readouterr().err
    assert "it fits with --config." in said and "analytic" in said
    helps = [word for word in said.split() if word.startswith("--config.")]
    assert cli.main([*words, *helps, "--plan=tpu:v5e:4x4"]) == 0
    assert "plan: " in capsys.readouterr().out
