"""A process in which a model of transformers trains or generates in PyTorch on request.

Started as a script. Argument 1 is JSON: the work ("step", a train step, "generate" or "sample") and the model, either
the sizes of a GPT-2, or a `config` with its `kind`, which is compiled on a GPU; `compiled` decides otherwise. Each
line of the standard input says how often to do the work; each answer is a line of JSON. It imports nothing of tlx, so
that no JAX backend starts here.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Answer {"parameters", "how"} at the start, then {} after each request."""
    import torch
    import transformers

    shape = json.loads(sys.argv[1])
    device = shape["device"]
    transformers.logging.set_verbosity_error()
    build = _from_config if "config" in shape else _gpt2
    model = build(transformers, shape).to(device)
    config = model.config
    is_compiled = shape.get("compiled", "config" in shape and device == "cuda")
    if is_compiled:
        model = torch.compile(model)
    tokens = torch.randint(0, shape["vocab"], (shape["batch"], shape["length"]), device=device)
    labels = tokens[:, : shape.get("decoder_length") or None].contiguous()
    work = {"step": _step, "generate": _generation, "sample": _sampling}[shape["work"]](
        torch, model, tokens, labels
    )
    how = f"torch {torch.__version__}, transformers {transformers.__version__}, {config._attn_implementation}"
    how += ", compiled" if is_compiled else ""
    count = sum(parameter.numel() for parameter in model.parameters())
    _answer({"parameters": count, "how": f"{how}, {torch.get_num_threads()} threads"})
    for line in sys.stdin:
        for _ in range(int(line)):
            work()
        _answer({})


_CLASSES = {
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForMaskedLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
}


def _from_config(transformers: Any, shape: dict[str, Any]) -> Any:
    """Return the model of a Hugging Face config with random weights."""
    values = dict(shape["config"])
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    config.use_cache = False
    if shape["kind"] == "encoder_decoder":
        config.decoder_start_token_id = 0
        config.pad_token_id = 0
    return getattr(transformers, _CLASSES[shape["kind"]]).from_config(config)


def _gpt2(transformers: Any, shape: dict[str, Any]) -> Any:
    """Return a GPT-2 of these sizes with random weights."""
    config = transformers.GPT2Config(
        vocab_size=shape["vocab"],
        n_positions=shape["length"],
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=max(1, shape["width"] // 64),
        use_cache=shape["work"] in ("generate", "sample"),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=None,  # no answer ends early
        pad_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def _step(torch: Any, model: Any, tokens: Any, labels: Any) -> Callable[[], None]:
    """Return a function that does a train step of AdamW and blocks."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=tokens.is_cuda)

    def step() -> None:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
            loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def _generation(torch: Any, model: Any, tokens: Any, labels: Any) -> Callable[[], None]:
    """Return a function that continues the first half of each row by greedy decoding."""
    del labels
    return _continuation(torch, model, tokens, {"do_sample": False})


def _sampling(torch: Any, model: Any, tokens: Any, labels: Any) -> Callable[[], None]:
    """Return a function that continues the first half of each row by draws of the model's own distribution."""
    del labels
    return _continuation(torch, model, tokens, {"do_sample": True, "top_k": 0, "temperature": 1.0})


def _continuation(torch: Any, model: Any, tokens: Any, settings: dict[str, Any]) -> Callable[[], None]:
    """Return a function that continues the first half of each row by transformers.generate."""
    model = model.eval().to(torch.bfloat16 if tokens.is_cuda else torch.float32)
    half = tokens.shape[1] // 2
    prompt = tokens[:, :half]

    def generate() -> None:
        rows = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=half, **settings
        )
        assert rows.shape == (len(tokens), 2 * half)

    return generate


def _answer(value: dict) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
