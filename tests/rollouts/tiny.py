"""A tiny policy of either kind with its prompts, states and samples, for the tests of rollouts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.tasks import small
from tlx.nn.losses import LossConfig
from tlx.rollouts import TABLE
from tlx.rollouts.step import make_sample
from tlx.tasks.shared.base import TaskSpec
from tlx.training.state import State

V = small.TOKENIZER.vocab
LENGTH, SIZE, COUNT = 16, 6, 3
TEMPERATURE = 0.7
RECORDS = small.records_of(
    {"source": "ab", "target": "x"},
    {"source": "hello", "target": "y"},
    {"source": "c", "target": "z"},
    {"source": "defg", "target": "w"},
)


@functools.cache
def spec_of(name, kind="decoder", **config):
    config = {"target_length": SIZE, "num_answers": COUNT, "temperature": TEMPERATURE} | config
    config = TABLE.load(name).config_class(**config)
    config.validate()
    return TaskSpec(config, LENGTH, V, kind, tokenizer=small.TOKENIZER)


def module_of(name, kind="decoder", **config):
    settings = spec_of(name, kind, **config).config
    model = small.model_of(kind)
    if settings.beta:
        settings = dataclasses.replace(settings, reference="somewhere", reference_model=model)
    return TABLE.load(name).module(settings, model, LossConfig())


def prompts_of(name, **config):
    task, spec = TABLE.load(name), spec_of(name, **config)
    items = task.prepare(RECORDS, small.TOKENIZER, spec)
    rows = [task.example(np.random.default_rng(0), item, spec) for item in items]
    return {key: jnp.array(np.stack([row[key] for row in rows])) for key in rows[0]}


@functools.cache
def params_of(name="grpo", kind="decoder", **config):
    module = module_of(name, kind, **config)
    params = small.init(module, prompts_of(name, kind=kind, **config))
    params = jax.tree.map(lambda leaf: 2 * leaf, params)
    # Some answers are to end themselves: the end is what most hidden states are near.
    table = params["model"]["embedding"]["table"]
    table[V.eos] *= 3
    return params


def state_of(step=0, reference=False, optimizer=None, params=None):
    params = params_of() if params is None else params
    frozen = {"reference": jax.tree.map(lambda leaf: 0.8 * leaf, params)} if reference else {}
    zero = jnp.int32(0)
    opt_state = None if optimizer is None else optimizer.init(params)
    return State(params, frozen, opt_state, None, jnp.uint32(7), jnp.int32(step), zero, zero)


@functools.cache
def sampled(name="grpo", step=0, kind="decoder", **config):
    sample = jax.jit(make_sample(module_of(name, kind, **config), spec_of(name, kind, **config)))
    # The loss of a method is no part of the policy: all of them sample with one set of parameters.
    state = state_of(step, bool(config.get("beta")), params=params_of(kind=kind))
    return sample(state, prompts_of(name, kind=kind, **config))
