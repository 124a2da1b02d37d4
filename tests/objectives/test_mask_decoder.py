"""DeBERTa's enhanced mask decoder: against its formulas, and what it lets a target know."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.objectives.cases import MODELS, VOCAB, batch_of, compiled, influence, module_of
from tests.objectives.small import at, gelu, layer_norm, masked_losses
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import HeadConfig
from tlx.models.transformer import Transformer
from tlx.nn.config import PositionConfig
from tlx.objectives.mlm import MLM

DECODED = MLM(masking_rate=0.4, mask_decoder=2)
# Exact distances with matrices of their own (v1), and buckets with the content's (v2).
POSITIONS = {
    "v1": PositionConfig("disentangled", max_length=64, max_distance=6, num_buckets=0),
    "v2": PositionConfig(
        "disentangled", max_length=64, max_distance=16, num_buckets=8, shared_projections=True, norm=True
    ),
}


def deberta(version: str, **changes):
    changes = {"head": HeadConfig(tied=False), **changes}
    return dataclasses.replace(MODELS["mlm"], position=POSITIONS[version], **changes)


def attended(query, source, params, table, segments):
    """Disentangled attention of one row by its sum over i, j and heads; exact distances, v1."""
    part = {name: params[name] for name in ("query", "key", "value")}
    q, k, v = (
        np.einsum("td,dnh->tnh", x, part[name]["kernel"]) + part[name].get("bias", 0.0)
        for x, name in ((query, "query"), (source, "key"), (source, "value"))
    )
    positions = params["disentangled"]
    place_key = np.einsum("rd,dnh->rnh", table, positions["key"]["kernel"])
    place_query = np.einsum("rd,dnh->rnh", table, positions["query"]["kernel"]) + positions["query"]["bias"]
    length, heads, width = q.shape
    limit, mixed = len(table) // 2, np.zeros_like(q)
    for n in range(heads):
        for i in range(length):
            scores = np.full(length, -np.inf)
            for j in range(length):
                row = min(max(i - j + limit, 0), 2 * limit - 1)
                terms = q[i, n] @ k[j, n] + q[i, n] @ place_key[row, n] + k[j, n] @ place_query[row, n]
                if segments[i] == segments[j]:
                    scores[j] = terms / np.sqrt(3 * width)
            weights = np.exp(scores - scores.max())
            mixed[i, n] = weights @ v[:, n] / weights.sum()
    return np.einsum("tnh,nhd->td", mixed, params["out"]["kernel"]) + params["out"]["bias"]


def layer(query, source, params, table, segments):
    """One post-norm layer of one row whose queries are not what it reads."""
    x = layer_norm(
        query + attended(query, source, params["attention"], table, segments), params["attention_norm"]
    )
    feed = params["feedforward"]
    inner = gelu(x @ feed["in"]["kernel"] + feed["in"]["bias"])
    return layer_norm(x + inner @ feed["out"]["kernel"] + feed["out"]["bias"], params["feedforward_norm"])


def test_loss_is_numpys():
    """The last layer twice, on keys of its input; queries are that plus places, then its own output."""
    model, batch = deberta("v1"), batch_of("mlm", [[9, 6], None], DECODED)
    assert batch["positions"][0].max() < batch["positions"][1].max()
    this = compiled("mlm", model, DECODED)
    encoder = {**this.params["model"]["encoder"]}
    blocks = jax.tree.map(lambda x: np.asarray(x, np.float64), encoder["blocks"])
    first = {**this.params["model"], "encoder": {**encoder, "blocks": jax.tree.map(lambda x: x[:1], blocks)}}
    one_layer = Transformer(dataclasses.replace(model, num_layers=1))
    source_BTD = np.asarray(jax.jit(one_layer.apply)({"params": first}, batch), np.float64)
    last = jax.tree.map(lambda x: x[1], blocks)
    table = np.asarray(encoder["distances"]["table"], np.float64)
    places = np.asarray(this.params["heads"]["places"]["table"], np.float64)
    hidden = []
    for source, positions, segments in zip(source_BTD, batch["positions"], batch["segments"], strict=True):
        z = layer(source + places[positions], source, last, table, segments)
        hidden.append(layer(z, source, last, table, segments))
    kernel = this.params["model"]["output"]["kernel"]
    heads = this.params["heads"]["mlm"]
    losses = masked_losses(heads, at(np.stack(hidden), batch["target_positions"]), batch["targets"], kernel)
    terms, *_ = this.forward(batch)
    np.testing.assert_allclose(terms["loss"].sum, (losses * batch["weights"]).sum(), rtol=2e-5)
    assert terms["loss"].weight == batch["weights"].sum()
    plain, *_ = compiled("mlm", model).forward(batch)
    assert abs(plain["loss"].sum - terms["loss"].sum) > 1e-2 * abs(terms["loss"].sum)


@pytest.mark.slow
@pytest.mark.parametrize("version", POSITIONS)
def test_only_the_decoder_knows_absolute_places(version):
    """All places moved by five: without the decoder nothing changes, with it the logits do."""
    batch = batch_of("mlm", [None], DECODED)
    moved = {**batch, "positions": batch["positions"] + 5}
    before, after = (
        np.asarray(compiled("mlm", deberta(version), DECODED).forward(b)[1]) for b in (batch, moved)
    )
    assert np.abs(before - after).max(axis=-1).min() > 1e-3
    plain = compiled("mlm", deberta(version))
    np.testing.assert_array_equal(plain.forward(batch)[1], plain.forward(moved)[1])


def test_a_hidden_token_is_not_seen(monkeypatch):
    config = dataclasses.replace(DECODED, mask_token_fraction=1.0, random_token_fraction=0.0)
    monkeypatch.setitem(MODELS, "mlm", deberta("v1"))
    batch = batch_of("mlm", [None], config)
    seen = influence("mlm", batch, config)
    count, targets = int(batch["weights"].sum()), batch["targets"][0]
    assert seen[:count, targets[:count]].max() == 0.0
    visible = np.setdiff1d(batch["tokens"][0], [VOCAB.pad])
    assert seen[:count, visible].min() > 0.0


def test_the_model_is_that_of_a_run_without_it():
    """Transfer takes "model" and leaves the places behind, which are no more than the table."""
    model, batch = deberta("v2"), batch_of("mlm", [None], DECODED)
    decoded, plain = (
        tree.flatten(jax.eval_shape(module_of("mlm", model, config).init, jax.random.key(0), batch)["params"])
        for config in (DECODED, MLM(masking_rate=0.4))
    )
    assert {p.removesuffix("/value") for p in set(decoded) - set(plain)} == {"heads/places/table"}
    assert set(plain) < set(decoded)


@pytest.mark.slow
def test_the_convolution_and_shared_layers_run_too():
    """Two layers: the decoder's one, and before it one that shares its weights or joins the convolution."""
    batch = batch_of("mlm", [None], DECODED)
    tables = dataclasses.replace(MODELS["mlm"].embedding, conv_kernel_size=3)
    for changes in ({"share_layers": True}, {"embedding": tables}, {"num_layers": 1}):
        terms, *_ = compiled("mlm", deberta("v2", **changes), DECODED).forward(batch)
        assert np.isfinite(terms["loss"].sum)


def test_wrong_values_are_named():
    with pytest.raises(ConfigError, match="objective.mask_decoder = -1"):
        dataclasses.replace(DECODED, mask_decoder=-1).validate()
    batch, short = batch_of("mlm", [None], DECODED), dataclasses.replace(POSITIONS["v1"], max_length=8)
    for model, message in (
        (MODELS["mlm"], "model.position.kind = 'learned' has them"),
        (dataclasses.replace(deberta("v1"), position=short), "position.max_length = 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(module_of("mlm", model, DECODED).init, jax.random.key(0), batch)
