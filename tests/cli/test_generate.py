"""`tlx generate` and `tlx evaluate` on small run directories."""

import io

import pytest

import tlx
from tests.run_directory import write_run
from tlx.base.errors import ConfigError
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
def test_a_text_that_is_shown_as_it_comes(run, capsys, monkeypatch):
    words = ["generate", str(run), "--prompt=ab", "--max_tokens=20", "--seed=3"]
    assert main([*words, "--no-stream"]) == 0
    whole = capsys.readouterr().out
    shown = []
    monkeypatch.setattr("builtins.print", lambda *texts, end="\n", **more: shown.append("".join(texts) + end))
    assert main([*words, "--stream"]) == 0
    assert "".join(shown) == whole and len(shown) > 4 and shown[0] == "ab"
    monkeypatch.undo()
    for more, message in (
        (["--samples=2"], "--stream prints one text"),
        (["--num_beams=2"], "knows the best text at its end"),
        ([f"--draft={run}"], "--draft writes several tokens"),
    ):
        assert main([*words, "--stream", *more]) == 64
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_likeliest_of_several_samples(run, capsys):
    words = ["generate", str(run), "--prompt=ab", "--max_tokens=6"]
    assert main([*words, "--best_of=8"]) == 0
    lm = tlx.load(run)
    samples = lm.generate(["ab"] * 8, max_tokens=6, temperature=0.8)
    best = lm.generate("ab", max_tokens=6, temperature=0.8, best_of=8)
    assert capsys.readouterr().out == f"ab{best}\n" and best in samples
    for flag in ("--num_beams=2", f"--draft={run}"):
        assert main([*words, "--best_of=8", flag]) == 64
        assert "best_of = 8 draws whole samples" in capsys.readouterr().err


@pytest.mark.slow
def test_drafts_of_a_small_model(run, tmp_path, capsys):
    words = ["generate", str(run), "--prompt=ab", "--max_tokens=12", "--temperature=0"]
    assert main(words) == 0
    whole = capsys.readouterr().out
    assert main([*words, f"--draft={run}"]) == 0
    assert capsys.readouterr().out == whole
    assert main([*words, f"--draft={run}", "--num_beams=2"]) == 64
    assert "draft is for drawing tokens" in capsys.readouterr().err
    other = write_run(tmp_path / "mlm", "mlm")
    assert main([*words, f"--draft={other}"]) == 64
    assert "both models must be decoders; they are decoder and encoder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clm", "span_corruption"])
def test_pieces_join_to_the_text(tmp_path, name):
    lm = tlx.load(write_run(tmp_path / name, name))
    for prompt in ("ab", "a <extra_id_0> b") if name == "span_corruption" else ("ab", "é"):
        for seed in range(4):
            whole = lm.generate(prompt, 25, seed=seed)
            assert "".join(lm.stream(prompt, 25, seed=seed)) == whole
            stop = (whole[5:7], "zz") if len(whole) > 7 else ("zz",)
            pieces = list(lm.stream(prompt, 25, seed=seed, stop=stop))
            assert "".join(pieces) == lm.generate(prompt, 25, seed=seed, stop=stop)
    with pytest.raises(ConfigError, match="max_tokens = 0"):
        lm.stream("ab", 0)


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
