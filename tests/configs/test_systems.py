"""Whole systems learn at the size of a laptop: their own networks, tasks, stages and conversions."""

import json
import random
import runpy

import jax
import numpy as np
import pytest

import tlx
from tests.cli.test_finetune import finetune, folder  # noqa: F401
from tests.cli.tiny import ROOT
from tests.configs.test_learning import one_device, tiny_config, trained  # noqa: F401
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx import cli
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import read_json
from tlx.checkpoint import load_params
from tlx.training.journal import read_lines


def mobilebert(records, tmp_path):
    """Below the unigram of its masked tokens after 200 steps, as the other objectives."""
    return below_the_unigram("mobilebert", 200)


def meena(records, tmp_path):
    """The Evolved Transformer's cells, on dialogue."""
    return below_the_unigram("meena", 100)


def deberta_v3(records, tmp_path):
    """Generator and model, clipped apart: both losses fall."""
    outcome = below_the_unigram("deberta_v3", 200)
    assert outcome.last["rtd_loss"] < 0.8 * outcome.first["rtd_loss"], outcome
    return outcome


def below_the_unigram(config, steps):
    outcome = trained(tiny_config(config, steps))
    print(f"\n{config}, {steps} steps: {outcome}")
    assert outcome.loss < 0.98 * outcome.unigram, outcome
    return outcome


def score(run, metric, split="test"):
    """A figure of a run, printed for configs/finetune/README.md."""
    value = read_json(run / "scores.json")[split][metric]
    print(f"\n{metric} {value:.3f}")
    return value


def elmo(records, tmp_path):
    """A mix of the layers of a bilm of random parameters, which stay as they are, under an LSTM that learns."""
    base = write_run(tmp_path / "base", "bilm")
    words = ("--config.adapt.method=head", "--config.objective.head.lstm_width=16")
    assert finetune(records, tmp_path / "run", *words, base=base) == 0
    assert score(tmp_path / "run", "accuracy") > 0.9  # chance: one half
    lm = tlx.load(tmp_path / "run")
    assert lm.config.model.recurrent.characters.max_characters == 6
    before = tree.flatten(tlx.load(base).params)
    for path, leaf in tree.flatten(lm.params["model"]).items():
        np.testing.assert_array_equal(leaf, before[f"model/{path}"], err_msg=path)
    mix = lm.params["heads"]["classification_reader"]["mix"]
    assert np.abs(np.asarray(mix["weights"])).max() > 1e-3 and float(mix["gamma"]) != 1.0
    assert [answer["label"] for answer in lm.predict(["aeia", "bcdf"])] == ["yes", "no"]


def q8bert(records, tmp_path):
    """Fine-tuned with 8 bits; products of integers give the same classes, and nearly the same probabilities."""
    base = write_run(tmp_path / "base", "mlm")
    words = ("--config.model.quantization.bits=8", "--config.model.quantization.decay=0.9")
    assert finetune(records, tmp_path / "run", *words, base=base) == 0
    assert score(tmp_path / "run", "accuracy") > 0.9
    lm = tlx.load(tmp_path / "run")
    texts = ["aeia", "bcdf", "uuo", "ggc", "o", "dbfcgbfdc"]
    simulated = lm.predict(texts)
    integers = lm.with_integers().predict(texts)
    assert [answer["label"] for answer in integers] == [answer["label"] for answer in simulated]
    pairs = zip(integers, simulated, strict=True)
    assert max(abs(a["probability"] - b["probability"]) for a, b in pairs) < 0.02
    ranges = {path: leaf for path, leaf in tree.flatten(lm.params).items() if path.endswith("_range")}
    assert ranges and all(np.all(np.asarray(leaf)[..., 1] > 10) for leaf in jax.device_get(ranges).values())
    with pytest.raises(ConfigError, match="was not trained to be quantised"):
        tlx.load(base).with_integers()


def bart_with_a_new_encoder(records, tmp_path):
    """First the new encoder and the input projections of the old one's first layer learn, then everything."""
    base = write_run(tmp_path / "base", "bart")
    (records / "words.py").write_text((records / "task.py").read_text().replace("arg or", '"generation" or'))
    words = ["source={text}", "target={label}", "target_length=8", "num_beams=0", "metrics=('exact_match',)"]
    words = [f"--config.objective.{word}" for word in words]

    def run(name, source, *changes):
        start = [f"--config={records / 'words.py'}", f"--workdir={tmp_path / name}", f"--from={source}"]
        assert cli.main(["finetune", *start, *words, *changes]) == 0
        return tree.flatten(jax.device_get(tlx.load(tmp_path / name).params))

    get_config = runpy.run_path(str(ROOT / "configs/finetune/translation.py"))["get_config"]
    # The base has one layer, and no table of positions.
    patterns = tuple(rule for rule in get_config("new_encoder").optimizer.freeze if "[1:]" not in rule)
    first = run(
        "first",
        base,
        f"--config.optimizer.freeze={patterns!r}",
        "--config.model.source_encoder_layers=1",
        "--config.data.records.epochs=1",
    )
    before = tree.flatten(jax.device_get(tlx.load(base).params))
    old = {path for path in before if path.startswith("model/")}
    moved = {path for path in old if not np.array_equal(before[path], first[path])}
    assert {path.split("/")[-2] for path in moved} == {"query", "key", "value"}, moved
    assert all(path.startswith("model/encoder/blocks/attention/") for path in moved)
    assert any(path.startswith("model/source_encoder/blocks/") for path in first)
    run("second", tmp_path / "first")
    assert score(tmp_path / "second", "exact_match") > 0.9


def tinybert(records, tmp_path):
    """A student of a task's teacher on augmented records: first layers like the teacher's, then its classes."""
    base = write_run(tmp_path / "base", "mlm")
    assert finetune(records, tmp_path / "teacher", base=base) == 0
    words = [f"--config={records / 'task.py'}", f"--from={base}", f"--to={tmp_path / 'more'}", "--copies=2"]
    assert cli.main(["data", "augment", *words]) == 0
    common = [
        f"--config.data.records.train=('{tmp_path}/more/train.jsonl',)",
        "--config.data.records.epochs=15",
    ]
    common.append(f"--config.distill.teacher={tmp_path / 'teacher'}")
    layers = ("attention_weight=1.0", "hidden_weight=1.0", "embedding_weight=1.0", "soft_weight=0.0")
    first = [f"--config.distill.{word}" for word in layers]
    student = write_run(tmp_path / "student", "mlm", steps=(5,))
    assert finetune(records, tmp_path / "layers", *common, *first, base=student) == 0
    losses = [line for line in read_lines(tmp_path / "layers/metrics.jsonl") if "hidden_loss" in line]
    names = ("attention_loss", "hidden_loss", "embedding_loss")
    sums = [sum(line[name] for name in names) for line in (losses[0], losses[-1])]
    print(f"\nlosses of layers: {sums[0]:.2f} at first, {sums[1]:.2f} at last")
    assert sums[1] < 0.8 * sums[0], losses
    assert finetune(records, tmp_path / "run", *common, base=tmp_path / "layers") == 0
    assert score(tmp_path / "run", "accuracy") > 0.9


NAMES = ("Ann", "Bob", "Kim", "Lee")
VERBS = ("ran", "sat", "hid", "won")


def document(rng):
    """Two people, who are each spoken of several times by their name; who that is only the name says."""
    first, second = rng.sample(NAMES, 2)
    text, mentions = "", {first: [], second: []}
    for name in [first, second, *rng.choices([first, second], k=3)]:
        mentions[name].append([len(text), len(text) + len(name)])
        text += f"{name} {rng.choice(VERBS)}. "
    clusters = [spans for spans in mentions.values() if len(spans) > 1]
    return {"text": text.strip(), "clusters": clusters}


def coreference(records, tmp_path):
    """Fifty documents are learned by heart."""
    rng = random.Random(0)
    documents = [document(rng) for _ in range(50)]
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(map(json.dumps, documents)))
    base = write_run(tmp_path / "base", "mlm")
    start = [
        f"--config={ROOT}/configs/finetune/coreference.py:tiny",
        f"--from={base}",
        f"--workdir={tmp_path}/run",
    ]
    data = (f"records.train=('{file}',)", f"records.validation=('{file}',)", "records.format=jsonl",
            "records.limit=0", "records.epochs=30", "sequence_length=32")  # fmt: skip
    assert cli.main(["finetune", *start, *(f"--config.data.{word}" for word in data)]) == 0
    assert score(tmp_path / "run", "conll_f1", "validation") > 0.95
    assert score(tmp_path / "run", "conll_f1_ceiling", "validation") == 1.0
    answers = tlx.load(tmp_path / "run").predict([values["text"] for values in documents])
    pairs = zip(answers, documents, strict=True)
    assert np.mean([answer["clusters"] == values["clusters"] for answer, values in pairs]) > 0.9


def medusa(records, tmp_path):
    """Heads of a finished decoder learn, and draft for it; it stays as it is, and so does its text."""
    base = write_run(tmp_path / "base", "clm")
    words = ("train.steps=40", "data.sequence_length=32", "eval.every=0", "eval.final=False")
    words = [f"--config.{word}" for word in (*words, "optimizer.learning_rate=3e-2", "log.tensorboard=False")]
    config = f"--config={ROOT}/configs/pretrain/multi_token.py:medusa:tiny"
    run = tmp_path / "run"
    assert cli.main(["train", config, f"--from={base}", f"--workdir={run}", *words]) == 0
    lines = [line for line in read_lines(run / "metrics.jsonl") if line.get("kind", "train") == "train"]
    print(f"\nloss of head 1: {lines[0]['loss_1']:.2f} at first, {lines[-1]['loss_1']:.2f} at last")
    assert lines[-1]["loss_1"] < 0.8 * lines[0]["loss_1"]
    lm = tlx.load(run)
    plain = tlx.load(base)
    before = tree.flatten(plain.params)
    after = tree.flatten(lm.params)
    assert all(np.array_equal(after[path], leaf) for path, leaf in before.items())
    assert {path.split("/")[0] for path in tree.flatten(load_params(run).tree)} == {"heads"}
    assert lm.frame == plain.frame
    arguments = {"max_tokens": 12, "temperature": 0.0}
    texts = plain.generate(["def ", "a"], **arguments)
    assert lm.generate(["def ", "a"], draft="heads", **arguments) == texts
    with pytest.raises(ConfigError, match="was trained by clm, without heads"):
        plain.generate("a", draft="heads", **arguments)


def adapted(source, kind):
    """A system: a run of an objective becomes one of another kind, and learns the records."""

    def learns(records, tmp_path):
        base = write_run(tmp_path / "base", source)
        assert cli.main(["convert", "adapt", str(base), str(tmp_path / "adapted"), f"--kind={kind}"]) == 0
        if kind == "encoder":
            assert finetune(records, tmp_path / "run", base=tmp_path / "adapted") == 0
            assert score(tmp_path / "run", "accuracy") > 0.9
            return
        (records / "words.py").write_text(
            (records / "task.py").read_text().replace("arg or", '"generation" or')
        )
        start = [
            f"--config={records / 'words.py'}",
            f"--workdir={tmp_path}/run",
            f"--from={tmp_path}/adapted",
        ]
        words = (
            "source={text}",
            "target={label}",
            "target_length=8",
            "num_beams=0",
            "metrics=('exact_match',)",
        )
        assert cli.main(["finetune", *start, *(f"--config.objective.{word}" for word in words)]) == 0
        assert score(tmp_path / "run", "exact_match") > 0.9

    return learns


SYSTEMS = {
    "mobilebert": mobilebert,
    "elmo": elmo,
    "q8bert": q8bert,
    "bart_with_a_new_encoder": bart_with_a_new_encoder,
    "meena": meena,
    "deberta_v3": deberta_v3,
    "tinybert": tinybert,
    "coreference": coreference,
    "medusa": medusa,
    "decoder_to_encoder": adapted("clm", "encoder"),
    "decoder_to_both": adapted("clm", "encoder_decoder"),
    "encoder_to_decoder": adapted("mlm", "decoder"),
    "encoder_to_both": adapted("mlm", "encoder_decoder"),
}


@pytest.mark.parametrize("system", tiers(SYSTEMS, slow=["elmo", "coreference", "medusa"]))
def test_a_system_learns(system, folder, tmp_path):  # noqa: F811
    SYSTEMS[system](folder, tmp_path)
