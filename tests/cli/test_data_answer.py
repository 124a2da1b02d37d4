"""`tlx data answer`: a run's answers in a column of its records."""

import json

import pytest

import tlx
from tests.run_directory import tiny_config, write_task_run
from tlx import cli
from tlx.base.config import to_dict
from tlx.run import finetune_config


@pytest.mark.slow
def test_records_with_answers(tmp_path, capsys):
    """Of a decoder that translates; a record without the column gets it."""
    values = {"source": "{ko}", "target": "{en}", "target_length": 4, "num_beams": 1}
    config = finetune_config("generation").to_dict()
    config["objective"].update(values)
    tiny = to_dict(tiny_config("clm"))
    base = write_task_run(
        tmp_path / "ko-en", {**config, "model": tiny["model"], "tokenizer": tiny["tokenizer"]}
    )
    rows = [{"ko": "가 나", "id": 1}, {"ko": "다", "id": 2}]
    (tmp_path / "mono.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.py").write_text(
        "from tlx.run import finetune_config\n\n"
        "def get_config(arg=''):\n"
        "    config = finetune_config('generation')\n"
        f"    config.objective.update({values!r})\n"
        f"    config.data.records.train = ({str(tmp_path / 'mono.jsonl')!r},)\n"
        "    return config\n"
    )
    words = ["data", "answer", f"--config={tmp_path / 'task.py'}", f"--from={base}"]
    assert cli.main([*words, "--column=en", f"--to={tmp_path / 'back.jsonl'}"]) == 0
    written = [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()]
    answers = [prediction["answer"] for prediction in tlx.load(base).predict(rows)]
    assert written == [{**row, "en": answer} for row, answer in zip(rows, answers, strict=True)]
    assert "2 records with answers in 'en'" in capsys.readouterr().out
    assert cli.main([*words, f"--to={tmp_path / 'x.jsonl'}"]) == 64 and not (tmp_path / "x.jsonl").exists()
    assert "needs --from=RUN, --to=FILE.jsonl and --column=NAME" in capsys.readouterr().err
