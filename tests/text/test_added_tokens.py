"""Special tokens added to a tokenizer: in texts, on disk, in other programs, and in a fine-tuned model."""

import json
import pickle

import numpy as np
import pytest

import tlx
from tests.cli.test_finetune import SHORT, finetune, folder, params_of  # noqa: F401
from tests.hub import folders
from tests.run_directory import write_run
from tlx import cli
from tlx.base.errors import ConfigError
from tlx.text import TokenizerConfig, load_tokenizer, make_tokenizer
from tlx.text.added_tokens import AddedTokens, added_to
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer
from tlx.text.spans import encode_with_spans

NAMES = ("<user>", "<user>>", "[x]")
BYTES = TokenizerConfig(kind="bytes")
TEXT = "a<user>>b <user>é[x]"


def test_names_in_a_text_are_their_ids_and_the_rest_is_as_it_was():
    plain = make_tokenizer(BYTES, ())
    added = make_tokenizer(TokenizerConfig(kind="bytes", add=NAMES), ())
    first = plain.vocab.size
    assert added.vocab.size == first + 3 and added.vocab.special[first:].all()
    parts = [plain.encode("a"), [first + 1], plain.encode("b "), [first], plain.encode("é"), [first + 2]]
    assert added.encode(TEXT) == sum(parts, [])
    batch = added.encode_batch(["ab", TEXT, ""])
    assert [ids.tolist() for ids in batch] == [plain.encode("ab"), sum(parts, []), []]
    assert added.decode(added.encode(TEXT), keep_special=True) == TEXT
    assert added.decode(added.encode(TEXT)) == "ab é"
    assert added.count_bytes(TEXT) == 5 == added.num_bytes[added.encode(TEXT)].sum()
    ids, spans = encode_with_spans(added, TEXT)
    assert ids.tolist() == added.encode(TEXT)
    assert [TEXT[a:b] for a, b in spans if b - a > 1] == ["<user>>", "<user>", "[x]"]
    # Sentinels and roles are the same ids as before.
    assert added.vocab.sentinel(0) == plain.vocab.sentinel(0) and added.vocab.eos == plain.vocab.eos
    assert pickle.loads(pickle.dumps(added)).encode(TEXT) == added.encode(TEXT)


def test_it_is_saved_with_its_tokens_and_they_are_not_added_twice(tmp_path):
    added = make_tokenizer(TokenizerConfig(kind="bytes", add=NAMES), ())
    added.save(tmp_path / "a")
    again = make_tokenizer(TokenizerConfig(path=str(tmp_path / "a"), add=NAMES[1:]), ())
    assert again.hash == added.hash == load_tokenizer(tmp_path / "a").hash != make_tokenizer(BYTES, ()).hash
    assert again.encode(TEXT) == added.encode(TEXT)
    with pytest.raises(ConfigError, match="has a token '<mask>' already"):
        AddedTokens(make_tokenizer(BYTES, ()), ["<mask>"])
    with pytest.raises(ConfigError, match="must be there once"):
        TokenizerConfig(add=("<a>", "<a>")).validate()


def test_other_programs_read_the_same_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    folders.word_pieces(tmp_path / "hf")
    for name, inner in (
        ("hf", HuggingFaceTokenizer.from_folder(tmp_path / "hf")),
        ("bytes", make_tokenizer(BYTES, ())),
    ):
        added = AddedTokens(inner, NAMES)
        added.export(tmp_path / f"out-{name}", ([], []))
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / f"out-{name}" / "tokenizer.json"))
        text = "<user>the <user>>[x]" if name == "hf" else TEXT
        assert theirs.encode(text, add_special_tokens=False).ids == added.encode(text)
        assert theirs.get_vocab_size() == added.vocab.size


@pytest.mark.slow
def test_a_model_gets_rows_for_them_and_predicts_them(folder, tmp_path, capsys):  # noqa: F811
    base = write_run(tmp_path / "base", "clm")
    (folder / "generated.py").write_text(
        (folder / "task.py").read_text().replace("arg or", '"generation" or')
    )
    names = [f"<{i}>" for i in range(150)]  # more than the padding of the vocabulary
    words = [
        "source={text}",
        "target=<7>{label}",
        "target_length=8",
        "num_beams=0",
        "metrics=('exact_match',)",
    ]
    words = [f"--config.objective.{word}" for word in words]
    add = f"--config.tokenizer.add={tuple(names)!r}"
    start = [f"--config={folder / 'generated.py'}", f"--from={base}", add, *words]
    assert cli.main(["finetune", *start, f"--workdir={tmp_path / 'short'}", *SHORT]) == 0
    old, new = params_of(base), params_of(tmp_path / "short")
    rows = tlx.load(base).tokenizer.vocab.size
    lm = tlx.load(tmp_path / "short")
    table = new["model/embedding/table"]
    assert lm.config.model.vocab_size == lm.tokenizer.vocab.size == rows + 150
    assert len(table) > len(old["model/embedding/table"])
    np.testing.assert_allclose(table[:rows], old["model/embedding/table"][:rows], atol=1e-6)
    deviations = table[rows : rows + 150].std(axis=1)
    assert np.all(deviations > 0.2 * old["model/embedding/table"].std())
    assert cli.main(["finetune", *start, f"--workdir={tmp_path / 'run'}"]) == 0
    lm = tlx.load(tmp_path / "run")
    ids = lm.tokenizer.encode("<7>yes")
    assert ids[0] == rows + 7
    scores = lm.choose("aei", ["<7>yes", "<8>yes"])
    assert scores.best_index == 0 and scores.scores[0].log_likelihood > scores.scores[1].log_likelihood + 3
    lora = [*start, f"--workdir={tmp_path / 'lora'}", "--config.adapt.method=lora"]
    assert cli.main(["finetune", *lora]) == 64
    assert "needs rows that are trained: adapt.method = 'full'" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["tokenizer"]["add"] == names


@pytest.mark.parametrize("names", [("",), (" a",), ("<a>", "<a>")])
def test_what_is_no_name_is_refused_whoever_adds_it(names):
    with pytest.raises(ConfigError, match="must be there once, without white space around it"):
        added_to(make_tokenizer(BYTES, ()), names)
