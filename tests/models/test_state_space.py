"""Layers with a state space are one function by chunks, token by token and packed; the cache holds their states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tests.models.test_transformer import build, cached_and_full, check_packed_documents, config, rows, run
from tests.run_directory import tiny_config, write_task_run
from tests.tiers import tiers
from tests.training import shapes
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.decode.prefixes import PrefixStore
from tlx.decode.rows import RowRequest
from tlx.decode.sampling import Sampling
from tlx.nn.config import ExecutionConfig, FeedForwardConfig, NormConfig, StateSpaceConfig
from tlx.nn.state_space import Recurrence, chunked_recurrence
from tlx.parallel import MeshConfig

STATE_SPACE = StateSpaceConfig(num_heads=6, head_dim=4, state_dim=5, num_groups=3, conv_size=3, chunk_size=4)
HYBRID = ("state_space", "attention", "state_space")
MIXERS = {"alone": ("state_space",), "with attention": HYBRID}


def mixed(mixer, **changes):
    """A decoder of seven layers, two whole periods of HYBRID and a layer, or of one with a state space."""
    is_pure = "attention" not in mixer
    changes = {
        "mixer": mixer,
        "state_space": STATE_SPACE,
        "num_layers": 1 if is_pure else 7,
        "feedforward": FeedForwardConfig(absent=is_pure),
        "norm": NormConfig(kind="rmsnorm"),
    } | changes
    cfg = config(position="none" if is_pure else "rotary", **changes)
    cfg.validate()
    return cfg


def recurrent(inputs, state):
    """The recurrence in numpy, token by token: a state is empty where a run begins."""
    x, log_decay, b, c, runs = (np.asarray(array, np.float64) for array in inputs)
    state = np.asarray(state, np.float64).copy()
    y = np.zeros(x.shape)
    per_group = x.shape[2] // b.shape[2]
    for row in range(x.shape[0]):
        last = 0
        for t in range(x.shape[1]):
            if runs[row, t] != last:
                state[row] = 0
            last = runs[row, t]
            for head in range(x.shape[2]):
                group = head // per_group
                state[row, head] *= np.exp(log_decay[row, t, head])
                state[row, head] += np.outer(x[row, t, head], b[row, t, group])
                y[row, t, head] = state[row, head] @ c[row, t, group]
    return y, state


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_chunks_are_the_recurrence(chunk_size):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    runs = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3], [1] * 11])
    inputs = Recurrence(
        normal(2, 11, 4, 3), -np.abs(normal(2, 11, 4)), normal(2, 11, 2, 5), normal(2, 11, 2, 5), runs
    )
    state = normal(2, 4, 3, 5)
    found = jax.jit(chunked_recurrence, static_argnums=2)(inputs, state, chunk_size)
    for ours, wanted in zip(found, recurrent(inputs, state), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", tiers(MIXERS, quick=["alone"]))
def test_cached_decoding_equals_the_full_pass(mixer):
    """Padding on the left, pieces of several tokens and of one."""
    cfg = mixed(MIXERS[mixer])
    batch = rows(padding=3)
    model, params = build(cfg, batch)
    cache = run(model, params, method="init_cache", batch_size=2, length=14)
    cached, full = cached_and_full(model, params, batch, cache, (5, 6, 7, 12))
    np.testing.assert_allclose(cached, full, atol=2e-5)
    # Whatever stands in the padding.
    changed = batch | {"tokens": jnp.where(batch["segments"] > 0, batch["tokens"], 7)}
    real = np.asarray(batch["segments"]) > 0
    np.testing.assert_array_equal(np.asarray(run(model, params, changed))[real], full)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", MIXERS)
def test_packed_documents_are_those_alone(mixer):
    check_packed_documents(mixed(MIXERS[mixer]))


@pytest.mark.long
def test_scanned_equals_unrolled_and_gradients_do_not_depend_on_chunks():
    batch = rows()

    def loss_and_gradient(**changes):
        model, params = build(mixed(HYBRID, num_layers=4, **changes), batch)
        loss = lambda params: jnp.sum(jnp.sin(model.apply({"params": params}, batch)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    whole = loss_and_gradient()
    changed = loss_and_gradient(
        execution=ExecutionConfig(unroll=4, remat="full"),
        state_space=dataclasses.replace(STATE_SPACE, chunk_size=256),
    )
    for wanted, found in zip(jax.tree.leaves(whole), jax.tree.leaves(changed), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def hybrid_run(folder):
    """A run of a decoder with both mixers, with random parameters."""
    values = to_dict(tiny_config("clm"))
    values["model"]["mixer"] = ["state_space", "attention"]
    values["model"]["num_layers"] = 3
    values["model"]["state_space"]["head_dim"] = 4
    values["model"]["state_space"]["state_dim"] = 3
    return write_task_run(folder, values)


@pytest.mark.long
@pytest.mark.slow
def test_texts_of_a_run(tmp_path):
    """Greedy tokens are the likeliest of the full pass, streamed ones the same; nothing is taken back."""
    lm = tlx.load(hybrid_run(tmp_path / "run"))
    prompts = ["def f(x):", "im"]
    texts = lm.generate(prompts, max_tokens=6, temperature=0.0)
    for prompt, text in zip(prompts, texts, strict=True):
        tokens = [*lm.frame.named().prompt, *lm.tokenizer.encode(prompt)]
        for _ in range(6):
            tokens.append(int(lm.logits(np.array(tokens))[0, -1].argmax()))
        assert lm.tokenizer.decode(tokens[-6:]) == text
        assert "".join(lm.stream(prompt, max_tokens=6, temperature=0.0)) == text
    assert (
        lm.generate("im", max_tokens=4, num_beams=3)
        == lm.generate(["im", "def f"], max_tokens=4, num_beams=3)[0]
    )
    with pytest.raises(ConfigError, match="draft: a state space cannot go back"):
        lm.generate("im", draft=lm)
    # A state is that after the last token: no text is a beginning of another one.
    decoder = lm.row_decoder._replace(prefixes=PrefixStore())
    row = RowRequest(list(range(20, 60)), 3, Sampling(temperature=0.0))
    decoding = decoder.begin([row], decoder.shape(row))
    decoding.advance(3)
    decoder.store(decoding, 0, row.prompt, [1, 2])
    assert decoder.shape(row).prefix == 0 and decoder.prefixes.num_bytes == 0


REFUSED = {
    "another name": ({"mixer": ("mamba",)}, "model.mixer = 'mamba' is not one of: attention, state_space"),
    "an encoder": ({"kind": "encoder"}, "needs model.kind = 'decoder'"),
    "groups": (
        {"state_space": dataclasses.replace(STATE_SPACE, num_groups=4)},
        "num_groups = 4 does not divide its 6 heads; choose one of 1, 2, 3, 6",
    ),
    "heads": (
        {"state_space": StateSpaceConfig(head_dim=5)},
        r"head_dim = 5 does not divide 2 \* model.width = 64",
    ),
    "layouts": ({"block_layout": "post"}, "block_layout = 'pre'"),
    "limits": (
        {"state_space": StateSpaceConfig(dt_limits=(0.5, 0.1))},
        r"dt_limits = \(0.5, 0.1\) must rise",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused(name):
    changes, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        mixed(changes.pop("mixer", ("state_space",)), **changes)


@pytest.mark.slow
def test_a_prefix_that_sees_itself_is_refused():
    batch = rows()
    model, params = build(mixed(("state_space",)), batch)
    with pytest.raises(ConfigError, match="a state space reads from left to right"):
        run(model, params, batch | {"prefix": jnp.ones_like(batch["tokens"])})


@pytest.mark.long
def test_gradients_do_not_depend_on_the_mesh(monkeypatch):
    """Packed rows over data, tensor and context axes: states go from one device's tokens to the next one's."""
    part = StateSpaceConfig(num_heads=4, head_dim=4, state_dim=5, num_groups=2, chunk_size=8)
    model = shapes.MODELS["clm"] | {"mixer": ("state_space", "attention"), "state_space": part}
    monkeypatch.setitem(shapes.MODELS, "clm", model)
    # Its cases are made once for each name.
    shapes.case.cache_clear()
    try:
        one = shapes.gradients("clm", MeshConfig(), 1)
        mesh = MeshConfig(data=1, fsdp=2, tensor=2, context=2, rules="fsdp_tp_cp")
        shapes.assert_equal(one, shapes.gradients("clm", mesh, 8))
    finally:
        shapes.case.cache_clear()
