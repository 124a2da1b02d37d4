"""Parameters quantised in pieces are those quantised at once, and the host never holds more than a few tensors."""

import json
import math
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from tests.tiers import tiers
from tlx import cli
from tlx.base import tree
from tlx.checkpoint import load_params
from tlx.hub import to_devices
from tlx.hub.to_devices import pieces, read_quantized
from tlx.hub.weights import LazyTensor, lazy_tensor
from tlx.nn import weight_formats
from tlx.nn.weight_formats import ArrayFormat

pytest.importorskip("qwix")

CASES = {
    "matrices in int8": ((3, 24, 40), ArrayFormat("int8", (0, 2))),
    "heads in int8": ((2, 4, 8, 20), ArrayFormat("int8", (0, 3))),
    "a table": ((97, 16), ArrayFormat("int8", (0,))),
    "matrices in int4": ((3, 128, 6), ArrayFormat("int4", (0, 2), 1, 32)),
    "heads in nf4": ((2, 3, 32, 6), ArrayFormat("nf4", (0, 1, 3), 2, 16)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_pieces_cover_an_array_and_give_the_same_values(name, monkeypatch):
    shape, format = CASES[name]
    monkeypatch.setattr(to_devices, "PIECE_BYTES", 2048)
    counts = np.zeros(shape, np.int32)
    indices = list(pieces(shape, 4, format))
    for index in indices:
        counts[index] += 1
    assert (counts == 1).all() and len(indices) > 2
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = read_quantized(lazy_tensor(x), format)
    wanted = jax.jit(lambda x: weight_formats.quantize(x, format))(x)
    np.testing.assert_array_equal(found.qvalue, wanted.qvalue)
    np.testing.assert_array_equal(found.scale, wanted.scale)


def test_only_pieces_are_read(monkeypatch):
    """No slice that is asked for is larger than two pieces, and nothing is read twice."""
    monkeypatch.setattr(to_devices, "PIECE_BYTES", 4096)
    asked = []
    x = np.ones((4, 64, 64), np.float32)

    def read(index):
        asked.append(x[index].nbytes)
        return x[index]

    read_quantized(LazyTensor(x.shape, x.dtype, read), ArrayFormat("int8", (0, 2)))
    assert max(asked) <= 8192 and sum(asked) == x.nbytes


# The file is bfloat16: 8 layers, of which a tensor has at most 44 MB, and a table of 131 MB.
_PROGRAM = """
    import dataclasses, json, sys
    import numpy as np
    import tlx
    from tlx.base import tree
    from tlx.base.tree import is_quantized

    def memory(name):
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    small, large, weights = sys.argv[1:]
    # Everything is imported and compiled that a load needs, whatever the size of the model.
    warm = tlx.load(small, weights=weights)
    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    lm = tlx.load(large, weights=weights)
    print(json.dumps({
        "peak": memory("VmHWM") - before,
        "model": tree.num_bytes(lm.params),
        "qtypes": sorted({str(leaf.qtype) for leaf in tree.flatten(lm.params, is_quantized).values()
                          if is_quantized(leaf)}),
    }))
"""


def llama_folder(folder, width, num_layers, vocab_size):
    """A Hugging Face directory in bfloat16, written tensor by tensor; the bytes of its largest tensor."""
    import ml_dtypes

    from tlx.hub import config_file, safetensors
    from tlx.hub.folder import TABLE
    from tlx.hub.network import abstract_params
    from tlx.hub.weights import to_tensors
    from tlx.models.families.family import resized

    family = TABLE.load("llama")
    shape = {
        "width": width,
        "num_layers": num_layers,
        "vocab_size": vocab_size,
        "attention__num_heads": width // 64,
        "attention__num_kv_heads": width // 128,
        "feedforward__ff_dim": 11 * width // 4,
    }
    config = resized(family.base, **shape)
    block = np.random.default_rng(0).normal(size=2**20).astype(ml_dtypes.bfloat16)
    abstract = abstract_params(config)
    rows = [row for row in family.rows(config) if row.path in abstract]
    zeros = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in abstract.items()}
    tensors = {
        name: LazyTensor(tensor.shape, block.dtype, lambda _, shape=tensor.shape: np.resize(block, shape))
        for name, tensor in to_tensors(rows, zeros, config.vocab_size).items()
    }
    safetensors.write(folder, list(tensors.items()))
    values = config_file.write(family, config)
    values |= {"model_type": family.model_type, "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(values))
    return max(math.prod(tensor.shape) * 2 for tensor in tensors.values())


def peak_of_load(small, large, weights):
    """What _PROGRAM prints, on one device, as where a model is used."""
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(_PROGRAM), str(small), str(large), weights]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


needs_linux = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory is read from Linux"
)


@needs_linux
@pytest.mark.parametrize("weights", tiers(["int8", "nf4"], slow=["nf4"]))
def test_peak_memory_is_the_quantised_size_and_two_tensors(weights, tmp_path):
    llama_folder(tmp_path / "small", 256, 2, 512)
    largest = llama_folder(tmp_path / "large", 2048, 8, 32000)
    size = (tmp_path / "large/model.safetensors").stat().st_size
    assert 0.9e9 < size < 1.2e9
    found = peak_of_load(tmp_path / "small", tmp_path / "large", weights)
    print(found, size, largest)
    assert found["model"] < (0.55 if weights == "int8" else 0.35) * size
    assert found["peak"] <= found["model"] + 2 * largest


@pytest.mark.long
@pytest.mark.slow
@needs_linux
def test_so_is_that_of_a_run(tmp_path, capsys):
    """A run's tensors are those of all layers; the largest one is a table of 131 MB of 0.64 GB."""
    for name, shape in (("small", (256, 2, 512)), ("large", (2048, 4, 32000))):
        llama_folder(tmp_path / f"{name}-hf", *shape)
        words = ["convert", "import", str(tmp_path / f"{name}-hf"), str(tmp_path / name), "--dtype=bfloat16"]
        assert cli.main(words) == 0
    leaves = tree.flatten(load_params(tmp_path / "large").tree).values()
    size = sum(leaf.nbytes for leaf in leaves)
    largest = max(leaf.nbytes for leaf in leaves)
    assert size > 0.6e9 and largest < 0.21 * size
    found = peak_of_load(tmp_path / "small", tmp_path / "large", "nf4")
    with capsys.disabled():
        print(found, size, largest)
    assert found["model"] < 0.4 * size
    assert found["peak"] <= found["model"] + 2 * largest
