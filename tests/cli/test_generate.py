"""`tlx generate` and `tlx evaluate` on small run directories."""

import io

import pytest

import tlx
from tests.run_directory import write_run
from tlx.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "clm", "clm")


def test_prompts_and_their_continuations(run, capsys):
    assert main(["generate", str(run), "--prompt=ab", "--max_tokens=6", "--temperature=0"]) == 0
    expected = tlx.load(run).generate("ab", max_tokens=6, temperature=0)
    assert capsys.readouterr().out == f"ab{expected}\n"
    assert main(["generate", str(run), "--prompt=a", "--prompt=b", "--samples=2", "--max-tokens=3"]) == 0
    assert capsys.readouterr().out.count("-" * 60) == 4


@pytest.mark.slow
def test_prompts_from_standard_input(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert main(["generate", str(run), "--max_tokens=2"]) == 0
    assert "\ntwo" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["generate", str(run)]) == 64
    assert "there is no prompt" in capsys.readouterr().err


def test_a_masked_model_shows_candidates(tmp_path, capsys):
    run = write_run(tmp_path / "mlm", "mlm")
    assert main(["generate", str(run), "--prompt=a [MASK] b [MASK]", "--top=2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "a [MASK] b [MASK]" and [line[:8] for line in out[1:]] == ["  gap 1:", "  gap 2:"]
    for flag in ("--choice=c", "--code=en", "--stop=c", "--num_beams=2"):
        assert main(["generate", str(run), "--prompt=a [MASK]", flag]) == 64
        assert f"{flag.split('=')[0]} is for models that write texts" in capsys.readouterr().err


def test_choices_are_compared_and_answers_stop(run, capsys):
    words = ["generate", str(run), "--prompt=ab"]
    assert main([*words, "--choice=cd", "--choice=efgh", "--by=bytes"]) == 0
    out = capsys.readouterr().out.splitlines()
    best = tlx.load(run).choose("ab", ["cd", "efgh"], by="bytes")
    assert out[0] == "ab" and out[1].endswith(repr(best.text)) and len(out) == 3
    value = best.scores[best.best_index].log_likelihood
    assert f"{value:9.3f} total" in out[1] and f"{value / len(best.text):9.3f} bytes" in out[1]
    whole = tlx.load(run).generate("ab", max_tokens=6, temperature=0)
    assert main([*words, "--max_tokens=6", "--temperature=0", f"--stop={whole[2:4]}", "--stop=zzz"]) == 0
    assert capsys.readouterr().out == f"ab{whole[: whole.index(whole[2:4])]}\n"


def test_what_is_wrong_ends_with_its_code(run, tmp_path, capsys):
    assert main(["generate", str(tmp_path / "absent"), "--prompt=a"]) == 64
    assert "is not there" in capsys.readouterr().err
    assert main(["generate", str(run), "--prompt=a", "--step=9"]) == 74
    assert "no complete checkpoint at step 9" in capsys.readouterr().err
    assert main(["generate", str(run), "--prompt=a", "--top_p=2"]) == 64
    assert "top_p = 2.0" in capsys.readouterr().err
    assert main(["generate", str(run), "--prompt=a", "--begin=b"]) == 64
    assert "begin = 'b' is for encoder-decoders, this is decoder" in capsys.readouterr().err
