"""Ghost attention: the instruction stands in every message for the sampler, and in the first one for training."""

import json
import random

import numpy as np
import pytest

import tlx
from tests.run_directory import write_run, write_task_run
from tests.tasks.small import records_of
from tlx import cli
from tlx.base.errors import ConfigError, DataError
from tlx.run import finetune_config
from tlx.tasks.chat import Chat
from tlx.text.chat import Message
from tlx.trainer import sampled_texts
from tlx.trainer.ghost_attention import (
    GhostAttentionConfig,
    Instruction,
    ghost_records,
    read_instructions,
    with_instruction,
)

SAID = [Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
LOUD = Instruction("speak loud", "loud")


def dialogue(*texts):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def chat_config():
    config = finetune_config("chat")
    config.tokenizer.kind = "bytes"
    config.model.kind = "decoder"
    config.model.width = 16
    config.model.num_layers = 1
    config.model.attention.num_heads = 2
    config.model.position.kind = "rotary"
    config.data.sequence_length = 96
    config.objective.target_length = 8
    return config


def test_where_the_instruction_stands(tmp_path):
    contents = [message.content for message in with_instruction(SAID, "loud", everywhere=True)]
    assert contents == ["s", "loud\na", "b", "loud\nc"]
    contents = [message.content for message in with_instruction(SAID, "loud", everywhere=False)]
    assert contents == ["s", "loud\na", "b", "c"]
    path = tmp_path / "instructions.tsv"
    path.write_text("speak loud\tloud\n\nbe brief\n")
    assert read_instructions(path) == [LOUD, Instruction("be brief", "be brief")]
    path.write_text("a\tb\tc\n")
    with pytest.raises(DataError, match=r"instructions.tsv:1: expected 'TEXT' or 'TEXT<tab>SHORT'"):
        read_instructions(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no line holds an instruction"):
        read_instructions(path)
    with pytest.raises(DataError, match="No such file"):
        read_instructions(tmp_path / "none.tsv")


def test_a_wrong_value_is_told_before_a_model_is_loaded(tmp_path, capsys):
    words = ["data", "ghost", "--config=finetune/chat:tiny", "--from=none", "--instructions=none.tsv"]
    assert cli.main([*words, f"--to={tmp_path}/made", "--config.objective.loss_on=last"]) == 64
    assert "did you mean 'last_answer'" in capsys.readouterr().err


@pytest.mark.slow
def test_records_of_sampled_answers(tmp_path, monkeypatch):
    lm = tlx.load(write_task_run(tmp_path / "run", chat_config()))
    asked = []
    unfinished = [1]

    def written(model, params, request, spec, batch_size, *, sampling, seed):
        asked.extend(request.prompts)
        full = lm.tokenizer.encode("no end yet")[: request.max_tokens]
        return [
            full if i in unfinished else lm.tokenizer.encode(f" {i}!") for i in range(len(request.prompts))
        ]

    monkeypatch.setattr(sampled_texts, "write", written)
    records = records_of(
        *(dialogue("hi", "yes", f"and {i}", "old") for i in range(40)), dialogue("x" * 90, "y")
    )
    made = ghost_records(lm, records, Chat(), [LOUD], GhostAttentionConfig(seed=3))
    assert (len(made.records), made.num_long, made.num_unfinished) == (39, 1, 1)
    assert lm.tokenizer.decode(asked[7]).endswith(
        "User: speak loud\nhi\nAssistant: yes\nUser: speak loud\nand 7\nAssistant:"
    )
    first = set()
    for number, record in zip([0, *range(2, 40)], made.records, strict=True):
        contents = [message["content"] for message in record["messages"]]
        first.add(contents[0])
        assert contents[1:] == ["yes", f"and {number}", f"{number}!"] and record["instruction"] == LOUD.text
    assert first == {"speak loud\nhi", "loud\nhi"}, "half of the records have the short form"
    assert ghost_records(lm, records, Chat(), [LOUD], GhostAttentionConfig(seed=3)) == made
    both = ghost_records(
        lm, records, Chat(), [LOUD, Instruction("b", "b")], GhostAttentionConfig(most_constraints=2)
    )
    assert {record["instruction"] for record in both.records} == {
        "speak loud",
        "b",
        "speak loud b",
        "b speak loud",
    }
    unfinished = range(40)
    with pytest.raises(DataError, match="none of 40 sampled answers is a text that ended within"):
        ghost_records(lm, records, Chat(), [LOUD], GhostAttentionConfig())
    with pytest.raises(DataError, match="none of 1 conversations has room"):
        ghost_records(lm, records[-1:], Chat(), [LOUD], GhostAttentionConfig())
    with pytest.raises(ConfigError, match="this is one of 'clm'"):
        ghost_records(
            tlx.load(write_run(tmp_path / "clm", "clm")), records, Chat(), [LOUD], GhostAttentionConfig()
        )


def conversation(rng, loud):
    """Two turns; an answer is the message's letter, in capitals where this very message says so."""
    texts = []
    for _ in range(2):
        letter = rng.choice("abcdefgh")
        shout = loud and rng.random() < 0.5
        texts += [f"loud\n{letter}" if shout else letter, letter.upper() if shout else letter]
    return dialogue(*texts)


@pytest.mark.long
@pytest.mark.slow
def test_an_instruction_comes_to_hold_for_the_whole_conversation(tmp_path, capsys):
    """A model that obeys an instruction in the message that has it learns to obey the first message's."""
    rng = random.Random(0)
    paths = {}
    for name, loud, count in (("both", True, 600), ("plain", False, 300)):
        paths[name] = tmp_path / f"{name}.jsonl"
        paths[name].write_text("\n".join(json.dumps(conversation(rng, loud)) for _ in range(count)))
    config = chat_config()
    config.model.width = 64
    config.model.num_layers = 2
    config.objective.template = "zephyr"
    config.train.batch_size = 8
    config.optimizer.learning_rate = 3e-3
    config.eval.every = 0
    config.data.records.train = (str(paths["both"]),)
    config.data.records.epochs = 15.0
    tlx.finetune(config, workdir=tmp_path / "base")
    (tmp_path / "loud.tsv").write_text("loud\n")
    words = [
        f"--from={tmp_path / 'base'}",
        f"--to={tmp_path / 'made'}",
        f"--instructions={tmp_path / 'loud.tsv'}",
    ]
    source = f"--config.data.records.train=({str(paths['plain'])!r},)"
    assert cli.main(["data", "ghost", "--config=finetune/chat", *words, source]) == 0
    assert "with an answer under an instruction" in capsys.readouterr().out
    config = finetune_config("chat")
    config.objective.loss_on = "last_answer"
    config.objective.target_length = 8
    config.data.sequence_length = 96
    # Conversations without an instruction beside them, or everything would be learned to be loud.
    config.data.records.train = (str(tmp_path / "made/train.jsonl"), str(paths["plain"]))
    config.data.records.epochs = 20.0
    config.train.batch_size = 8
    config.optimizer.learning_rate = 1e-3
    config.eval.every = 0
    tlx.finetune(config, base=tmp_path / "base", workdir=tmp_path / "ghost")
    rates = {}
    for name in ("base", "ghost"):
        lm = tlx.load(tmp_path / name)
        rng = random.Random(1)
        obeyed = {"first": [], "none": []}
        for _ in range(40):
            messages = conversation(rng, False)["messages"][:3]
            letter = messages[2]["content"]
            obeyed["none"].append(lm.chat(messages, temperature=0, max_tokens=4) == letter)
            messages[0]["content"] = "loud\n" + messages[0]["content"]
            obeyed["first"].append(lm.chat(messages, temperature=0, max_tokens=4) == letter.upper())
        rates[name] = {key: float(np.mean(values)) for key, values in obeyed.items()}
    print(rates)
    assert rates["base"]["first"] < 0.2 and rates["base"]["none"] > 0.9
    assert rates["ghost"]["first"] > 0.9 and rates["ghost"]["none"] > 0.9
