"""Records what the classes of `transformers` give, for the tests that run without torch.

    python tests/hub/record.py [CASE ...]

Needs torch and transformers. Weights are drawn by name, so that only names, shapes and outputs are kept.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.hub import generation, judge  # noqa: E402
from tests.hub.case import draw, inputs  # noqa: E402
from tests.hub.cases import CASES  # noqa: E402
from tlx.hub import safetensors  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / "recorded"


def record(name: str) -> None:
    """Writes recorded/NAME.npz."""
    case = CASES[name]
    model = judge.make(case)
    made = inputs(case, model.config.vocab_size, model.config.pad_token_id or 0)
    found = judge.run(case, model, made)
    if case.small:
        output = list(found)[-1]
        found = {output: found[output][:2]}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(pathlib.Path(folder, "config.json").read_text())
        tensors = safetensors.Tensors(folder)
        shapes = {key: list(tensors[key].shape) for key in tensors}
        plain = {key: tensors[key].copy() for key in tensors}

    kept = {f"kept/{key}": v for key, v in plain.items() if not np.array_equal(v, draw(key, v.shape))}
    # Copies of tied weights have another name than what was drawn: keep which.
    meta = json.dumps({"config": config, "shapes": shapes})
    arrays = {f"inputs/{key}": value for key, value in made.items()}
    arrays |= {f"outputs/{key}": value.astype(np.float32) for key, value in found.items()}
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", meta=np.array(meta), **arrays, **kept)
    print(name, sum(map(np.size, kept.values())), "scalars kept")
    if name in generation.NAMES:
        made = generation.prompts(case, model.config.pad_token_id or 0)
        tokens = judge.generate(case, model, made)
        small = {f"inputs/{key}": value.astype(np.int16) for key, value in made.items()}
        small |= {f"outputs/{key}": value.astype(np.int16) for key, value in tokens.items()}
        np.savez_compressed(FOLDER / f"{name}.generation.npz", **small)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CASES:
        record(wanted)
