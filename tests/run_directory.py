"""Run directories with random parameters, written with the trainer's parts but without training."""

import dataclasses
import functools

import jax
import numpy as np

from tlx import parallel
from tlx.base.config import to_dict
from tlx.checkpoint import Checkpoints
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.run.spec import abstract_batch, make_module, spec_of
from tlx.text import make_tokenizer
from tlx.training import directory
from tlx.training.state import boxed_params


def run_file(config, saved_format=directory.FORMAT):
    """The contents of a run.json with the config, and with what else every version writes."""
    return {"format": saved_format, "config": config, "tokenizer_hash": "0", "data": {}, "mesh": {}}


def tiny_config(objective):
    config = base_config(objective)
    config.tokenizer.kind = "bytes"
    config.data.sequence_length = 32
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 16, 1, 2
    kinds = {"plm": "relative_sinusoidal", "recurrent_lm": "relative_sinusoidal", "mlm": "learned"}
    config.model.position.kind = kinds.get(objective, "rotary")
    config.model.position.max_length = 40
    config.model.init.stddev = config.model.init.embedding_stddev = 0.4
    config.model.execution.unroll = 1
    if objective == "plm":
        config.model.block_layout, config.objective.mem_len = "post", 4
    if objective == "recurrent_lm":
        config.model.block_layout, config.objective.mem_len = "post", 4
        config.model.embedding.cutoffs, config.model.embedding.divisor = (64, 128), 2
    if objective == "bilm":
        config.objective.max_characters = 6
        config.model.recurrent.cell_dim, config.model.recurrent.characters.filters = 24, ((1, 8), (3, 8))
    return resolve(config)


def write_task_run(folder, config, seed=0):
    """A run directory of a task's config (a ConfigDict with a whole model), with random parameters."""
    config = resolve(config, allow=None)
    tokenizer = make_tokenizer(config.tokenizer, ())
    module = make_module(config, tokenizer.vocab)
    boxed = boxed_params(module, abstract_batch(config, spec_of(config, tokenizer)))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(leaf.dtype)  # noqa: E731
    folder.mkdir()
    tokenizer.save(folder / "tokenizer")
    directory.write_run(folder, to_dict(config), tokenizer.hash, {"fingerprint": "none"}, {"data": 1}, 1)
    with Checkpoints(folder / "checkpoints", config.checkpoint) as checkpoints:
        checkpoints.prepare()
        checkpoints.save(1, {"params": jax.tree.map(draw, parallel.unbox(boxed))})
        checkpoints.wait()
    return folder


def write_run(folder, objective, steps=(3,), mesh=None):
    """A run directory with random parameters; those of step s are drawn from seed s."""
    config = tiny_config(objective)
    tokenizer = make_tokenizer(config.tokenizer, ())
    module = make_module(config, tokenizer.vocab)
    spec = ObjectiveSpec.of(config.objective, config.data.sequence_length, tokenizer, config.data.languages)
    batch = abstract_batch(config, spec)
    boxed = boxed_params(module, batch)
    folder.mkdir()
    tokenizer.save(folder / "tokenizer")
    directory.write_run(folder, to_dict(config), tokenizer.hash, {"fingerprint": "none"}, {"data": 1}, 1)
    shardings = None
    if mesh is not None:
        shardings = parallel.param_shardings(boxed, mesh, parallel.rules(parallel.MeshConfig(rules="fsdp")))

    @functools.partial(jax.jit, out_shardings=shardings)
    def draw(key):
        return jax.tree.map(
            lambda x: 0.4 * jax.random.normal(jax.random.fold_in(key, x.size), x.shape), parallel.unbox(boxed)
        )

    with Checkpoints(folder / "checkpoints", dataclasses.replace(config.checkpoint, keep=9)) as checkpoints:
        checkpoints.prepare()
        for step in steps:
            checkpoints.save(step, {"params": draw(jax.random.key(step)), "opt_state": {"big": np.zeros(7)}})
            checkpoints.wait()
    return folder
