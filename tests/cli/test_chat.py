"""`tlx chat` as a user runs it: on a run that was tuned so, and on one that was not."""

import copy
import dataclasses
import io
import json
import random
from types import SimpleNamespace
from typing import Any

import pytest

import tlx
from tests.cli.test_convert import gpt2
from tests.run_directory import write_run
from tlx import cli
from tlx.api.reply import _encoded
from tlx.base.errors import ConfigError
from tlx.base.files import read_json
from tlx.decode.beam import Hypothesis
from tlx.text import TokenizerConfig, make_tokenizer
from tlx.text.chat import TEMPLATES, Message
from tlx.text.generation_rules import GenerationRules

_CONFIG = """
from tlx.run import finetune_config

def get_config(arg=""):
    config = finetune_config("chat")
    objective, records = config.objective, config.data.records
    objective.template, objective.metrics, objective.target_length = "zephyr", ("accuracy",), 8
    records.train, records.test, records.epochs = ({train!r},), ({test!r},), 28.0
    config.data.sequence_length = 96
    config.train.batch_size, config.optimizer.learning_rate = 8, 2e-2
    config.model.init.stddev = 0.4
    config.eval.every, config.checkpoint.every, config.log.tensorboard = 0, 50, False
    return config
"""


def say(monkeypatch, capsys, run, lines, *words):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code = cli.main(["chat", str(run), *words])
    return code, capsys.readouterr()


def conversation(rng):
    messages = []
    for _ in range(2):
        letter = rng.choice("abc")
        messages += [{"role": "user", "content": letter}, {"role": "assistant", "content": letter.upper()}]
    return {"messages": messages}


@pytest.mark.long
@pytest.mark.slow
def test_from_conversations_to_a_conversation(tmp_path, monkeypatch, capsys):
    rng = random.Random(0)
    for name, count in (("train", 100), ("test", 12)):
        rows = [json.dumps(conversation(rng)) for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    (tmp_path / "task.py").write_text(_CONFIG.format(**paths))
    base, run = write_run(tmp_path / "base", "clm"), tmp_path / "run"
    words = [f"--config={tmp_path / 'task.py'}", f"--from={base}", f"--workdir={run}"]
    assert cli.main(["finetune", *words]) == 0
    scores = read_json(run / "scores.json")["test"]
    assert scores["accuracy"] > 0.9 and scores["perplexity"] < 1.5  # chance: a third, 3 of the letter
    lm = tlx.load(run)
    assert lm.config.objective.format.user.before == "<|user|>\n"
    answers = {letter: lm.chat(letter, temperature=0, max_tokens=4) for letter in "abc"}
    assert sum(answers[letter] == letter.upper() for letter in "abc") >= 2
    assert lm.predict("a")["answer"] == answers["a"]
    capsys.readouterr()
    code, out = say(monkeypatch, capsys, run, ["a", "", "/new", "a", "/exit", "b"], "--temperature=0")
    assert code == 0 and out.out.split("\n") == [answers["a"], answers["a"], ""]
    code, out = say(monkeypatch, capsys, run, ["b"] * 6, "--temperature=0", "--max_tokens=8")
    assert out.out.count("\n") == 6 and "(no room for the 2 oldest messages)" in out.err
    code, out = say(monkeypatch, capsys, run, ["x" * 100, "a"], "--temperature=0")
    assert "the last message takes" in out.err and out.out.count("\n") == 1


@pytest.mark.slow
def test_a_model_that_was_not_tuned_so(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", "clm")
    code, out = say(monkeypatch, capsys, run, ["hi"])
    assert code == 64 and "was trained for clm, not tuned on conversations" in out.err
    assert (
        "tlx finetune --config=finetune/chat" in out.err
        and "--template=NAME), one of words, alpaca" in out.err
    )
    code, out = say(monkeypatch, capsys, run, ["hi"], "--template=chatlm")
    assert code == 64 and "did you mean 'chatml'" in out.err
    lm = tlx.load(run)
    assert isinstance(lm.chat("hi", max_tokens=3, template="words"), str)
    for messages, message in [
        ([{"role": "user"}], "must have a 'role'"),
        ([{"role": "usr", "content": ""}], "did you mean 'user'"),
        ([{"role": "assistant", "content": ""}], "nothing to answer"),
        ("x" * 40, "the last message takes"),
    ]:
        with pytest.raises(ConfigError, match=message):
            lm.chat(messages, max_tokens=3, template="words")
    with pytest.raises(ConfigError, match="max_tokens = 32 must be 1 to 31"):
        lm.chat("hi", max_tokens=32, template="words")
    encoder = write_run(tmp_path / "mlm", "mlm")
    with pytest.raises(ConfigError, match="a conversation needs a decoder, this is encoder"):
        tlx.load(encoder).chat("hi")


_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_an_imported_model_talks_in_its_own_template(tmp_path, monkeypatch, capsys, caplog):
    """From a directory into a run, to the ids that are continued, and out again."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    theirs, run, back = tmp_path / "theirs", tmp_path / "run", tmp_path / "back"
    gpt2(theirs)
    ends = [0, 9]
    generation = {"eos_token_id": ends, "no_repeat_ngram_size": 3, "do_sample": True, "top_p": 0.9}
    (theirs / "generation_config.json").write_text(json.dumps(generation))
    (theirs / "tokenizer_config.json").write_text(json.dumps({"chat_template": _TEMPLATE}))
    assert cli.main(["convert", "import", str(theirs), str(run)]) == 0
    calls = []

    def streamed(decoder, row, stops_AV):
        calls.append((row.prompt, row.rules))
        yield from ([index] for index in lm_of_run.tokenizer.encode(" the cat "))

    lm_of_run = tlx.load(run)
    monkeypatch.setattr("tlx.api.reply.stream", streamed)
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "he"},
    ]
    assert lm_of_run.chat(messages, max_tokens=4) == "the cat"
    text = "user: hi<|end|>assistant: ho<|end|>user: he<|end|>assistant: "
    ((prompt, rules),) = calls
    assert prompt == lm_of_run.tokenizer.encode(text) and prompt.count(0) == 3
    assert rules.ends == (0, 9) and rules.no_repeat_ngram == 3
    capsys.readouterr()
    code, out = say(monkeypatch, capsys, run, ["hi", "he"], "--max_tokens=4")
    assert code == 0 and out.out == "the cat\nthe cat\n"
    # Once for each of the two loaded models, not for each answer.
    assert caplog.text.count("generation_config.json: its defaults top_p = 0.9 are not taken over") == 2
    with pytest.raises(ConfigError, match="did you mean 'chatml'"):
        lm_of_run.chat("hi", template="chatlm")
    assert cli.main(["convert", "export", str(run), str(back)]) == 0
    for name in ("generation_config.json", "tokenizer_config.json"):
        assert (back / name).read_bytes() == (theirs / name).read_bytes()
    assert read_json(back / "config.json")["eos_token_id"] == ends


def test_rules_reach_the_loop_and_the_beams(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    gpt2(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 9], "min_length": 3}')
    lm = tlx.load(tmp_path)
    rules = []

    def generated(lm, params, prompts, vocab, **given):
        rules.append(given["rules"])
        return [[] for _ in prompts]

    def searched(*parts, **given):
        return [[Hypothesis(tokens, 0.0)] for tokens in generated(*parts, **given)]

    monkeypatch.setattr("tlx.decode.generate.generate", generated)
    monkeypatch.setattr("tlx.api.generation.beam_search", searched)
    assert lm.generate("the cat", temperature=0) == lm.generate("the cat", num_beams=2) == ""
    assert rules == [GenerationRules(ends=(0, 9), min_length=3)] * 2


def test_a_model_tuned_on_preferences_is_asked_in_the_ids_that_it_learned():
    """An id that was added to an imported vocabulary was trained by either task; without them it is left out."""
    tokenizer = copy.copy(make_tokenizer(TokenizerConfig(kind="bytes"), ()))
    size = tokenizer.vocab.size
    tokenizer.vocab = dataclasses.replace(tokenizer.vocab, size=size + 1, added=1, bos=size)
    prompts = {}
    for name in ("chat", "preference", "clm"):
        model: Any = SimpleNamespace(
            config=SimpleNamespace(objective=SimpleNamespace(name=name)), tokenizer=tokenizer
        )
        prompts[name] = _encoded([Message("user", "hi")], TEMPLATES["words"], model).tolist()
    assert prompts["preference"] == prompts["chat"] == [size, *prompts["clm"]]
