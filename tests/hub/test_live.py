"""Parity and round trip against the classes of `transformers` themselves, where torch is installed."""

import importlib.util

import pytest

from tests.hub.case import TOLERANCE, difference, inputs, run, visible
from tests.hub.cases import CASES
from tlx.hub.folder import open_folder, save_folder

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)


@pytest.mark.parametrize("name", CASES)
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
