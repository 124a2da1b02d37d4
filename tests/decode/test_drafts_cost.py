"""What drafts of a decoder's own heads cost and give, in figures of configs/pretrain/README.md.

By hand: pytest -m long -s tests/decode/test_drafts_cost.py
"""

import statistics
import time

import jax
import jax.numpy as jnp
import pytest

import tlx
from tlx.api.draft import drafter_of
from tlx.decode.drafters import OwnHeads
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.decode.speculative import generate_speculative
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.nn.config import AttentionConfig, ExecutionConfig, PositionConfig
from tlx.objectives.multi_token import MultiToken, MultiTokenModule
from tlx.parallel import unbox
from tlx.text import Vocabulary

pytestmark = pytest.mark.long
STARTS = ("def ", "import ", "class ", "for i in ", "        if not ", "    return ", '    """', "try:\n")
NUM_TOKENS = 100


def compare(lm, params, drafter, rows, vocab, temperature, repeats=5):
    """(passes, tokens that they give, CPU seconds of plain decoding and with drafts), measured in turns."""
    given = {
        "max_tokens": NUM_TOKENS,
        "sampling": Sampling(temperature),
        "max_length": 512,
    }
    calls = {
        "plain": lambda: [generate(lm, params, [row], vocab, **given)[0] for row in rows],
        "drafts": lambda: generate_speculative(lm, params, drafter, rows, vocab, **given),
    }
    outputs = {name: call() for name, call in calls.items()}
    if not temperature:
        assert [text.tokens for text in outputs["drafts"]] == outputs["plain"]
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    passes = sum(text.num_passes for text in outputs["drafts"])
    tokens = sum(len(text.tokens) - 1 for text in outputs["drafts"])
    return passes, tokens, *(statistics.median(seconds[name]) for name in calls)


@pytest.mark.parametrize(("width", "layers"), [(64, 2), (256, 4), (512, 8)])
def test_cost_of_a_pass(width, layers):
    """With three heads, over a token of plain decoding; parameters are drawn."""
    cfg = ModelConfig(
        kind="decoder",
        vocab_size=4096,
        width=width,
        num_layers=layers,
        attention=AttentionConfig(num_heads=width // 64),
        position=PositionConfig(kind="rotary"),
        execution=ExecutionConfig(attention="xla"),
    )
    module = MultiTokenModule(MultiToken(num_heads=3, own_outputs=False), cfg)
    ones = jnp.ones((1, 4), jnp.int32)
    batch = {name: ones for name in ("tokens", "positions", "segments", "targets", "weights")}
    params = unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    vocab = Vocabulary(4097, eos=4096, num_sentinels=0)
    drafter = OwnHeads(module, params)
    rows = [list(range(10, 20))]
    passes, _, plain, drafts = compare(Transformer(cfg), params["model"], drafter, rows, vocab, 0.0)
    token = 1000 * plain / NUM_TOKENS
    read = 1000 * drafts / passes
    print(f"\nwidth {width}, {layers} layers: {token:.2f} ms a token, {read:.2f} a pass: {read / token:.2f}")


def test_tokens_of_a_pass(tmp_path):
    """On bytes of Python's standard library: a decoder that was trained with three heads from nothing."""
    overrides = {"train.steps": 1000, "eval.every": 0, "log.print_every": 100}
    lm, _ = tlx.train("pretrain/multi_token:tiny", workdir=tmp_path / "run", overrides=overrides)
    drafter, _ = drafter_of(lm, "heads")
    rows = [lm.frame.prompt + tuple(lm.tokenizer.encode(text)) for text in STARTS]
    for temperature in (0.0, 0.8):
        passes, tokens, plain, drafts = compare(
            lm.network, lm.params["model"], drafter, rows, lm.tokenizer.vocab, temperature
        )
        print(
            f"\ntemperature {temperature}: {tokens} tokens in {passes} passes, {tokens / passes:.2f} a pass; CPU ",
            end="",
        )
        print(f"{plain:.3f} s plain, {drafts:.3f} s with drafts")
        assert tokens / passes > 1.3
