"""Answers of the nearest stored message, and the command."""

import io
import json

import numpy as np
import pytest

from tests.run_directory import write_run
from tlx import cli
from tlx.api.retrieval import AnswerIndex
from tlx.base.errors import ConfigError


class Counts:
    """Vectors that count letters, of a length that says nothing."""

    def __init__(self):
        self.sizes = []

    def embed(self, texts):
        rows = [texts] if isinstance(texts, str) else texts
        self.sizes.append(len(rows))
        vectors = np.array([[3.0 * text.count(c) for c in "abc"] for text in rows])
        return vectors[0] if isinstance(texts, str) else vectors


def test_the_nearest_message_is_answered():
    messages = ["a" * (i + 1) + "b" for i in range(40)] + ["b", "cab"]
    lm = Counts()
    index = AnswerIndex(lm, messages, [f"to {message}" for message in messages])
    assert lm.sizes == [32, 10]
    found = index.find("aabb", top=3)
    assert [one.message for one in found] == ["ab", "aab", "aaab"] and found[0].answer == "to ab"
    assert found[0].similarity == pytest.approx(1) and found[1].similarity < 1
    assert index.find("ccc")[0].message == "cab"
    with pytest.raises(ConfigError, match="2 messages need as many answers"):
        AnswerIndex(lm, ["a", "b"], ["c"])


@pytest.mark.slow
def test_a_conversation_with_stored_answers(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", "mlm")
    (tmp_path / "answers.csv").write_text("Q,A\nhello,Hi!\n,nothing\nbye,See you.\n")
    words = ["chat", str(run), f"--retrieve={tmp_path / 'answers.csv'}"]
    monkeypatch.setattr("sys.stdin", io.StringIO("bye\n\nhello\n/exit\n"))
    assert cli.main([*words, "--columns=Q,A"]) == 0
    out = capsys.readouterr()
    assert out.out == "See you.\nHi!\n" and "not read" not in out.err
    # A model with a limit of tokens does not read the end of a long message, and one that is longer than the model's
    # positions is refused; the conversation goes on.
    saved = json.loads((run / "run.json").read_text())
    saved["config"]["embed"]["max_tokens"] = 8
    (run / "run.json").write_text(json.dumps(saved))
    monkeypatch.setattr("sys.stdin", io.StringIO("bye bye bye\nbye\n"))
    assert cli.main([*words, "--columns=Q,A"]) == 0
    out = capsys.readouterr()
    assert out.out.count("\n") == 2 and out.err.count("tokens are not read: the model embeds 8") == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("bye\n"))
    assert cli.main(words) == 64
    assert "--columns" in capsys.readouterr().err
    (tmp_path / "answers.csv").write_text("Q,A\nhello,\n")
    assert cli.main([*words, "--columns=Q,A"]) == 64
    assert "no record has both a message and an answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--best_of=-1"], "--best_of=-1 must be 0 or more"),
        (["--retrieve=x.csv", "--best_of=2", "--system=be kind"], "leave out --best_of, --system"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_before_a_model_is_read(words, message, capsys):
    assert cli.main(["chat", "runs/none", *words]) == 64
    assert message in capsys.readouterr().err
