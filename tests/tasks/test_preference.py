"""Tuning on preferences: losses by numpy, the reference in each of its forms, rows packed as alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks import small
from tests.tiers import tiers
from tlx.adapt.config import AdaptConfig
from tlx.base.errors import ConfigError, DataError
from tlx.cli.data_tables import describe
from tlx.data.records import _packed
from tlx.nn.config import AdapterConfig
from tlx.nn.embed import Unembedding
from tlx.nn.losses import LossConfig, token_log_probs
from tlx.tasks import TABLE
from tlx.tasks.preference import Preference, PreferenceModule
from tlx.tasks.shared.base import TaskSpec
from tlx.tasks.shared.generative import GenerationModule
from tlx.tasks.shared.preference_losses import LOSSES, LossSettings, PairLogProbs, kto, odds_ratio
from tlx.text.chat import ChatTemplate, RoleTemplate
from tlx.text.frames import Frame

TASK, V, encode = TABLE.load("preference"), small.TOKENIZER.vocab, small.TOKENIZER.encode
SHORT = ChatTemplate("{bos}", RoleTemplate("S", "."), RoleTemplate("U", "."), RoleTemplate("A", "{eos}"))
LENGTH = 64
NO_ADAPTERS = AdapterConfig()
COLUMNS = ("chosen", "rejected")
RECORDS = small.records_of(
    {"prompt": "ab", "chosen": "c", "rejected": "de"},
    {"prompt": "hello", "chosen": "well", "rejected": "no"},
    {"prompt": "x", "chosen": "yes!", "rejected": "z"},
)
UNPAIRED = small.records_of(
    {"prompt": "ab", "completion": "c", "label": True},
    {"prompt": "hello", "completion": "well", "label": 0},
    {"prompt": "x", "completion": "yes!", "label": "false"},
)


def spec_of(kind="decoder", length=LENGTH, **config):
    config = Preference(**({"format": SHORT} | config))
    config.validate()
    return TaskSpec(config, length, V, kind, tokenizer=small.TOKENIZER)


def rows_of(items, spec):
    rows = [TASK.example(np.random.default_rng(0), item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def model_of(kind="decoder", dropout=0.0, adapters=NO_ADAPTERS):
    model = small.model_of(kind, dropout)
    position = dataclasses.replace(model.position, max_length=LENGTH)
    return dataclasses.replace(model, position=position, adapters=adapters)


def module_of(config, kind="decoder", dropout=0.0, adapters=NO_ADAPTERS):
    model = model_of(kind, dropout, adapters)
    if LOSSES[config.loss].has_reference and not adapters.any:
        config = dataclasses.replace(config, reference="somewhere", reference_model=model)
    return PreferenceModule(config, model, LossConfig())


def params_of(module, batch):
    """Parameters with a reference that differs from the policy."""
    params = jax.tree.map(lambda leaf: 2 * leaf, small.init(module, batch))
    if not module.frozen():
        return params
    return params | {"reference": {"model": jax.tree.map(lambda leaf: 0.9 * leaf, params["model"])}}


def pair(chosen, rejected, reference_chosen=0.0, reference_rejected=0.0, tokens=(1, 1)):
    return PairLogProbs(*map(jnp.float32, (chosen, rejected, reference_chosen, reference_rejected, *tokens)))


@pytest.mark.parametrize(
    ("loss", "values", "settings", "expected"),
    [
        ("dpo", (-10, -12, -11, -11), {}, 0.598139),
        ("dpo", (-10, -12, -11, -11), {"label_smoothing": 0.1}, 0.618139),
        ("robust", (-10, -12, -11, -11), {"label_smoothing": 0.1}, 0.573139),
        ("hinge", (-10, -12, -11, -11), {}, 0.8),
        ("ipo_sum", (-10, -12, -11, -11), {}, 9.0),
        ("ipo", (-10, -12, -11, -11, (5, 4)), {}, 20.7025),
        ("simpo", (-0.5, -0.9), {"beta": 2.0, "simpo_gamma": 0.5}, 0.554355),
        ("orpo", (-0.5, -0.9), {}, 0.5 + 0.1 * 0.367729),
    ],
)
def test_losses_have_their_published_values(loss, values, settings, expected):
    settings = LossSettings(loss=loss, **settings)
    settings.validate()
    assert float(LOSSES[loss].formula(pair(*values), settings)) == pytest.approx(expected, rel=1e-6)


def test_further_published_values():
    assert float(odds_ratio(pair(-0.5, -0.9))) == pytest.approx(0.367729, abs=1e-6)
    gradient = jax.grad(
        lambda x: LOSSES["dpo"].formula(pair(0, -12, -11, -11)._replace(chosen=x), LossSettings())
    )
    assert float(gradient(jnp.float32(-10))) == pytest.approx(-0.0450166, abs=1e-7)
    settings = LossSettings(loss="kto", disliked_weight=2.0)
    one = jnp.ones(1)
    losses, divergence = kto(0.5 * one, 0.1 * one, jnp.array([True]), one, settings)
    assert float(losses[0]) == pytest.approx(0.490001, abs=1e-6) and float(divergence) == pytest.approx(0.1)
    losses, _ = kto(0.5 * one, 0.1 * one, jnp.array([False]), one, settings)
    assert float(losses[0]) == pytest.approx(2 * (1 - 0.490001), abs=1e-5)
    assert float(kto(one, -one, jnp.array([True]), one, settings)[1]) == 0.0
    by_mismatched = jax.grad(lambda x: kto(one, x, jnp.array([True]), one, settings)[0].sum())(0.1 * one)
    assert by_mismatched.tolist() == [0.0]


def test_an_answer_of_probability_one_has_finite_odds():
    settings = LossSettings(loss="orpo")
    gradient = jax.grad(lambda x: LOSSES["orpo"].formula(pair(0, -0.9)._replace(chosen=x), settings))
    assert np.isfinite(float(gradient(jnp.float32(0.0))))


@functools.partial(jax.jit, static_argnums=0)
def logits(module, params, batch):
    return module.apply({"params": params}, batch, method="logits")


def sequence(ids, prefix=""):
    """One sequence alone in a row of 24."""
    tokens = np.full((1, 24), V.pad, np.int32)
    tokens[0, : len(ids)] = ids
    segments = (np.arange(24) < len(ids)).astype(np.int32)[None]
    return {
        f"{prefix}tokens": tokens,
        f"{prefix}segments": segments,
        f"{prefix}positions": np.arange(24)[None],
    }


def log_probs_alone(module, params, record, column, kind):
    """The log-probability of an answer, by numpy from the logits of its sequence alone."""
    generation = GenerationModule(None, module.model, LossConfig())
    answer = [*encode(record.values[column]), V.eos]
    if kind == "decoder":
        prompt = [V.bos, *encode(f"U{record.values['prompt']}.A")]
        batch = sequence([*prompt, *answer[:-1]])
    else:
        prompt = [V.bos]
        source = [*encode(record.values["prompt"]), V.eos]
        batch = sequence(source, "encoder_") | sequence([V.bos, *answer[:-1]], "decoder_")
    y = np.asarray(logits(generation, params, batch), np.float64)[0, len(prompt) - 1 :][: len(answer)]
    log_p = y - np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return log_p[np.arange(len(answer)), answer].sum()


@pytest.mark.parametrize("kind", tiers(["decoder", "encoder_decoder"], quick=["decoder"]))
def test_pairs_in_packed_rows_are_as_alone(kind):
    spec = spec_of(kind)
    items = TASK.prepare(RECORDS, small.TOKENIZER, spec)
    alone, packed = rows_of(items, spec), rows_of(_packed(items, RECORDS, TASK, spec), spec)
    assert alone["tokens" if kind == "decoder" else "decoder_tokens"].shape == (3, LENGTH)
    assert len(packed["weights"]) == 1 and packed["weights"].sum() == 3
    module = module_of(spec.config, kind)
    params = params_of(module, alone)
    terms, outputs = small.evaluated(module, params, alone)
    together, _ = small.evaluated(module, params, packed)
    for name, term in terms.items():
        assert float(together[name].sum) == pytest.approx(float(term.sum), rel=2e-5, abs=1e-5), name
        assert float(together[name].weight) == float(term.weight) == 3
    expected = [
        [
            log_probs_alone(module, {"model": params["model"]}, record, column, kind)
            for column in ("chosen", "rejected")
        ]
        for record in RECORDS
    ]
    np.testing.assert_allclose(outputs["policy"][:, 0], expected, rtol=2e-5)
    reference = [
        [
            log_probs_alone(module, params["reference"], record, column, kind)
            for column in ("chosen", "rejected")
        ]
        for record in RECORDS
    ]
    np.testing.assert_allclose(outputs["reference"][:, 0], reference, rtol=2e-5)
    h = np.subtract(expected, reference) @ [1, -1]
    assert np.abs(h).max() > 0.1
    assert float(terms["loss"].sum) == pytest.approx(np.log1p(np.exp(-0.1 * h)).sum(), rel=1e-5)
    lengths = [[len(encode(r.values[c])) + 1 for c in COLUMNS] for r in RECORDS]
    assert outputs["tokens"][:, 0].tolist() == lengths
    # What fills a row up changes nothing.
    other = {name: value.copy() for name, value in alone.items()}
    prefix = "" if kind == "decoder" else "decoder_"
    padding = other[prefix + "segments"] == 0
    other[prefix + "tokens"][padding] = 65
    changed, _ = small.evaluated(module, params, other)
    assert float(changed["loss"].sum) == float(terms["loss"].sum)


@pytest.mark.parametrize("form", tiers(["frozen", "adapter_off"], quick=["frozen"]))
def test_the_first_step_is_exactly_ln_2(form):
    """Also with dropout in the model's config, and by gradients as in a step."""
    spec = spec_of()
    batch = rows_of(TASK.prepare(RECORDS, small.TOKENIZER, spec), spec)
    adapters = AdapterConfig(lora_rank=2) if form == "adapter_off" else AdapterConfig()
    module = module_of(spec.config, dropout=0.5, adapters=adapters)
    params = params_of(module, batch)
    if form == "frozen":
        params["reference"] = {"model": params["model"]}
    else:
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: 0 * leaf if path[-1].key == "lora_b" else leaf, params
        )
        assert module.frozen() == {}

    @jax.jit
    def step(params):
        def loss(params):
            keys = jax.random.split(jax.random.key(0), 3)
            terms, _ = module.apply({"params": params}, batch, None, keys)
            return terms["loss"].sum / 3, terms

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, terms), grads = step(params)
    assert float(loss) == float(np.float32(np.log(2))) and float(terms["margin"].sum) == 0.0
    assert float(terms["accuracy"].sum) == 0.0
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads["model"])) > 1e-3
    if form == "frozen":
        assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["reference"]))


@pytest.mark.slow
def test_the_model_without_its_adapter_is_the_base_bit_for_bit():
    spec = spec_of()
    batch = rows_of(TASK.prepare(RECORDS, small.TOKENIZER, spec), spec)
    module = module_of(spec.config, adapters=AdapterConfig(lora_rank=2))
    params = params_of(module, batch)
    _, outputs = small.evaluated(module, params, batch)
    base = module_of(spec.config)
    shared = jax.tree.map(lambda leaf: leaf, params)
    _, frozen = small.evaluated(base, shared | {"reference": {"model": params["model"]}}, batch)
    np.testing.assert_array_equal(outputs["reference"], frozen["reference"])
    assert np.abs(outputs["policy"] - outputs["reference"]).max() > 0.01


def test_which_runs_take_the_base_as_a_frozen_reference():
    config = spec_of().config
    for method, reference in {
        "full": "base",
        "lora": "",
        "pfeiffer": "",
        "houlsby": "base",
        "bitfit": "base",
    }.items():
        assert TASK.with_base(config, "base", AdaptConfig(method=method)).reference == reference
    assert (
        TASK.with_base(config, "base", AdaptConfig(method="lora", also_train=("norm",))).reference == "base"
    )
    assert TASK.with_base(spec_of(loss="simpo").config, "base", AdaptConfig()).reference == ""
    named = dataclasses.replace(config, reference="other")
    assert TASK.with_base(named, "base", AdaptConfig()).reference == "other"
    with pytest.raises(ConfigError, match="give its base by --from"):
        PreferenceModule(config, model_of(), LossConfig()).frozen()
    with pytest.raises(ConfigError, match="give its base by --from"):
        TASK.with_base(config, "", AdaptConfig())
    with pytest.raises(ConfigError, match="objective.loss = 'dpoo'.*did you mean 'dpo'"):
        TASK.infer_labels(dataclasses.replace(config, loss="dpoo"), RECORDS)


def test_kto_takes_answers_to_other_prompts():
    """Also where several answers to a prompt stand one after the other, and at the end of the records."""
    spec = spec_of(loss="kto", records="unpaired")
    prompts = "abbbca"
    records = small.records_of(
        *({"prompt": p, "completion": str(i), "label": True} for i, p in enumerate(prompts))
    )
    pairs = [item.pairs[0] for item in TASK.prepare(records, small.TOKENIZER, spec)]
    assert [pair.second.answer[0] for pair in pairs] == [encode(digit)[0] for digit in "144451"]
    assert all(pair.first.prompt.tolist() == pair.second.prompt.tolist() for pair in pairs)
    assert TASK.infer_labels(spec.config, records) == spec.config
    with pytest.raises(DataError, match=r"all training records \(1\) have the same prompt"):
        TASK.infer_labels(spec.config, records[:1])


@pytest.mark.slow
def test_kto_by_numpy():
    spec = spec_of(loss="kto", records="unpaired", liked_weight=1.5)
    items = TASK.prepare(UNPAIRED, small.TOKENIZER, spec)
    batch = rows_of(items, spec)
    module = module_of(spec.config)
    params = params_of(module, batch)
    terms, outputs = small.evaluated(module, params, batch)
    packed, _ = small.evaluated(module, params, rows_of(_packed(items, UNPAIRED, TASK, spec), spec))
    mismatched = small.records_of(
        *(
            {"prompt": record.values["prompt"], "completion": UNPAIRED[(i + 1) % 3].values["completion"]}
            for i, record in enumerate(UNPAIRED)
        )
    )

    def ratios(records):
        both = ({"model": params["model"]}, params["reference"])
        policy, reference = (
            [log_probs_alone(module, one, record, "completion", "decoder") for record in records]
            for one in both
        )
        return np.subtract(policy, reference)

    s, z = ratios(UNPAIRED), max(0.0, ratios(mismatched).mean())
    sign = np.array([1, -1, -1])
    losses = np.where(sign > 0, 1.5, 1.0) * (1 - 1 / (1 + np.exp(-0.1 * sign * (s - z))))
    assert float(terms["divergence"].sum) / 3 == pytest.approx(z, rel=1e-4, abs=1e-4)
    assert float(terms["loss"].sum) == pytest.approx(losses.sum(), rel=1e-5)
    assert float(packed["loss"].sum) == pytest.approx(losses.sum(), rel=1e-5)
    predictions = TASK.predictions(jax.device_get(outputs), items, spec)
    np.testing.assert_allclose([one["reward"] for one in predictions], 0.1 * s, atol=1e-4)
    scores = TASK.score(predictions, UNPAIRED, spec)
    assert scores.figures["accuracy"] == pytest.approx(np.mean((s > 0) == (sign > 0)))
    assert scores.majority_baseline == pytest.approx(2 / 3)


def test_scores_with_and_without_a_reference():
    spec = spec_of()
    items = TASK.prepare(RECORDS, small.TOKENIZER, spec)
    outputs = {
        "policy": np.float32([[[-1, -2]], [[-5, -2]], [[-4, -5]]]),
        "reference": np.float32([[[-1, -1]], [[-9, -3]], [[-1, -5]]]),
        "tokens": np.ones((3, 1, 2), np.float32),
    }
    scores = TASK.score(TASK.predictions(outputs, items, spec), RECORDS, spec)
    assert scores.main == "accuracy" and scores.figures["likelier"] == pytest.approx(2 / 3)
    # h = 1, 4 - 1 = 3, -3 - 0 = -3
    assert scores.figures["accuracy"] == pytest.approx(2 / 3)
    assert scores.figures["mean_margin"] == pytest.approx(0.1 / 3)
    del outputs["reference"]
    assert TASK.score(TASK.predictions(outputs, items, spec), RECORDS, spec).main == "likelier"


def test_a_pair_that_is_too_long_keeps_its_answers():
    spec = spec_of(length=32)
    long = small.records_of({"prompt": "p" * 40, "chosen": "12345678", "rejected": "90"})
    (item,) = TASK.prepare(long, small.TOKENIZER, spec)
    row = TASK.example(np.random.default_rng(0), item, spec)
    answers = [row["targets"][(row["segments"] == number) & (row["predicted"] > 0)] for number in (1, 2)]
    assert [ids.tolist() for ids in answers] == [[*encode("12345678"), V.eos], [*encode("90"), V.eos]]
    prompts = [row["tokens"][row["segments"] == number] for number in (1, 2)]
    assert (
        all(ids[0] == V.bos for ids in prompts) and small.TOKENIZER.decode(prompts[0]) == "pppppppp.A12345678"
    )
    longer = small.records_of({"prompt": "p" * 40, "chosen": "1" * 40, "rejected": "2" * 40})
    (item,) = TASK.prepare(longer, small.TOKENIZER, spec)
    row = TASK.example(np.random.default_rng(0), item, spec)
    assert row["predicted"].sum() == 32 and set(row["segments"]) == {1, 2}


def test_answers_of_a_bart_begin_as_it_was_trained():
    """Encoder bos TEXT eos, decoder eos bos ANSWER eos, of which the answer and its eos are judged."""
    frame = Frame(before=(V.bos,), after=(V.eos,), start=(V.eos,), begin=(V.bos,), end=(V.eos,))
    spec = dataclasses.replace(spec_of("encoder_decoder", length=12, packing=False), frame=frame)
    (record,) = small.records_of({"prompt": "ab", "chosen": "cd", "rejected": "efghijklmnop"})
    (item,) = TASK.prepare([record], small.TOKENIZER, spec)
    row = TASK.example(np.random.default_rng(0), item, spec)
    prompt, chosen = encode("ab"), encode("cd")
    assert row["encoder_tokens"][:4].tolist() == [V.bos, *prompt, V.eos]
    assert row["decoder_tokens"][:4].tolist() == [V.eos, V.bos, *chosen]
    assert row["targets"][:4].tolist() == [V.bos, *chosen, V.eos]
    assert row["predicted"][:4].tolist() == [0, 1, 1, 1]
    # The longer answer is cut to what the row has left, after the two ids before it.
    assert row["decoder_segments"].tolist() == [1] * 4 + [2] * 8
    assert row["decoder_tokens"][4:6].tolist() == [V.eos, V.bos]


@pytest.mark.slow
def test_log_probabilities_in_chunks_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    hidden = jnp.float32(rng.normal(size=(2, 7, 4)))
    kernel = Unembedding(jnp.float32(rng.normal(size=(11, 4))), None, 1.0, 11)
    targets = rng.integers(0, 11, (2, 7))
    y = np.einsum("btd,vd->btv", hidden, kernel.kernel).astype(np.float64)
    expected = np.take_along_axis(y - np.log(np.exp(y).sum(-1, keepdims=True)), targets[..., None], -1)[
        ..., 0
    ]
    for chunk in (0, 3, 7):
        values = token_log_probs(hidden, kernel, targets, LossConfig(chunk=chunk))
        np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_rows_are_shown(kind):
    spec = spec_of(kind)
    (item, *_) = TASK.prepare(RECORDS, small.TOKENIZER, spec)
    row = TASK.example(np.random.default_rng(0), item, spec)
    lines = "\n".join(describe(row, small.TOKENIZER, 3))
    assert "targets: 5, of text: 'cde'" in lines and "segment 2" in lines and "predicted" in lines


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "dpoo"}, "objective.loss = 'dpoo'.*dpo"),
        ({"loss": "kto"}, "'unpaired' records are for 'kto'"),
        ({"beta": 0.0}, "objective.beta = 0.0"),
        ({"label_smoothing": 0.5}, r"objective.label_smoothing = 0.5 must be in \[0, 0.5\)"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "is for objective.loss = 'dpo' or 'robust'"),
        ({"loss": "simpo", "reference": "x"}, "has no reference"),
        ({"sft_weight": -1.0}, "objective.sft_weight"),
    ],
)
def test_bad_configs_say_why(config, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(**config)


def test_bad_records_and_rows_say_why():
    config = spec_of(loss="kto", records="unpaired").config
    with pytest.raises(DataError, match="'maybe' is not true or false"):
        TASK.check_record(config, *small.records_of({"prompt": "a", "completion": "b", "label": "maybe"}))
    with pytest.raises(ConfigError, match="data.sequence_length = 8"):
        TASK.empty_item(spec_of(length=8))
    with pytest.raises(ConfigError, match="adapt.method = 'prompt'"):
        TASK.abstract_spec(config, model_of(adapters=AdapterConfig(prompt_length=2)), LENGTH, (), V)
