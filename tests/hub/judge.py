"""The other side of a case: the class in `transformers`, with drawn weights, on the same inputs."""

import re

import numpy as np
import torch
import transformers

from tests.hub.case import Case, draw


def make(case: Case):
    """The class with its weights drawn, in eager attention, without dropout."""
    config = getattr(transformers, case.config_class)(**case.config)
    config._attn_implementation = "eager"
    model = settled(case, getattr(transformers, case.architecture)(config).eval())
    if case.untied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    seen = set()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            fixed = not value.is_floating_point() or value.data_ptr() in seen or re.search(case.keep, name)
            seen.add(value.data_ptr())
            if not fixed:
                value.copy_(torch.from_numpy(draw(name, tuple(value.shape))))
    return model


def settled(case: Case, model):
    """The model, untied where its class insists on a tie in its config."""
    if case.untied:
        model.config.tie_word_embeddings = False
    return model


def run(case: Case, model, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{our name: array} of the outputs that the case compares."""
    whole = {name: value for name, value in made.items() if name != "memory"}
    tensors = {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in whole.items()}
    if case.inputs == "encoder_decoder":
        arguments = {
            "input_ids": tensors["source_tokens"],
            "attention_mask": tensors["source_mask"],
            "decoder_input_ids": tensors["tokens"],
            "decoder_attention_mask": tensors["mask"],
        }
    else:
        arguments = {"input_ids": tensors["tokens"], "attention_mask": tensors["mask"]}
        if case.inputs == "decoder" and case.padding == "left":
            arguments["position_ids"] = (tensors["mask"].cumsum(1) - 1).clamp(min=0)
    if case.inputs == "two_stream":
        arguments |= _order(made)
    if "types" in made:
        arguments["token_type_ids"] = tensors["types"]
    if "langs" in made:
        arguments["langs"] = tensors["langs"]
    with torch.no_grad():
        found = model(**arguments, output_hidden_states=True)
    values = {ours: found[theirs] for ours, theirs in case.outputs.items()}
    values = {name: v[-1] if isinstance(v, tuple) else v for name, v in values.items()}
    if case.inputs == "two_stream":  # where the two streams come in turn
        values["hidden"] = found["hidden_states"][-2]
    return {name: value.numpy() for name, value in values.items()}


def _order(made: dict[str, np.ndarray]) -> dict:
    """The order as XLNet's mask of what is not visible, the targets as rows of ones, the memory by layer."""
    hidden = made["query_rank"][:, :, None] <= made["rank"][:, None, :]
    one_hot = np.eye(made["rank"].shape[1], dtype=np.float32)[made["target_positions"]]
    return {
        "perm_mask": torch.from_numpy(hidden.astype(np.float32)),
        "target_mapping": torch.from_numpy(one_hot),
        "mems": [torch.from_numpy(m.swapaxes(0, 1).copy()) for m in made["memory"].swapaxes(0, 1)],
        "use_mems": True,
    }
