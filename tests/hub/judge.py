"""The other side of a case: the class in `transformers`, with drawn weights, on the same inputs."""

import copy
import re

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from tests.hub.case import Case, draw
from tests.hub.generation import LENGTH_PENALTY, MAX_TOKENS, NUM_BEAMS, START


def make(case: Case):
    """The class with its weights drawn, in eager attention, without dropout."""
    # A copy: some classes write into the groups that they are given, which other cases share.
    config = getattr(transformers, case.config_class)(**copy.deepcopy(case.config))
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
    arguments = _arguments(case, made)
    with torch.no_grad():
        found = model(**arguments, output_hidden_states=True)
    values = {ours: found[theirs] for ours, theirs in case.outputs.items()}
    values = {name: v[-1] if isinstance(v, tuple) else v for name, v in values.items()}
    if case.inputs == "two_stream":  # where the two streams come in turn
        values["hidden"] = found["hidden_states"][-2]
    return {name: value.numpy() for name, value in values.items()}


def _arguments(case: Case, made: dict[str, np.ndarray]) -> dict:
    """What the class is called with."""
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
    return arguments


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


def generate(case: Case, model, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{"eos": an id that ends some rows early, "greedy", "beam": [B, N] new tokens}."""
    tensors = {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in made.items()}
    if case.inputs == "encoder_decoder":
        arguments = {
            "input_ids": tensors["source_tokens"],
            "attention_mask": tensors["source_mask"],
            "decoder_input_ids": tensors["tokens"],
        }
    else:
        arguments = {"input_ids": tensors["tokens"], "attention_mask": tensors["mask"]}
    width = made["tokens"].shape[1]

    def run(eos: int | None, **options) -> np.ndarray:
        model.generation_config = transformers.GenerationConfig(
            pad_token_id=model.config.pad_token_id or 0,
            eos_token_id=eos,
            decoder_start_token_id=START,
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            use_cache=case.inputs == "decoder",  # T5's wants as many layers as the encoder
            **options,
        )
        with torch.no_grad():
            return model.generate(**arguments)[:, width:].numpy()

    beams = {"num_beams": NUM_BEAMS, "length_penalty": LENGTH_PENALTY}
    tokens, counts = np.unique(run(None, **beams)[:, 2:], return_counts=True)
    eos = int(tokens[counts.argmax()])
    return {"eos": np.array(eos), "greedy": run(eos), "beam": run(eos, **beams)}


def loss_and_gradients(case: Case, model, made: dict[str, np.ndarray], labels: dict[str, np.ndarray], folder):
    """The class's own loss on `labels`; its gradients are written as the tensors of a checkpoint."""
    arguments = {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in labels.items()}
    model.zero_grad()
    loss = model(**_arguments(case, made), **arguments).loss
    loss.backward()
    gradients = {id(value): value.grad for value in model.parameters()}
    named = {name: gradients.get(id(value)) for name, value in model.named_parameters(remove_duplicate=False)}
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    zero = {name: torch.zeros_like(value) for name, value in tensors.items()}
    found = {name: named[name] for name in tensors if named.get(name) is not None}
    save_file(
        zero | {name: value.contiguous() for name, value in found.items()}, folder / "model.safetensors"
    )
    assert len(found) > 0.9 * len(tensors)
    return float(loss)
