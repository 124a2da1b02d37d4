"""ELMo's released files: the numbers of the released code, and what does not fit."""

import json
import shutil

import jax
import numpy as np
import pytest

import tlx
from tests.shared_data import SHARED_DATA
from tlx.base import tree
from tlx.base.errors import ConfigError, DataError
from tlx.cli import main
from tlx.hub import elmo
from tlx.models.bilstm import BiLSTM

h5py = pytest.importorskip("h5py", reason="needs h5py (pip install 'tlx-lm[elmo]')")
pytest.importorskip("tokenizers")
FIXTURE = SHARED_DATA / "elmo_fixture"
OPTIONS = {
    "lstm": {
        "cell_clip": 3, "use_skip_connections": True, "n_layers": 2, "proj_clip": 3, "projection_dim": 4, "dim": 6,
    },
    "char_cnn": {
        "embedding": {"dim": 3}, "filters": [[1, 2], [2, 5]], "n_highway": 1, "n_characters": 262,
        "max_characters_per_token": 8, "activation": "relu",
    },
}  # fmt: skip
WORDS = ("the", "</S>", "<S>", "cat", "고양이")


def released(folder, options=OPTIONS, words=WORDS, without=""):
    """A folder in the released layout, with drawn weights."""
    folder.mkdir()
    (folder / "tiny_options.json").write_text(json.dumps(options))
    (folder / "vocab-tiny.txt").write_text("".join(f"{word}\n" for word in words))
    shapes = {"char_embed": (261, 3), "CNN/W_cnn_0": (1, 1, 3, 2), "CNN/W_cnn_1": (1, 2, 3, 5)}
    shapes |= {"CNN/b_cnn_0": (2,), "CNN/b_cnn_1": (5,), "CNN_proj/W_proj": (7, 4), "CNN_proj/b_proj": (4,)}
    shapes |= {f"CNN_high_0/W_{name}": (7, 7) for name in ("carry", "transform")}
    shapes |= {f"CNN_high_0/b_{name}": (7,) for name in ("carry", "transform")}
    for cell in ("RNN_0/RNN/MultiRNNCell/Cell0", "RNN_0/RNN/MultiRNNCell/Cell1"):
        for path in (cell, cell.replace("RNN_0", "RNN_1")):
            shapes |= {f"{path}/LSTMCell/W_0": (8, 24), f"{path}/LSTMCell/B": (24,)}
            shapes |= {f"{path}/LSTMCell/W_P_0": (6, 4)}
    rng = np.random.default_rng(0)
    with h5py.File(folder / "tiny_weights.hdf5", "w") as file:
        for name, shape in shapes.items():
            if name != without:
                file[name] = rng.normal(size=shape).astype(np.float32)
    return folder


@pytest.mark.slow
def test_three_sentences_as_the_released_code_has_them():
    """Both directions go on from the states of the sentence before; all 30 sentences by hand: 6e-7."""
    if not FIXTURE.exists():
        pytest.skip(f"no {FIXTURE}")
    config = elmo.read_config(FIXTURE)
    params = tree.unflatten(elmo.read_params(FIXTURE, config))["model"]
    from tlx.text.characters import TEXT_BEGIN, TEXT_END, spell

    sentences = json.loads((FIXTURE / "lm_embeddings_sentences.json").read_text())[0][:3]
    frame = spell(b"x", 50)
    begin, end = (np.where(frame == ord("x"), mark, frame) for mark in (TEXT_BEGIN, TEXT_END))
    states = None
    carried = []
    run = jax.jit(
        lambda batch, states: BiLSTM(config).apply({"params": params}, batch, states, method="with_states")
    )
    with h5py.File(FIXTURE / "lm_embeddings_0.hdf5") as wanted:
        for number, sentence in enumerate(sentences):
            rows = np.stack([begin, *(spell(word.encode(), 50) for word in sentence.split()), end])[None]
            batch = {"characters": rows, "segments": np.ones(rows.shape[:2], np.int32)}
            layers, states = run(batch, states)
            # Stored: the last layer of each direction, without the marks.
            last = np.asarray(layers)[-1, 0, 1:-1]
            halves = np.stack(np.split(last, 2, axis=-1))
            np.testing.assert_allclose(halves, wanted[str(number)], atol=6e-7)
            carried.append(states)
    assert np.abs(carried[0].backward.hidden).max() > 0


@pytest.mark.slow
def test_an_imported_folder_is_read_by_tasks(tmp_path):
    folder = released(tmp_path / "elmo")
    assert main(["convert", "import", str(folder), str(tmp_path / "run")]) == 0
    lm = tlx.load(tmp_path / "run")
    assert lm.config.model.recurrent.skip_connections and lm.num_params == sum(
        leaf.size for leaf in jax.tree.leaves(lm.params)
    )
    ids = lm.tokenizer.encode("the 고양이 sat")
    assert [lm.tokenizer.piece(i) for i in ids] == ["the", "고양이", "<UNK>"]
    table = lm._characters
    assert table.shape[1] == 8 and bytes(table[ids[1]][1:7].astype(np.uint8)) == "고양".encode()
    assert table[lm.tokenizer.vocab.bos][1] == 256 and table[lm.tokenizer.vocab.eos][1] == 257
    np.testing.assert_allclose(tlx.load(folder).embed(["the cat"]), lm.embed(["the cat"]), rtol=1e-6)
    kernel = np.asarray(tree.flatten(lm.params)["model/backward/blocks/recurrent"])
    with h5py.File(folder / "tiny_weights.hdf5") as file:
        theirs = file["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"][4:]
    np.testing.assert_array_equal(kernel[1].reshape(4, 24), theirs)


def test_what_does_not_fit_is_named(tmp_path):
    folder = released(tmp_path / "missing", without="CNN_proj/b_proj")
    with pytest.raises(DataError, match="CNN_proj/b_proj is missing"):
        tlx.load(folder)
    wide = OPTIONS | {"lstm": OPTIONS["lstm"] | {"dim": 5}}
    with pytest.raises(DataError, match=r"W_0 has the shape \(8, 24\), the options say \(8, 20\)"):
        tlx.load(released(tmp_path / "wide", wide))
    tanh = OPTIONS | {"char_cnn": OPTIONS["char_cnn"] | {"activation": "tanh"}}
    with pytest.raises(ConfigError, match="activation = 'tanh'"):
        tlx.load(released(tmp_path / "tanh", tanh))
    with pytest.raises(DataError, match="</S> is missing"):
        tlx.load(released(tmp_path / "words", words=("<S>", "a")))
    with pytest.raises(DataError, match="lstm"):
        tlx.load(released(tmp_path / "options", {"char_cnn": {}}))
    shutil.copy(folder / "tiny_options.json", folder / "other_options.json")
    with pytest.raises(DataError, match="one file .*options.json is needed"):
        tlx.load(folder)
