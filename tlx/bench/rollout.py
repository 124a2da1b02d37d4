"""Sampling of a rollout with a GPT-2-shaped policy against transformers.generate on the same machine.

Each prompt of half the length gets several answers of the other half, drawn at temperature 1 as a step of GRPO draws
them; transformers continues as many rows. PyTorch runs in processes of its own, as in eager.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tlx import parallel
from tlx.bench.generate import beside_transformers
from tlx.bench.shape import BenchShape
from tlx.bench.sizes import run_config
from tlx.nn.losses import LossConfig
from tlx.rollouts.grpo import GRPO, TASK
from tlx.rollouts.step import make_sample
from tlx.run.assemble import assemble
from tlx.tasks.shared.base import TaskSpec
from tlx.tasks.shared.generative import GenerationItem
from tlx.text.vocabulary import Vocabulary
from tlx.training.state import State

_ANSWERS = 4  # to each prompt


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Print and return new tokens/s of both and their ratio; of tlx alone where PyTorch is not installed.

    Args:
        shape: Size of the model; its batch counts prompts.
        objectives: Unused: both are decoders.
        seconds: Measuring time of each function.

    Returns:
        "tlx_tokens_per_s" and, where PyTorch is installed, "torch_tokens_per_s" and their "ratio".
    """
    del objectives
    half = shape.length // 2
    work = f"{_ANSWERS} answers of {half} tokens to {shape.batch} prompts of {half}"
    rows = shape._replace(batch=shape.batch * _ANSWERS)
    return beside_transformers(rows, _tlx_rollout(shape), "sample", work, seconds)


def _tlx_rollout(shape: BenchShape) -> Callable[[], object]:
    """Return a function that samples the answers to one batch of random prompts, each to its full length."""
    run = assemble(run_config("clm", shape))
    with parallel.use(run.mesh, run.rules):
        params = jax.device_put(jax.device_get(run.init().params))
    model = run.module.model
    half = shape.length // 2
    # Its end of text is outside the model's vocabulary, so that no answer ends early.
    vocab = Vocabulary(model.vocab_size + 1, eos=model.vocab_size, num_sentinels=0)
    config = GRPO(num_answers=_ANSWERS, target_length=half)
    spec = TaskSpec(config, shape.length, vocab, "decoder")
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, shape.vocab, (shape.batch, half)).astype(np.int32)
    examples = [TASK.example(rng, GenerationItem(prompt, ()), spec) for prompt in prompts]
    batch = {name: jnp.asarray(np.stack([row[name] for row in examples])) for name in examples[0]}
    sample = jax.jit(make_sample(TASK.module(config, model, LossConfig()), spec))
    zero = jnp.int32(0)
    state = State(params, {}, None, None, jnp.uint32(0), zero, zero, zero)

    def call() -> None:
        _, sampled = sample(state, batch)
        assert (np.asarray(sampled.lengths_BK) == half).all()

    return call
