"""`tlx evaluate RUN --config=...`: in-context learning on small run directories and on the real files."""

import json

import pytest

import tlx
from tests.cli.tiny import ROOT
from tests.run_directory import write_run
from tests.shared_data import SHARED_DATA
from tests.tiers import tiers
from tlx.cli import main
from tlx.training.journal import read_lines

SHARED = SHARED_DATA / "text"
FILES = {
    "copa": ("kobest/COPA.train.tsv", "kobest/COPA.dev.tsv"),
    "sentence_polarity": ("sentence_polarity/rt-polarity.*.gz", ""),
}
_CONFIG = """
from tlx.evaluation.few_shot import FewShotConfig
from tlx.run.config import config_dict

def get_config(arg=""):
    config = config_dict(FewShotConfig())
    config.objective.prompt, config.objective.choices = "{{q}}:", (" no", " yes")
    config.objective.max_length = 64
    config.data.records.train = ({files!r},)
    config.data.records.validation_fraction = 0.4
    return config
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    rows = [json.dumps({"q": f"word {i}", "label": i % 2}) for i in range(20)]
    (folder / "records.jsonl").write_text("\n".join(rows))
    (folder / "asked.py").write_text(_CONFIG.format(files=str(folder / "records.jsonl")))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("objective", tiers(["clm", "span_corruption"], quick=["clm"]))
def test_records_are_answered_by_likelihood(objective, runs, tmp_path, capsys):
    run, file = write_run(runs / objective, objective), tmp_path / "answers.jsonl"
    words = ["evaluate", str(run), f"--config={runs / 'asked.py'}", f"--predictions={file}", "--json"]
    assert main([*words, "--config.objective.shots=2"]) == 0
    figures, lines = json.loads(capsys.readouterr().out), read_lines(file)
    assert figures["records"] == len(lines) > 2 and figures["shots"] == 2
    low, high = figures["interval_95"]
    assert low <= figures["accuracy"] <= high
    lm = tlx.load(run)
    for line in lines:
        answer, best = line["answer"], lm.choose(line["answer"]["prompt"], [" no", " yes"])
        assert answer["label"] == str(best.best_index) and answer["prompt"].count("word") == 3
        assert answer["total"] == pytest.approx([s.log_likelihood for s in best.scores], abs=1e-3)
    right = [line["answer"]["label"] == str(line["record"]["label"]) for line in lines]
    assert figures["accuracy"] == pytest.approx(sum(right) / len(right))
    if objective == "clm":
        assert main([*words, f"--data={runs / 'records.jsonl'}"]) == 0
        assert json.loads(capsys.readouterr().out)["records"] == 20
        assert main([*words, "--batches=2"]) == 64
        assert "--batches is not for prompts" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_real_records_are_asked(name, tmp_path, capsys):
    train, validation = FILES[name]
    if not list(SHARED.glob(train)):
        pytest.skip(f"no {SHARED / train}")
    run = write_run(tmp_path / "run", "clm")
    words = ["evaluate", str(run), f"--config={ROOT}/configs/evaluate/{name}.py:tiny", "--json"]
    words += [f"--config.data.records.train={(str(SHARED / train),)}", "--config.objective.max_length=200"]
    words += [f"--config.data.records.validation={(str(SHARED / validation),)}"] if validation else []
    assert main([*words, "--config.objective.shots=1", "--config.objective.limit=4"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["records"] == 4 and 0 < figures["shots"] <= 1


def test_every_config_has_its_files():
    assert {path.stem for path in (ROOT / "configs/evaluate").glob("*.py")} == set(FILES)
