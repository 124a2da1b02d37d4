"""A process of its own that makes train steps of transformers' GPT-2 in eager PyTorch when told to.

Started by eager.py as a script: argument 1 is the shape as JSON, each line of the standard input a number
of steps; each answer a line of JSON. It imports nothing of tlx, so that no JAX backend wakes up here.
"""

import json
import sys


def main() -> None:
    """Answers {"parameters", "how"} first, then an empty line's worth of JSON after each request."""
    import torch
    import transformers

    shape = json.loads(sys.argv[1])
    device = shape["device"]
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=shape["vocab"], n_positions=shape["length"], n_embd=shape["width"],
        n_layer=shape["layers"], n_head=max(1, shape["width"] // 64), use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    tokens = torch.randint(0, shape["vocab"], (shape["batch"], shape["length"]), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    how = f"torch {torch.__version__}, transformers {transformers.__version__}, {config._attn_implementation}"
    count = sum(parameter.numel() for parameter in model.parameters())
    _answer({"parameters": count, "how": f"{how}, {torch.get_num_threads()} threads"})
    for line in sys.stdin:
        for _ in range(int(line)):
            step()
        _answer({})


def _answer(value: dict) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
