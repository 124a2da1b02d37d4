"""A fine-tuning's plan: what is frozen takes memory of its own only, and its products have no gradient."""

import json

import jax
import pytest

import tlx.plan
from tests.cli.test_finetune import _CONFIG
from tests.run_directory import write_run
from tlx import cli, parallel
from tlx.base import tree
from tlx.cli.flags import load_config, override
from tlx.plan.compiled import read
from tlx.run.program import build_program
from tlx.run.spec import spec_before_tokenizer
from tlx.trainer.base_model import load_base
from tlx.trainer.task_config import complete_task_config


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The words of `tlx finetune` and `tlx plan`: a config, its records, a base."""
    folder = tmp_path_factory.mktemp("plan")
    rows = [json.dumps({"text": "ab" * number, "label": str(number % 2)}) for number in range(64)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    path = str(folder / "train.jsonl")
    (folder / "task.py").write_text(_CONFIG.format(train=path, test=path))
    return folder / "task.py", write_run(folder / "base", "mlm")


def config_of(words, method):
    path, base = words
    values = load_config(str(path))
    for word in (f"adapt.method={method}", "adapt.size=1", "train.batch_size=32", "data.sequence_length=32"):
        override(values, f"--config.{word}")
    return complete_task_config(values.to_dict(), load_base(str(base)))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least", "most"), [("lora", 1.9, 2.6), ("head", 1.0, 1.2)])
def test_bytes_and_flops_are_those_of_the_step(words, method, least, most):
    config = config_of(words, method)
    mesh = parallel.make_mesh(config.mesh, jax.devices()[:1])
    made = build_program(config, spec_before_tokenizer(config), mesh)
    found, full = (tlx.plan.plan(one, "cpu:1", "analytic") for one in (config, config_of(words, "full")))
    assert found.parameters.total == tree.num_params((made.state.params, made.state.frozen))
    trained = 4 * tree.num_params(made.state.params)
    assert found.memory["gradients"] == trained < full.memory["gradients"] / 4
    assert found.memory["optimizer"] == pytest.approx(2 * trained, abs=64)
    assert found.memory["parameters"] >= full.memory["parameters"]
    assert found.memory["activations"] < full.memory["activations"]
    with made.use():
        facts = read(made.step.lower(made.state, made.batch).compile(), dict(mesh.shape), "cpu")
    # The trace has the gradient of the first of the two layers' input, which the compiler drops.
    assert 0.8 * found.work.model_flops < facts.matmul_flops <= found.work.model_flops
    assert least <= found.work.model_flops / (full.work.model_flops / 3) <= most  # 1 forward, 2 backward


@pytest.mark.slow
def test_the_command(words, capsys):
    path, base = words
    plan = ["plan", f"--config={path}", "--target=cpu:8", "--method=analytic", "--json"]
    assert cli.main([*plan, f"--from={base}", "--config.adapt.method=lora"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]
    assert cli.main([*plan, "--config.adapt.method=lora"]) == 64
    assert "adapt.method = 'lora' adapts a base model; give one by --from=DIR" in capsys.readouterr().err
    for other in ("--ladder=x", "--config=configs/quickstart.py"):
        assert cli.main(["plan", f"--from={base}", other, "--target=cpu:8"]) == 64
        assert "give it a --config of a task (" in capsys.readouterr().err
