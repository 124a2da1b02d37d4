"""Instruction tuning: the loss is that of answers, packed as alone; records, and what is written for them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.tasks import small
from tests.tasks.test_generation import logits_of
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.data.config import DataConfig
from tlx.data.readers import RecordsConfig
from tlx.data.records import RecordPipeline, build_records
from tlx.evaluation.answers import evaluate_task, make_predictor
from tlx.evaluation.writing import write
from tlx.tasks import TABLE
from tlx.tasks.chat import Chat, messages_of
from tlx.tasks.shared.base import TaskSpec
from tlx.text.chat import TEMPLATES, ChatTemplate, Message, RoleTemplate

TASK, V, encode = TABLE.load("chat"), small.TOKENIZER.vocab, small.TOKENIZER.encode
SHORT = ChatTemplate("{bos}", RoleTemplate("S", "."), RoleTemplate("U", "."), RoleTemplate("A", "{eos}"))
TURNS = (
    [("user", "ab"), ("assistant", "c"), ("user", "d"), ("assistant", "ef")],
    [("system", "s"), ("user", "x"), ("assistant", "y")],
    [("human", "q"), ("gpt", "r")],
)
VALUES = [{"messages": [{"role": role, "content": text} for role, text in said]} for said in TURNS]
RECORDS = small.records_of(*VALUES)


def spec_of(**config):
    config = Chat(**({"format": SHORT, "target_length": 4} | config))
    config.validate()
    return TaskSpec(config, small.LENGTH, V, "decoder", tokenizer=small.TOKENIZER)


SPEC = spec_of()


def rows_of(items, spec=SPEC):
    rows = [TASK.example(np.random.default_rng(0), item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_rows_by_hand():
    batch = rows_of(TASK.prepare(RECORDS, small.TOKENIZER, SPEC))
    text = [V.bos, *encode("Uab.Ac"), V.eos, *encode("Ud.Aef"), V.eos]
    assert batch["tokens"][0].tolist() == [*text[:-1], *[V.pad] * (16 - len(text) + 1)]
    asked = [0] * 5 + [1, 1] + [0] * 4 + [1, 1, 1]  # "c" eos, "ef" eos, from the token before each
    assert batch["weights"][0].tolist() == [*asked, *[0] * 2]
    assert batch["targets"][0][batch["weights"][0] > 0].tolist() == [
        *encode("c"),
        V.eos,
        *encode("ef"),
        V.eos,
    ]
    assert small.TOKENIZER.decode(batch["tokens"][1]) == "Ss.Ux.Ay"
    cut = TASK.prepare(RECORDS, small.TOKENIZER, dataclasses.replace(SPEC, length=8))
    assert small.TOKENIZER.decode(cut[0].pieces[0].tokens) == "Uab.AcU"


def test_the_last_answer_alone():
    """Nothing before it has a loss, and of a conversation that is too long the oldest messages are left out."""
    spec = spec_of(loss_on="last_answer")
    batch = rows_of(TASK.prepare(RECORDS, small.TOKENIZER, spec), spec)
    text = [V.bos, *encode("Uab.Ac"), V.eos, *encode("Ud.Aef"), V.eos]
    assert batch["tokens"][0].tolist() == [*text[:-1], *[V.pad] * (16 - len(text) + 1)]
    assert np.flatnonzero(batch["weights"][0]).tolist() == [11, 12, 13]
    assert batch["targets"][0][11:14].tolist() == [*encode("ef"), V.eos]
    shorter = dataclasses.replace(spec, length=8)
    cut = TASK.prepare(RECORDS, small.TOKENIZER, shorter)
    assert cut[0].pieces[0].tokens.tolist() == [V.bos, *encode("Ud.Aef"), V.eos]
    exact = TASK.prepare(RECORDS, small.TOKENIZER, dataclasses.replace(spec, length=len(text) - 1))
    assert exact[0].pieces[0].tokens.tolist() == text
    with pytest.raises(ConfigError, match="did you mean 'last_answer'"):
        spec_of(loss_on="last_answers")


def files(tmp_path, **config):
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in VALUES * 3))
    data = DataConfig(records=RecordsConfig(train=(str(path),), validation=(str(path),)))
    return build_records(data, small.TOKENIZER, TASK, spec_of(**config), batch_size=2, seed=0)


def test_the_loss_is_that_of_answers_packed_or_not(tmp_path):
    """By numpy from the logits of each conversation alone."""
    items, packed = TASK.prepare(RECORDS, small.TOKENIZER, SPEC), files(tmp_path).items
    assert len(packed) < 9 == len(files(tmp_path, packing=False).items)
    module = small.module_of("chat", "decoder", SPEC.config)
    params = jax.tree.map(lambda leaf: 4 * leaf, small.init(module, rows_of(items)))  # what is seen matters
    total, count = 0.0, 0
    for said in TURNS:
        ids, asked = [V.bos], [False]
        for role, text in said:
            before = {"system": "S", "user": "U", "human": "U"}.get(role, "A")
            answer = before == "A"
            ids += [*encode(before + text), *([V.eos] if answer else encode("."))]
            asked += [False] + [answer] * (len(encode(text)) + 1)
        y = logits_of(module, params, ids[:-1], [], "decoder")
        log_p = y - np.log(np.exp(y).sum(axis=-1, keepdims=True))
        total -= log_p[np.arange(len(y)), ids[1:]][asked[1:]].sum()
        count += sum(asked)

    @jax.jit
    def loss(batch):
        return module.apply({"params": params}, batch)[0]["loss"]

    alone, together = loss(rows_of(items)), loss(rows_of(packed))
    assert float(alone.weight) == count and float(together.weight) == 3 * count
    assert float(alone.sum) == pytest.approx(total, rel=1e-4)
    assert float(together.sum) == pytest.approx(3 * total, rel=1e-4)


@pytest.mark.slow
def test_what_is_written_follows_what_was_said():
    spec = spec_of(metrics=("accuracy",))
    module, items = (
        small.module_of("chat", "decoder", spec.config),
        TASK.prepare(RECORDS, small.TOKENIZER, spec),
    )
    params = small.init(module, rows_of(items))
    ids = write(module.model, params["model"], TASK.generation_requests(items, spec), spec, 2)
    prompts = ("Uab.AcUd.A", "Ss.Ux.A", "Uq.A")
    for found, text in zip(ids, prompts, strict=True):
        prompt = [V.bos, *encode(text)]
        if text == prompts[0]:
            prompt.insert(7, V.eos)
        one = []
        while len(one) < 4 and (not one or one[-1] != V.eos):
            one.append(int(logits_of(module, params, [*prompt, *one], [], "decoder")[-1].argmax()))
        assert found == [index for index in one if index != V.eos]
    pipeline = RecordPipeline(DataConfig(), RECORDS, items, TASK, spec, 2, 0, "validation")
    found = evaluate_task(make_predictor(module), params, TASK, spec, pipeline)
    assert [one["answer"] for one in found.answers] == [small.TOKENIZER.decode(row).strip() for row in ids]
    assert found.figures["perplexity"] == pytest.approx(np.exp(found.figures["loss"]), rel=1e-5)
    assert found.scores.main == "accuracy" and not found.scores.lower_is_better
    assert found.scores.majority_baseline == pytest.approx(1 / 3)  # all three answers are others
    assert TASK.generation_requests(items, SPEC) is None  # no metrics: nothing is written


def test_an_answer_ends_where_its_template_says():
    """At a text, where no id means the end."""
    spec = spec_of(format=dataclasses.replace(SHORT, assistant=RoleTemplate("A", "##")))
    items = TASK.prepare(small.records_of({"messages": "hi"}), small.TOKENIZER, spec, labelled=False)
    asked = TASK.generation_requests(items, spec)
    assert asked.stop == "##" and asked.end == V.eos and asked.max_tokens == 4
    outputs = {"nats": np.zeros(1), "written": [encode(" yes## more")]}
    assert TASK.predictions(outputs, items, spec) == [{"answer": "yes"}]
    longer = TASK.prepare(
        small.records_of({"messages": "much longer than a row is"}), small.TOKENIZER, spec, False
    )
    assert len(TASK.generation_requests(longer, spec).prompts[0]) == 12


def test_the_template_is_saved_with_the_config():
    config = TASK.infer_labels(Chat(template="chatml"), [])
    again = from_dict(Chat, json.loads(json.dumps(to_dict(config))))
    assert again == config and again.chat_template == TEMPLATES["chatml"]


def test_questions_and_answers_of_columns():
    config = Chat(
        prompt="{instruction}\n{instances.0.input}", answer="{instances.0.output}", system="Be kind."
    )
    (record,) = small.records_of({"instruction": "add", "instances": [{"input": "1 1", "output": 2}]})
    assert messages_of(record, config) == (
        Message("system", "Be kind."),
        Message("user", "add\n1 1"),
        Message("assistant", "2"),
    )
    assert messages_of(record, config, labelled=False)[-1].role == "user"


@pytest.mark.parametrize(
    ("config", "values", "error", "message"),
    [
        ({"format": None, "template": "chatlm"}, {}, ConfigError, "did you mean 'chatml'"),
        ({"prompt": "{a}"}, {}, ConfigError, "belong together"),
        ({"prompt": "a", "answer": "b"}, {}, ConfigError, "names no column"),
        ({"metrics": ("blue",)}, {}, ConfigError, "did you mean 'bleu'"),
        ({}, {"message": []}, DataError, "file:1.*did you mean 'message'"),
        ({}, {"messages": [{"role": "user", "text": ""}]}, DataError, r"messages\[0\].*'content'"),
        ({}, {"messages": [{"role": "usr", "content": ""}]}, DataError, "did you mean 'user'"),
        ({}, {"messages": [{"role": "user", "content": ""}]}, DataError, "no message is the assistant's"),
        ({}, {"messages": 3}, DataError, "expected a list of messages"),
    ],
)
def test_mistakes_are_told(config, values, error, message):
    with pytest.raises(error, match=message):
        TASK.prepare(small.records_of(values), small.TOKENIZER, spec_of(**config))
