"""A process of its own in which transformers' GPT-2 works in eager PyTorch when told to.

Started by eager.py as a script: argument 1 is the shape and the work ("step", a train step, or "generate")
as JSON, each line of the standard input how often to do it; each answer a line of JSON. It imports nothing
of tlx, so that no JAX backend wakes up here.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Answers {"parameters", "how"} first, then an empty line's worth of JSON after each request."""
    import torch
    import transformers

    shape = json.loads(sys.argv[1])
    device = shape["device"]
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=shape["vocab"], n_positions=shape["length"], n_embd=shape["width"],
        n_layer=shape["layers"], n_head=max(1, shape["width"] // 64), use_cache=shape["work"] == "generate",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).to(device)
    tokens = torch.randint(0, shape["vocab"], (shape["batch"], shape["length"]), device=device)
    work = {"step": _step, "generate": _generation}[shape["work"]](torch, model, tokens)
    how = f"torch {torch.__version__}, transformers {transformers.__version__}, {config._attn_implementation}"
    count = sum(parameter.numel() for parameter in model.parameters())
    _answer({"parameters": count, "how": f"{how}, {torch.get_num_threads()} threads"})
    for line in sys.stdin:
        for _ in range(int(line)):
            work()
        _answer({})


def _step(torch: Any, model: Any, tokens: Any) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def step() -> None:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def _generation(torch: Any, model: Any, tokens: Any) -> Callable[[], None]:
    """Greedy, the second half of each row behind its first."""
    model = model.eval().to(torch.bfloat16 if tokens.is_cuda else torch.float32)
    half = tokens.shape[1] // 2
    prompt = tokens[:, :half]

    def generate() -> None:
        found = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=half
        )
        assert found.shape == (len(tokens), 2 * half)

    return generate


def _answer(value: dict) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
