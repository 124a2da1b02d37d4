"""Tiny models of every shape with batches of their objectives, and their gradients on any mesh."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from tlx import parallel
from tlx.base import tree
from tlx.data.window import Window
from tlx.models.config import ModelConfig
from tlx.nn.characters import CharacterConfig
from tlx.nn.config import AttentionConfig, ExecutionConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.nn.losses import LossConfig
from tlx.nn.recurrent import RecurrentConfig
from tlx.objectives import TABLE
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.parallel import MeshConfig
from tlx.text.vocabulary import Vocabulary
from tlx.training import step as steps
from tlx.training.state import State, boxed_params

OBJECTIVES = ("clm", "mlm", "span_corruption", "plm")  # one of each shape
OTHERS = tuple(name for name in TABLE if name not in OBJECTIVES)
VOCAB = Vocabulary(363)
BATCH, LENGTH = 8, 32

MODELS = {
    "bilm": {"recurrent": RecurrentConfig(cell_dim=48, characters=CharacterConfig(8, ((1, 16), (3, 32)), 2))},
    "clm": {"position": PositionConfig("rotary")},
    "span_corruption": {"position": PositionConfig("relative_bias"), "num_decoder_layers": 2},
    "plm": {"position": PositionConfig("relative_sinusoidal"), "block_layout": "post"},
    "recurrent_lm": {
        "position": PositionConfig("relative_sinusoidal"),
        "block_layout": "post",
        "embedding": EmbeddingConfig(cutoffs=(64, 128), divisor=2),
    },
    "rtd": {"width": 128},  # the generator has heads of 64
    "xlm": {"embedding": EmbeddingConfig(num_languages=2)},
}
_TEACHER = ModelConfig(
    kind="encoder", width=32, num_layers=4, attention=AttentionConfig(num_heads=4), block_layout="post"
)
_CONFIGS = {
    "bilm": {"max_characters": 8},
    "plm": {"mem_len": 16, "num_predict": 6},
    "recurrent_lm": {"mem_len": 16},
    "rtd": {"generator_fraction": 1.0},
    "distillation": {"teacher_model": _TEACHER},
    "layer_distillation": {"teacher_model": _TEACHER, "prediction_weight": 1.0},
}


class Case(NamedTuple):
    """One objective's module, state and batch, on no device yet (numpy)."""

    module: object
    boxed: object
    state: State
    batch: dict[str, np.ndarray]


def make(objective: str, length: int = LENGTH, execution: ExecutionConfig | None = None):
    """(module, spec): width 32, 4 heads, 2 layers, dropout."""
    parts = TABLE.load(objective)
    changes = _CONFIGS.get(objective, {})
    if "num_predict" in changes:
        changes = changes | {"num_predict": length * changes["num_predict"] // LENGTH}
    config = parts.config_class(**changes)
    values = {
        "kind": parts.kinds[0],
        "vocab_size": VOCAB.size,
        "width": 32,
        "num_layers": 2,
        "dropout": 0.1,
        "embedding": EmbeddingConfig(num_types=2 if parts.kinds == ("encoder",) else 0),
        "attention": AttentionConfig(num_heads=4),
        "execution": execution or ExecutionConfig(unroll=1),
    }
    model = ModelConfig(**values | MODELS.get(objective, {}))
    table = np.random.default_rng(0).integers(0, 261, (VOCAB.size, 8)) if objective == "bilm" else None
    spec = ObjectiveSpec(config, length, VOCAB, np.ones(VOCAB.size, bool), characters=table)
    return parts.module(config, model, LossConfig(z_loss=1e-3)), spec


@functools.cache
def case(objective: str, execution: ExecutionConfig | None = None) -> Case:
    """Parameters and a batch; memories, where there are some, that are not empty."""
    module, spec = make(objective, execution=execution)
    batches = [examples(objective, spec, seed) for seed in range(2)]
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batches[0].items()}
    params, carry = jax.jit(functools.partial(_init, module))(jax.random.key(0), batches[0])
    zero = np.zeros((), np.int32)
    frozen = _drawn(module.frozen())
    state = State(params, frozen, None, carry, np.uint32(3), zero, zero, zero)
    return Case(module, boxed_params(module, abstract), jax.device_get(state), batches[1])


def gradients(objective: str, mesh: MeshConfig, num_devices: int, microbatches: int = 1, **execution):
    """(loss, {path: gradient}, carry) as numpy, computed on a mesh of the first devices."""
    module, boxed, state, batch = case(objective, ExecutionConfig(**execution))
    grid = parallel.make_mesh(mesh, jax.devices()[:num_devices])
    rules = parallel.rules(mesh)
    with parallel.use(grid, rules):
        params = jax.device_put(state.params, parallel.param_shardings(boxed, grid, rules))
        batch = jax.device_put(batch, parallel.batch_sharding(grid, rules, batch))

        def compute(params, batch):
            now = state._replace(params=params)
            keys = steps.row_keys(now.seed, now.step, BATCH)
            return steps.gradients(module, now, batch, keys, microbatches)

        result = jax.device_get(jax.jit(compute)(params, batch))
    return result.loss, tree.flatten(result.grads), result.carry


def assert_equal(one, other, tolerance: float = 1e-5) -> None:
    """Loss and each leaf's gradient: norm of the difference over norm, floor 1e-6 of the global norm."""
    assert abs(one[0] - other[0]) <= tolerance * abs(one[0])
    floor = 1e-6 * np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in one[1].values()))
    for path, leaf in one[1].items():
        difference = np.linalg.norm(np.ravel(leaf - other[1][path]))
        assert difference <= tolerance * max(np.linalg.norm(np.ravel(leaf)), floor / tolerance), (
            f"{path}: {difference} of {np.linalg.norm(np.ravel(leaf))}"
        )
    for a, b in zip(jax.tree.leaves(one[2]), jax.tree.leaves(other[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def examples(objective: str, spec: ObjectiveSpec, seed: int, documents: int = 2) -> dict[str, np.ndarray]:
    """A batch of windows of random tokens, each of one document or two."""
    parts = TABLE.load(objective)
    reads = parts.window_spec(spec)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(BATCH):
        window = _window(rng, reads.length, documents)
        if reads.second_length:
            window = window._replace(second=_window(rng, reads.second_length, 1)._replace(language=1))
        rows.append(parts.example(rng, window, spec))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _window(rng: np.random.Generator, length: int, documents: int) -> Window:
    tokens = rng.integers(7, 263, length).astype(np.int32)
    cut = int(rng.integers(length // 3, length)) if documents == 2 else length
    segments = np.where(np.arange(length) < cut, 1, 2).astype(np.int32)
    positions = np.where(segments == 1, np.arange(length), np.arange(length) - cut).astype(np.int32)
    return Window(tokens, segments, positions)


def _drawn(boxed):
    """A teacher's parameters."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), parallel.unbox(boxed))


def _init(module, key, batch):
    carry = module.initial_carry(BATCH)
    params = parallel.unbox(module.init(key, batch, carry, None)["params"])
    return params, module.apply({"params": params}, batch, carry, None)[1]
