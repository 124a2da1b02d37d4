"""Heads of tasks against the classes of `transformers`: stored, written again, and computed as there."""

import copy
import importlib.util
import json

import numpy as np
import pytest

import tlx
from tests.hub import task_cases
from tests.hub.task_cases import CASES, LABELS
from tests.tiers import tiers
from tlx.base.errors import ConfigError, DataError
from tlx.cli import main
from tlx.hub import verify
from tlx.hub.folder import family_of, open_folder, save_folder

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "tokenizers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)

QUICK = (
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "RobertaForSequenceClassification",
    "DistilBertForSequenceClassification",
    "ElectraForSequenceClassification",
    "AlbertForSequenceClassification",
    "DebertaV2ForSequenceClassification",
    "XLNetForSequenceClassification",
    "GPT2ForSequenceClassification",
    "LlamaForQuestionAnswering",
    "BartForSequenceClassification",
    "T5ForSequenceClassification",
)
IGNORE = ("decoder_start_token_id",)
TEXTS = ["the cat sat", "Über 3 Katzen on the mat and the cat", "import os\nprint('x')"]


# A class of every family in CI, the others by hand.
SEQUENCE = [name for name in CASES if name.endswith("ForSequenceClassification")]


@pytest.mark.parametrize("name", tiers(CASES, quick=QUICK, slow=SEQUENCE))
def test_a_head_is_read_and_written_again(name, tmp_path):
    """Every tensor comes back equal, under the name that the class gives it, with its labels."""
    import torch
    import transformers

    case = CASES[name]
    model = task_cases.make(case)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = open_folder(tmp_path / "theirs", ignore=IGNORE)
    head = checkpoint.task_head
    assert head is not None and head.labels == (() if case.kind == "Q" else tuple(LABELS.values()))
    params = checkpoint.read()
    assert family_of(checkpoint.config, params, head) == checkpoint.family.name
    ids = {key: value for key, value in checkpoint.raw.items() if key.endswith("token_id")}
    written = save_folder(
        tmp_path / "ours", checkpoint.family, checkpoint.config, params, special=ids, task_head=head
    )
    assert written == name
    again, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    after = again.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(after[key], value), key
    if case.kind != "Q":
        assert again.config.id2label == LABELS


COMPUTED = (
    "DistilBertForSequenceClassification",
    "GPT2ForSequenceClassification",
    "XLNetForSequenceClassification",
    "T5ForSequenceClassification",
)


@pytest.mark.parametrize("name", tiers(CASES, quick=("BertForSequenceClassification",), slow=COMPUTED))
def test_a_head_computes_what_the_class_computes(name, tmp_path):
    task_cases.make(CASES[name]).save_pretrained(tmp_path)
    checkpoint = open_folder(tmp_path, ignore=IGNORE)
    differences = verify.compare(checkpoint, checkpoint.read())
    assert {"start", "end", checkpoint.task_head.task} & {item.name for item in differences}
    for item in differences:
        assert item.largest < 1e-5 * item.scale, item


def tokenizer(folder, kind):
    """Write a small tokenizer with the template of a family; return the library's object."""
    from tokenizers import processors

    from tests.hub import folders

    if kind == "bert":
        made = folders.word_pieces(folder, 61)
        ids = [("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))]
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
        return folders._save(folder, made, folders.BERT_SPECIAL)
    made = folders.byte_pairs(folder, 300)
    made.add_special_tokens(["<s>", "</s>", "<pad>"])
    ids = {name: made.token_to_id(name) for name in ("<s>", "</s>", "<pad>")}
    if kind == "roberta":
        made.post_processor = processors.RobertaProcessing(
            ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
        )
        roles = {"cls": "<s>", "sep": "</s>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}
        return folders._save(folder, made, roles)
    if kind == "t5":
        made.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", ids["</s>"])]
        )
    return folders._save(folder, made, {"eos": "</s>", "pad": "<pad>"})


def theirs(model, encoding):
    """Return the logits of one encoded row, without padding."""
    import torch

    arguments = {"input_ids": torch.tensor([encoding.ids])}
    if model.config.model_type == "bert":
        arguments["token_type_ids"] = torch.tensor([encoding.type_ids])
    with torch.no_grad():
        return model(**arguments)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(folder, the class, the library's tokenizer) of a classifier of three labels."""
    folder = tmp_path_factory.mktemp("bert")
    library = tokenizer(folder, "bert")
    model = task_cases.make(CASES["BertForSequenceClassification"], vocab_size=library.get_vocab_size())
    model.save_pretrained(folder)
    return folder, model, library


def test_predictions_are_those_of_the_class(bert, tmp_path, capsys):
    """Of single texts and of pairs, before and after an import; and the export is the directory again."""
    import torch

    folder, model, library = bert
    lm = tlx.load(folder)
    assert lm.config.objective.name == "classification" and lm.config.objective.frame == "tokenizer"
    for text, answer in zip(TEXTS, lm.predict(TEXTS), strict=True):
        wanted = torch.softmax(theirs(model, library.encode(text)).logits[0], 0).numpy()
        assert answer["label"] == LABELS[int(wanted.argmax())]
        assert answer["probability"] == pytest.approx(wanted.max(), abs=1e-4)
    pairs = tlx.load(folder, task="pair_classification")
    answer = pairs.predict({"premise": TEXTS[0], "hypothesis": TEXTS[1]})
    wanted = torch.softmax(theirs(model, library.encode(TEXTS[0], TEXTS[1])).logits[0], 0).numpy()
    assert answer["probability"] == pytest.approx(wanted.max(), abs=1e-4)
    with pytest.raises(ConfigError, match="fine-tuned for classification; use predict"):
        lm.logits([5, 6])
    assert main(["convert", "import", str(folder), str(tmp_path / "run"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "heads: heads/classification" in out and "classification: largest difference" in out
    assert main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    assert "BertForSequenceClassification of the family bert" in capsys.readouterr().out
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert new["id2label"] == old["id2label"] and new["architectures"] == old["architectures"]
    assert main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "body"), "--without-head"]) == 0
    assert "BertModel" in capsys.readouterr().out


def changed(folder, target, **values):
    """Copy a directory with other values in its config.json."""
    import shutil

    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return target


def test_several_labels_and_mistakes_of_a_config(bert, tmp_path):
    folder, model, library = bert
    many = tlx.load(changed(folder, tmp_path / "many", problem_type="multi_label_classification"))
    wanted = theirs(model, library.encode(TEXTS[0])).logits[0].sigmoid().numpy()
    found = many.predict(TEXTS[0])["probabilities"]
    np.testing.assert_allclose([found[name] for name in LABELS.values()], wanted, atol=1e-4)
    with pytest.raises(ConfigError, match="problem_type = 'regression' with 3 outputs"):
        open_folder(changed(folder, tmp_path / "a", problem_type="regression"))
    with pytest.raises(ConfigError, match="id2label = .* names two outputs alike"):
        open_folder(changed(folder, tmp_path / "b", id2label={"0": "x", "1": "x", "2": "y"}))
    with pytest.raises(DataError, match=r"classifier.weight has shape \(3, 24\), the model needs \(2, 24\)"):
        open_folder(changed(folder, tmp_path / "c", id2label={"0": "x", "1": "y"}))
    with pytest.raises(DataError, match="config.json names the class BertForMultipleChoice, tlx reads"):
        open_folder(changed(folder, tmp_path / "d", architectures=["BertForMultipleChoice"]))
    with pytest.raises(ConfigError, match="task = 'chat' is not one of: classification, pair_classification"):
        tlx.load(folder, task="chat")
    assert open_folder(changed(folder, tmp_path / "e", id2label=None)).task_head.labels == (
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kind",
    [
        ("RobertaForSequenceClassification", "roberta"),
        ("BartForSequenceClassification", "roberta"),
        ("T5ForSequenceClassification", "t5"),
        ("GPT2ForSequenceClassification", "gpt2"),
        ("LlamaForSequenceClassification", "roberta"),
    ],
)
def test_a_number_is_predicted_in_the_tokenizers_own_form(name, kind, tmp_path):
    """One output is a number: of a text (regression) and of a pair (similarity)."""
    library = tokenizer(tmp_path, kind)
    ids = {"pad_token_id": library.token_to_id("<pad>"), "eos_token_id": library.token_to_id("</s>")}
    changes = {"vocab_size": library.get_vocab_size(), "num_labels": 1, **ids}
    if kind == "t5" or name.startswith("Bart"):
        changes["decoder_start_token_id"] = ids["pad_token_id"]
    if name.startswith("Roberta"):
        changes["max_position_embeddings"] = 40 + ids["pad_token_id"]
    case = CASES[name]
    config = {key: value for key, value in case.config.items() if key not in changes}
    import torch
    import transformers

    model = getattr(transformers, name)(
        getattr(transformers, case.config_class)(**copy.deepcopy(config | changes))
    ).eval()
    model.save_pretrained(tmp_path)
    lm = tlx.load(tmp_path)
    assert lm.config.objective.name == "regression"
    for text, answer in zip(TEXTS, lm.predict(TEXTS), strict=True):
        with torch.no_grad():
            wanted = model(torch.tensor([library.encode(text).ids])).logits[0, 0]
        assert answer["score"] == pytest.approx(float(wanted), abs=1e-4)
    pair = tlx.load(tmp_path, task="similarity").predict({"sentence1": TEXTS[0], "sentence2": TEXTS[1]})
    with torch.no_grad():
        wanted = model(torch.tensor([library.encode(TEXTS[0], TEXTS[1]).ids])).logits[0, 0]
    assert pair["score"] == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.slow
def test_answers_and_tags_in_the_tokenizers_own_form(tmp_path):
    """RoBERTa puts two ids between question and context: positions of words are counted with them."""
    import torch

    library = tokenizer(tmp_path / "span", "roberta")
    changes = {"vocab_size": library.get_vocab_size(), "pad_token_id": library.token_to_id("<pad>")}
    changes["max_position_embeddings"] = 40 + changes["pad_token_id"]
    model = task_cases.make(CASES["RobertaForQuestionAnswering"], **changes)
    model.save_pretrained(tmp_path / "span")
    record = {"question": "on what?", "context": "the cat sat on the mat"}
    answer = tlx.load(tmp_path / "span").predict(record)
    encoding = library.encode(record["question"], record["context"])
    with torch.no_grad():
        out = model(torch.tensor([encoding.ids]))
    inside = np.array([text == 1 for text in encoding.sequence_ids])
    sums = out.start_logits[0].numpy()[:, None] + out.end_logits[0].numpy()[None]
    order = np.arange(len(inside))
    legal = inside[:, None] & inside[None] & (order[:, None] <= order[None])
    best = np.unravel_index(np.where(legal, sums, -np.inf).argmax(), sums.shape)
    begin, end = encoding.offsets[best[0]][0], encoding.offsets[best[1]][1]
    assert answer["answer"] == record["context"][begin:end].strip()
    assert answer["score"] == pytest.approx(sums[best], abs=1e-3)

    tokenizer(tmp_path / "tags", "roberta")
    model = task_cases.make(CASES["RobertaForTokenClassification"], **changes)
    model.save_pretrained(tmp_path / "tags")
    words = ["the", "cat", "sat"]
    tags = tlx.load(tmp_path / "tags").predict({"tokens": words})["tags"]
    encoding = library.encode(" ".join(words))
    with torch.no_grad():
        best = model(torch.tensor([encoding.ids])).logits[0].argmax(-1).tolist()
    firsts = [next(i for i, (a, b) in enumerate(encoding.offsets) if b > start) for start in (0, 4, 8)]
    assert tags == [LABELS[best[i]] for i in firsts]


def test_a_head_that_no_class_has_says_what_differs():
    from tlx.hub.task_head import TaskHead, choose_class
    from tlx.models.families import TABLE
    from tlx.models.heads import TaskHeadConfig

    def choose(family, **shape):
        found = TABLE.load(family)
        head = TaskHead(
            "classification", "sequence", ("a", "b"), TaskHeadConfig(**shape), mean=family == "bert"
        )
        return choose_class(found, found.base, head)

    with pytest.raises(
        ConfigError, match="has 'relu' where objective.head.activation = 'tanh'; fine-tune with"
    ):
        choose("distilbert")
    assert choose("distilbert", activation="relu")[0] == "DistilBertForSequenceClassification"
    with pytest.raises(ConfigError, match="has False where objective.head.bias = True; fine-tune with"):
        choose("llama")
    assert choose("llama", bias=False)[0] == "LlamaForSequenceClassification"
    with pytest.raises(ConfigError, match="reads one position, the head the mean over the text"):
        choose("bert")
    with pytest.raises(ConfigError, match="it has no class with a head for classification"):
        choose("pegasus")


@pytest.mark.slow
def test_a_model_fine_tuned_here_predicts_the_same_there(bert, tmp_path, capsys):
    """A run of tlx's own rows, exported: the class and the tokenizer's template give its probabilities."""
    import torch
    import transformers

    folder, _, library = bert
    rows = [{"text": text, "label": str(index % 2)} for index, text in enumerate(TEXTS * 8)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.py").write_text(
        "from tlx.run import finetune_config\n\n\ndef get_config(arg=''):\n"
        "    config = finetune_config('classification')\n"
        f"    config.data.records.train = ({str(tmp_path / 'r.jsonl')!r},)\n"
        f"    config.data.records.validation = ({str(tmp_path / 'r.jsonl')!r},)\n"
        "    config.data.sequence_length = 24\n    config.train.batch_size = 8\n"
        "    config.data.records.epochs = 0.0\n    config.train.steps = 2\n"
        "    config.optimizer.learning_rate = 1e-2\n    config.eval.final = False\n    return config\n"
    )
    words = [
        "finetune",
        f"--config={tmp_path / 'task.py'}",
        f"--from={folder}",
        "--config.log.tensorboard=False",
    ]
    assert main([*words, f"--workdir={tmp_path / 'run'}"]) == 0
    assert main(["convert", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == {0: "0", 1: "1"}
    for text, answer in zip(TEXTS, tlx.load(tmp_path / "run").predict(TEXTS), strict=True):
        wanted = torch.softmax(theirs(model, library.encode(text)).logits[0], 0).numpy()
        assert answer["label"] == str(wanted.argmax())
        assert answer["probability"] == pytest.approx(wanted.max(), abs=1e-4)
    mean = [*words, f"--workdir={tmp_path / 'mean'}", "--config.objective.pooling=mean"]
    assert main(mean) == 0
    capsys.readouterr()
    assert main(["convert", "export", str(tmp_path / "mean"), str(tmp_path / "no")]) == 64
    assert "reads one position, the head the mean over the text" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
