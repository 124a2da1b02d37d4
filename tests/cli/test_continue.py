"""`tlx train --from=DIR`: a model of another run, or of a Hugging Face directory, trained further."""

import numpy as np
import pytest

import tlx
from tests.cli.test_convert import bert
from tests.cli.tiny import write_config
from tests.make_golden_run import FOLDER, unpack
from tlx.base import tree
from tlx.cli import main

pytest.importorskip("tokenizers")

STILL = ["--config.train.steps=1", "--config.optimizer.learning_rate=1e-12", "--config.eval.every=0"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["hugging face", "run"])
def test_it_begins_with_the_models_parameters_and_its_tokenizer(source, tmp_path):
    objective, base = ("mlm", tmp_path / "base") if source == "hugging face" else ("clm", None)
    if base is not None:
        bert(base)
    else:
        base = unpack(FOLDER / "format_1" / "clm.tar.xz", tmp_path)
    config = f"{write_config(tmp_path)}:{objective}"
    words = ["train", f"--config={config}", f"--from={base}", f"--workdir={tmp_path / 'run'}"]
    assert main([*words, *STILL]) == 0
    before, after = tlx.load(base), tlx.load(tmp_path / "run")
    assert after.tokenizer.hash == before.tokenizer.hash and after.step == 1
    old, new = tree.flatten(before.params), tree.flatten(after.params)
    wanted = {path for path in old if not path.startswith("heads/nsp")}
    assert set(new) == wanted
    table, vocab = "model/embedding/table", before.tokenizer.vocab
    for path in wanted:
        rows = slice(0, vocab.size - vocab.added if path == table else None)  # what was added is drawn
        np.testing.assert_allclose(new[path][rows], old[path][rows], atol=1e-6)
    # The same command goes on with the run, not with the base.
    assert main([*words, *STILL, "--config.train.steps=2", "--config.optimizer.learning_rate=0.01"]) == 64
    more = ["--config.train.steps=2", "--config.optimizer.learning_rate=1e-12", "--config.eval.every=0"]
    assert main([*words, *more]) == 0 and tlx.load(tmp_path / "run").step == 2


def test_an_objective_of_another_shape_is_refused(tmp_path, capsys):
    bert(tmp_path / "base")
    config = f"{write_config(tmp_path)}:clm"
    words = ["train", f"--config={config}", f"--from={tmp_path / 'base'}", f"--workdir={tmp_path / 'run'}"]
    assert main(words) == 64
    assert "objective 'clm': model.kind = 'encoder'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
