"""Parity and round trip against the classes of `transformers` themselves, where torch is installed."""

import dataclasses
import importlib.util
import json
import re

import jax
import numpy as np
import optax
import pytest

import tlx
from tests.hub import generation
from tests.hub.case import TOLERANCE, difference, inputs, network_and_inputs, run, visible
from tests.hub.cases import CASES
from tests.make_golden_run import FOLDER, unpack
from tests.models.families import test_sizes
from tlx.base import tree
from tlx.cli import main
from tlx.hub import config_file
from tlx.hub.folder import open_folder, save_folder
from tlx.models.families import TABLE

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)


# Of the families since GPT-J one case each is compared in CI; the others are compared by hand.
SECOND = [
    name
    for name, case in CASES.items()
    if case.small
    and name != next(other for other, same in CASES.items() if same.architecture == case.architecture)
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in SECOND else name for name in CASES]
)
def test_logits_and_round_trip(name, tmp_path):
    import torch
    import transformers

    from tests.hub import judge

    case = CASES[name]
    model = judge.make(case)
    made = inputs(case, model.config.vocab_size, model.config.pad_token_id or 0)
    wanted = judge.run(case, model, made)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = open_folder(tmp_path / "theirs", ignore=case.ignore)
    found = run(checkpoint, made)
    for output, values in wanted.items():
        assert difference(found[output], values, visible(output, made)) < TOLERANCE, output
    special = {key: value for key, value in checkpoint.raw.items() if key.endswith("token_id")}
    save_folder(tmp_path / "ours", checkpoint.family, checkpoint.config, checkpoint.read(), special=special)
    again, info = getattr(transformers, case.architecture).from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    after = again.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(after[key], value), key
    for output, values in judge.run(case, judge.settled(case, again.eval()), made).items():
        assert difference(values, wanted[output], visible(output, made)) < TOLERANCE / 10, output


@pytest.mark.parametrize("name", ["llama-3", "gpt2", "t5", "bart"])
def test_tied_tensors_that_save_model_stores_once(name, tmp_path):
    from safetensors.torch import save_model

    from tests.hub import judge

    model = judge.make(CASES[name])
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"))
    table = open_folder(tmp_path).params["model/embedding/table"].read()[: model.config.vocab_size]
    np.testing.assert_array_equal(table, model.get_input_embeddings().weight.detach().numpy())


@pytest.mark.parametrize("name", ["t5-1.1", "mt5", "umt5"])
def test_untied_kernel_as_current_classes_write_it(name, tmp_path):
    import torch

    from tests.hub import judge

    model = judge.make(dataclasses.replace(CASES[name], untied=False))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    checkpoint = open_folder(tmp_path)
    assert not checkpoint.config.head.tied
    assert checkpoint.config.head.scale == getattr(model.config, "scale_decoder_outputs", False)
    kernel = checkpoint.params["model/output/kernel"].read()[: model.config.vocab_size]
    np.testing.assert_array_equal(kernel, model.lm_head.weight.detach().numpy())


@pytest.mark.parametrize(
    "name", [*generation.NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in generation.SINCE)]
)
def test_generation(name, tmp_path):
    from tests.hub import judge

    case = CASES[name]
    model = judge.make(case)
    made = generation.prompts(case, model.config.pad_token_id or 0)
    wanted = judge.generate(case, model, made)
    model.save_pretrained(tmp_path)
    eos = int(wanted.pop("eos"))
    found = generation.ours(open_folder(tmp_path, ignore=case.ignore), made, eos)
    assert found == {way: generation.cut(rows, eos) for way, rows in wanted.items()}


def labels_of(case, made):
    """(the class's labels, our {output: (labels, weights)}) of one model of each shape."""
    rng = np.random.default_rng(3)
    shape = made["target_positions" if case.inputs == "two_stream" else "tokens"].shape
    tokens = rng.integers(5, 61, shape)
    if case.inputs == "two_stream":
        return {"labels": tokens}, {"logits": (tokens, np.ones(shape))}
    seen = made["mask"] * (rng.random(shape) < 0.6)
    theirs = {"labels": np.where(seen > 0, tokens, -100)}
    if case.inputs == "decoder":  # the class moves them by one itself
        return theirs, {
            "logits": (
                np.roll(tokens, -1, axis=1),
                np.roll(seen, -1, axis=1) * (np.arange(shape[1]) < shape[1] - 1),
            )
        }
    if case.inputs == "encoder":
        pairs = rng.integers(0, 2, len(tokens))
        return theirs | {"next_sentence_label": pairs}, {
            "mlm": (tokens, seen),
            "nsp": (pairs, np.ones(len(pairs))),
        }
    return theirs, {"logits": (tokens, seen)}


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "bart", "xlnet"])
def test_loss_and_gradients(name, tmp_path):
    from tests.hub import judge

    case = CASES[name]
    model = judge.make(case)
    made = inputs(case, model.config.vocab_size, model.config.pad_token_id or 0)
    theirs, wanted_by = labels_of(case, made)
    model.save_pretrained(tmp_path / "theirs")
    wanted_loss = judge.loss_and_gradients(case, model, made, theirs, tmp_path / "gradients")
    wanted = tree.flatten(open_folder(tmp_path / "gradients", ignore=case.ignore).read())
    checkpoint = open_folder(tmp_path / "theirs", ignore=case.ignore)
    module, *given = network_and_inputs(checkpoint, made)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        outputs = module.apply({"params": params}, *given)
        total = 0.0
        for output, (labels, weights) in wanted_by.items():
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs[output], labels)
            total += (losses * weights).sum() / weights.sum()
        return total

    found_loss, gradients = loss(checkpoint.read())
    np.testing.assert_allclose(found_loss, wanted_loss, rtol=1e-3)
    found = tree.flatten(gradients)
    assert set(found) == set(wanted)
    scale = max(np.abs(value).max() for value in wanted.values())
    if name == "bart":  # there the output's bias is no parameter
        assert not wanted.pop("model/output/bias").any()
    for path, value in wanted.items():
        floor = max(np.abs(value).max(), 1e-4 * scale)
        assert np.abs(found[path] - value).max() <= 1e-3 * floor, path


def test_export_of_a_run_loads_with_its_tokenizer(tmp_path):
    import torch
    import transformers

    run = unpack(FOLDER / "format_1" / "clm.tar.xz", tmp_path / "run")
    assert main(["convert", "export", str(run), str(tmp_path / "out")]) == 0
    lm = tlx.load(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    text = "def main(args):\n    return 'ä고▁'\n"
    ids = tokenizer(text)["input_ids"]
    assert ids == [lm.tokenizer.vocab.bos, *lm.tokenizer.encode(text)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    found = lm.logits(ids)[0]
    vocab = lm.tokenizer.vocab
    assert np.abs(found[:, : vocab.size] - wanted[:, : vocab.size]).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("layout", ["t5", "albert", "xlnet", "xlm-roberta", "mbart"])
def test_sentencepiece_model_alone_tokenizes_as_transformers(layout, tmp_path):
    import transformers

    from tests.text.test_imported_sentencepiece import FAMILIES, train
    from tlx.text.imported_sentencepiece import LAYOUTS, ImportedSentencePiece

    file, options = FAMILIES[layout]
    (tmp_path / file).write_bytes(train(**options))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": layout}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = ImportedSentencePiece.from_folder(tmp_path, layout)
    before, behind = ours.frame
    if layout == "mbart":  # theirs is told the language of the source, English where nobody says
        behind = [*behind, ours.encode("en_XX")[-1]]
    texts = ["the cat sat on the mat", "It was 12, and old."]
    if not LAYOUTS[layout].tidy:  # theirs takes Hangul apart there and does not put it together again
        texts.append("고양이가 매트 위에")
    for text in texts:
        assert theirs(text)["input_ids"] == [*before, *ours.encode(text), *behind]
    assert len(theirs) == ours.vocab.size - ours.vocab.added


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "xlnet"])
def test_an_import_verifies_itself(name, tmp_path, capsys):
    from tests.hub import judge
    from tests.hub.folders import byte_pairs

    case = CASES[name]
    judge.make(case).save_pretrained(tmp_path / "theirs")
    byte_pairs(tmp_path / "theirs", 57)  # fewer than the model's 61 with what tlx adds
    words = ["convert", "import", str(tmp_path / "theirs"), str(tmp_path / "run"), "--verify"]
    assert main(words) == 0
    said = capsys.readouterr().out
    found = re.findall(r"(\S+): largest difference (\S+) of (\S+)", said)
    assert found, said
    for _, largest, scale in found:
        assert float(largest) < TOLERANCE * float(scale)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({row[0] for row in test_sizes.rows(test_sizes.SINCE)}))
def test_sizes_are_those_of_the_class_without_memory(name):
    """Every size of a family, written as config.json, counted in the class on torch's device "meta"."""
    import torch
    import transformers

    family = TABLE.load(name)
    for _, size, architecture, expected in (
        row for row in test_sizes.rows(test_sizes.SINCE) if row[0] == name
    ):
        values = config_file.write(family, family.sizes[size])
        config = transformers.AutoConfig.for_model(**values, model_type=family.model_type)
        with torch.device("meta"):
            model = getattr(transformers, architecture)(config)
        assert sum(value.numel() for value in model.parameters()) == int(expected), size


VISION = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}
# (case of the text model, the wrapper's class and config, the other keys of its config)
WITH_IMAGES = {
    "gemma3": (
        "gemma3",
        "Gemma3",
        {"vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 60},
    ),
    "gemma4": (
        "gemma4",
        "Gemma4",
        {"vision_config": VISION, "audio_config": None, "image_token_id": 58, "audio_token_id": 59},
    ),
    "gemma4 unified": (
        "gemma4-dense",
        "Gemma4Unified",
        {"vision_config": None, "audio_config": None, "image_token_id": 58, "audio_token_id": 59},
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", WITH_IMAGES)
def test_the_text_model_of_a_model_of_texts_and_images(name, tmp_path):
    """A wrapper's logits of texts; the export is the text model's class."""
    import torch
    import transformers

    from tests.hub import judge

    text_case, classes, others = WITH_IMAGES[name]
    text_config = dict(CASES[text_case].config)
    if classes == "Gemma4Unified":
        text_config = {key: value for key, value in text_config.items() if "per_layer_input" not in key}
    case = dataclasses.replace(
        CASES[text_case],
        architecture=f"{classes}ForConditionalGeneration",
        config_class=f"{classes}Config",
        config={"text_config": text_config, **others},
        padding="right",
    )
    model = judge.make(case)
    made = inputs(case, 50, 0)
    ids = torch.from_numpy(made["tokens"].astype(np.int64))
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=torch.from_numpy(made["mask"])).logits.numpy()
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = open_folder(tmp_path / "theirs")
    assert difference(run(checkpoint, made)["logits"], wanted, made["mask"]) < TOLERANCE
    save_folder(tmp_path / "ours", checkpoint.family, checkpoint.config, checkpoint.read())
    text_class = getattr(transformers, CASES[text_case].architecture)
    again, info = text_class.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        theirs = again.eval()(input_ids=ids, attention_mask=torch.from_numpy(made["mask"])).logits.numpy()
    assert difference(theirs, wanted, made["mask"]) < TOLERANCE
