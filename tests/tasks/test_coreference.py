"""Coreference: windows and labels, the loss against a loop in numpy, predictions, scores, and learning."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.configs.test_learning import one_device  # noqa: F401
from tests.shared_data import SHARED_DATA
from tests.tasks import small
from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record, RecordFiles, read_files
from tlx.models.span_ranking import SpanRankingConfig, bucket_of_distance
from tlx.tasks import TABLE
from tlx.tasks.coreference import sentence_windows, sentences_of
from tlx.tasks.shared.heads import hidden_states

TASK = TABLE.load("coreference")
RANKING = SpanRankingConfig(
    max_span_width=4, max_antecedents=3, hidden_width=8, feature_width=3, window_distances=2
)
DOCUMENTS = small.records_of(
    {
        "text": "Ann saw Bob. She ran to him.",
        "clusters": [[[0, 3], [13, 16]], [[8, 11], [24, 27]]],
        "sentences": [[0, 12], [13, 28]],
        "speakers": [[0, 3, "x"], [4, 16, "y"], [17, 28, "x"]],
        "genre": "nw",
    },
    {"text": "Kim ran. Lee saw Kim. He sat.", "clusters": [[[0, 3], [17, 20]]], "genre": "bc"},
)


def spec_of(shape="encoder", records=DOCUMENTS, **config):
    values = {"windows": 2, "ranking": RANKING, "genres": ("bc", "nw"), **config}
    return small.spec_of("coreference", shape, records, **values)


def test_windows_are_of_whole_sentences():
    sentences = np.repeat([1, 2, 3, 4], [3, 2, 4, 9])
    assert sentence_windows(sentences, 5) == [(0, 5), (5, 9), (9, 14), (14, 18)]
    assert sentence_windows(sentences, 9) == [(0, 9), (9, 18)]
    assert sentence_windows(sentences, 99) == [(0, 18)]
    assert sentence_windows(np.zeros(0, int), 5) == [(0, 0)]
    with pytest.raises(ConfigError, match="leaves no room"):
        sentence_windows(sentences, 0)


def test_sentences_of_a_text_without_them():
    record = Record("r", {"text": "He ran. Why?! Yes\nno"})
    spans = sentences_of(record, spec_of().config)
    assert [record.values["text"][start:stop] for start, stop in spans] == [
        "He ran. ",
        "Why?! ",
        "Yes\n",
        "no",
    ]


@pytest.mark.parametrize("shape", small.SHAPES)
def test_labels_are_at_the_ids_of_mentions(shape):
    spec = spec_of(shape)
    items = TASK.prepare(DOCUMENTS, small.TOKENIZER, spec)
    batch = small.batch_of("coreference", spec, DOCUMENTS)
    tokens = batch["decoder_tokens" if shape == "encoder_decoder" else "tokens"]
    found = set()
    for number, window, first, width in zip(*np.nonzero(batch["label"]), strict=True):
        text = small.TOKENIZER.decode(tokens[number, window, first : first + width + 1].tolist())
        found.add((items[number].record, int(batch["label"][number, window, first, width]), text))
        speakers = batch["speakers"][number, window, first : first + width + 1]
        if text in ("Ann", "She", "him"):
            assert set(speakers.tolist()) == {{"Ann": 1, "She": 2, "him": 1}[text]}
    assert found == {(0, 1, "Ann"), (0, 1, "She"), (0, 2, "Bob"), (0, 2, "him"), (1, 1, "Kim")}
    assert batch["genre"].tolist() == [{0: 1, 1: 0}[item.record] for item in items]
    # Special ids are of no sentence.
    texts = [
        small.TOKENIZER.decode(row[numbers > 0].tolist())
        for row, numbers in zip(tokens, batch["sentences"], strict=True)
    ]
    of_record = {
        number: "".join(t for t, item in zip(texts, items, strict=True) if item.record == number)
        for number in (0, 1)
    }
    assert of_record == {number: record.values["text"] for number, record in enumerate(DOCUMENTS)}
    segments = batch["decoder_segments" if shape == "encoder_decoder" else "segments"]
    for number, item in enumerate(items):
        assert batch["num_tokens"][number] == np.count_nonzero(segments[number, : len(item.texts)])


def numpy_ranking(params, hidden, batch, shape, number):
    """(loss, {span: antecedent or None}) of one document, in loops."""

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def network(name, x):
        inner = params[name]
        x = np.maximum(x @ inner["hidden_0"]["kernel"] + inner["hidden_0"]["bias"], 0)
        return (x @ inner["output"]["kernel"] + inner["output"]["bias"])[0]

    sentences = batch["sentences"][number].ravel()
    entities = batch["label"][number].reshape(-1, shape.max_span_width)
    speakers = batch["speakers"][number].ravel()
    length = batch["sentences"].shape[-1]
    spans, vectors, scores = [], {}, {}
    for first in range(len(sentences)):
        for width in range(shape.max_span_width):
            last = first + width
            if last >= len(sentences) or not sentences[first] or sentences[last] != sentences[first]:
                continue
            states = hidden[first : last + 1]
            logits = dense("word_attention", states)[:, 0]
            weights = np.exp(logits - logits.max())
            mean = (weights / weights.sum()) @ states
            vector = np.concatenate([hidden[first], hidden[last], params["widths"][width], mean])
            vectors[first, last] = vector
            scores[first, last] = network("mention", vector) + network(
                "width_prior", params["prior_widths"][width]
            )
            spans.append((first, last))
    kept = []
    for span in sorted(spans, key=lambda span: -scores[span]):
        crossing = [o for o in kept if o[0] < span[0] <= o[1] < span[1] or span[0] < o[0] <= span[1] < o[1]]
        if not crossing and len(kept) < int(shape.span_fraction * batch["num_tokens"][number]):
            kept.append(span)
    kept.sort()

    def bucket(distance):
        return distance if distance <= 4 else min(9, int(np.floor(np.log2(distance))) + 3)

    g = [vectors[span] for span in kept]
    fast = {}
    for i in range(len(kept)):
        all_before = []
        for j in range(i):
            prior = dense("distance_prior", params["prior_distances"][bucket(i - j)])[0]
            value = scores[kept[i]] + scores[kept[j]] + dense("source", g[i]) @ g[j] + prior
            all_before.append((value, j))
        for value, j in sorted(all_before, reverse=True)[: shape.max_antecedents]:
            fast[i, j] = value
    for step in range(shape.depth):
        total = {}
        for (i, j), value in fast.items():
            apart = min(kept[i][0] // length - kept[j][0] // length, shape.window_distances - 1)
            features = [
                params["speakers"][int(speakers[kept[i][0]] == speakers[kept[j][0]])],
                params["genres"][batch["genre"][number]],
                params["distances"][bucket(i - j)],
                params["window_distances"][apart],
            ]
            total[i, j] = value + network("pair", np.concatenate([g[i], g[j], g[i] * g[j], *features]))
        moved = []
        for i in range(len(kept)):
            values = np.array([0.0, *(v for (k, _), v in total.items() if k == i)])
            weights = np.exp(values - values.max())
            weights = weights / weights.sum()
            mean = weights @ np.stack([g[i], *(g[j] for k, j in total if k == i)])
            gate = 1 / (1 + np.exp(-dense("gate", np.concatenate([g[i], mean]))))
            moved.append(gate * mean + (1 - gate) * g[i])
        g = moved if step + 1 < shape.depth else g
    loss, best = 0.0, {}
    for i, (first, last) in enumerate(kept):
        entity = entities[first, last - first]
        pairs = {j: v for (k, j), v in total.items() if k == i}
        right = [
            v for j, v in pairs.items() if entity and entities[kept[j][0], kept[j][1] - kept[j][0]] == entity
        ]
        loss += np.log(np.exp([0.0, *pairs.values()]).sum()) - np.log(np.exp(right or [0.0]).sum())
        j = max(pairs, key=lambda j: pairs[j], default=None)
        best[first, last] = kept[j] if j is not None and pairs[j] > 0 else None
    return loss, best


def test_the_loss_and_the_antecedents_are_those_of_a_loop():
    spec = spec_of()
    batch = small.batch_of("coreference", spec, DOCUMENTS)
    module = small.module_of("coreference", "encoder", spec.config)
    params = small.init(module, batch)
    params = {**params, "heads": jax.tree.map(lambda leaf: 2 * leaf, params["heads"])}
    # So that some spans have an antecedent.
    params["heads"]["coreference"]["distance_prior"]["bias"] += 3.0
    terms, outputs = small.evaluated(module, params, batch)
    outputs = jax.device_get(outputs)
    states = module.apply(
        {"params": params}, batch, method=lambda module, batch: hidden_states(module.lm, batch, None)
    )
    hidden = np.asarray(states, np.float64)
    head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["heads"]["coreference"])
    losses = 0.0
    for number in range(len(batch["weights"])):
        loss, best = numpy_ranking(head, hidden[number].reshape(-1, hidden.shape[-1]), batch, RANKING, number)
        losses += loss
        starts, widths = outputs["starts"][number], outputs["widths"][number]
        spans = list(zip(starts.tolist(), (starts + widths).tolist(), strict=True))[: len(best)]
        assert spans == sorted(best)
        chosen = [spans[j] if j >= 0 else None for j in outputs["antecedents"][number][: len(best)]]
        assert chosen == [best[span] for span in spans]
        assert (outputs["antecedents"][number][len(best) :] == -1).all()
    assert any(antecedent >= 0 for antecedent in outputs["antecedents"].ravel())
    np.testing.assert_allclose(float(terms["loss"].sum), losses, rtol=2e-5)
    assert float(terms["loss"].weight) == len(batch["weights"])
    # The same spans as given mentions, without any pruning.
    given = {
        "mention_starts": np.where(outputs["starts"] + outputs["widths"] > 0, outputs["starts"], -1),
        "mention_widths": outputs["widths"],
    }
    same_terms, same = small.evaluated(module, params, batch | given)
    np.testing.assert_allclose(same_terms["loss"].sum, terms["loss"].sum, rtol=1e-5)
    assert np.array_equal(same["antecedents"], outputs["antecedents"])


def test_given_mentions_are_ranked_alone():
    """Those of a column, also without labels, and across the sentences that the rule for them makes."""
    gold = [[0, 3], [13, 16], [8, 11]]
    records = small.records_of({"text": "Ann saw B.b. She ran.", "clusters": [gold[:2]], "mentions": gold})
    spec = spec_of(records=records, mentions="mentions", windows=3)
    (item,) = TASK.prepare(records, small.TOKENIZER, spec, labelled=False)
    assert item.label is None and len(item.mentions) == 3
    (item,) = TASK.prepare(records, small.TOKENIZER, spec)
    row = TASK.example(np.random.default_rng(0), item, spec)
    starts, widths = row["mention_starts"][:3], row["mention_widths"][:3]
    assert (row["mention_starts"][3:] == -1).all() and (np.diff(starts) > 0).all()
    spans = [
        row["tokens"].ravel()[start : start + width + 1] for start, width in zip(starts, widths, strict=True)
    ]
    assert [small.TOKENIZER.decode(span.tolist()).strip() for span in spans] == ["Ann", "B.b", "She"]
    assert row["label"].reshape(-1, RANKING.max_span_width)[starts, widths].tolist() == [1, 0, 1]
    few = spec_of(records=records, mentions="mentions", ranking=dataclasses.replace(RANKING, max_spans=2))
    with pytest.raises(DataError, match="3 mentions are given, and 2 are ranked; raise objective.ranking"):
        TASK.prepare(records, small.TOKENIZER, few)
    (record,) = small.records_of({**records[0].values, "mentions": [[0, 99]]})
    with pytest.raises(DataError, match="'mentions' must have mentions .* inside a text of 21 characters"):
        TASK.check_record(spec.config, record)


@pytest.mark.slow
@pytest.mark.parametrize("shape", small.SHAPES)
def test_every_shape_has_the_outputs_that_predictions_read(shape):
    spec = spec_of(shape)
    batch = small.batch_of("coreference", spec, DOCUMENTS)
    module = small.module_of("coreference", shape, spec.config)
    keys = jax.random.split(jax.random.key(0), len(batch["weights"]))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), batch)["params"])
    terms, _ = jax.eval_shape(lambda params: module.apply({"params": params}, batch, None, keys), params)
    assert set(terms) == {"loss", "mention_recall"}
    evaluated = lambda params: module.apply({"params": params}, batch, method="evaluated")  # noqa: E731
    _, outputs = jax.eval_shape(evaluated, params)
    kept = int(RANKING.span_fraction * 2 * small.LENGTH)
    assert {name: leaf.shape for name, leaf in outputs.items()} == dict.fromkeys(
        ("starts", "widths", "antecedents"), (len(batch["weights"]), kept)
    )


def test_distances_have_ten_buckets():
    distances = np.array([-3, 0, 1, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 999])
    assert np.asarray(bucket_of_distance(distances)).tolist() == [0, 0, 1, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]


def outputs_of(label):
    """Outputs of a model that keeps the mentions of a label, each with the one before of its entity."""
    spans = [tuple(map(int, where)) for where in zip(*np.nonzero(label), strict=True)]
    length = label.shape[1]
    starts = np.array([window * length + first for window, first, _ in spans])
    before = [
        max((j for j in range(i) if label[spans[j]] == label[spans[i]]), default=-1)
        for i in range(len(spans))
    ]
    pad = lambda values, fill: np.pad(values, (0, 9 - len(values)), constant_values=fill)  # noqa: E731
    return {
        "starts": pad(starts, 0),
        "widths": pad(np.array([width for *_, width in spans]), 0),
        "antecedents": pad(np.array(before), -1),
    }


def test_right_antecedents_score_as_the_ceiling():
    spec = spec_of(windows=3)
    items = TASK.prepare(DOCUMENTS, small.TOKENIZER, spec)
    assert [item.record for item in items] == [0, 1]
    batch = small.batch_of("coreference", spec, DOCUMENTS)
    rows = [outputs_of(label) for label in batch["label"]]
    outputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    answers = TASK.predictions(outputs, items, spec)
    assert answers == [{"clusters": record.values["clusters"]} for record in DOCUMENTS]
    scores = TASK.score(answers, DOCUMENTS, spec)
    assert scores.main == "conll_f1" and scores.figures["conll_f1"] == pytest.approx(1.0)
    assert scores.statistic(np.array([0, 0])) == pytest.approx(1.0)
    assert TASK.ceiling(items, DOCUMENTS, spec).figures == scores.figures
    # Entities do not reach over parts of a document, and too long mentions are not learned.
    short = spec_of(windows=1)
    items = TASK.prepare(DOCUMENTS, small.TOKENIZER, short)
    assert [item.record for item in items] == [0, 0, 0, 1, 1, 1]
    assert TASK.ceiling(items, DOCUMENTS, short).figures["conll_f1"] < 0.7
    narrow = spec_of(windows=3, ranking=dataclasses.replace(RANKING, max_span_width=2))
    items = TASK.prepare(DOCUMENTS, small.TOKENIZER, narrow)
    assert TASK.ceiling(items, DOCUMENTS, narrow).figures["conll_f1"] == 0.0


def test_pronouns_of_gap_are_scored_by_gender():
    gap = {"pronoun": "She", "spans": [[13, 16], [0, 3], [8, 11]], "coref": [True, False]}
    records = small.records_of({**DOCUMENTS[0].values, "gap": gap})
    right = TASK.score([{"clusters": [[[0, 3], [13, 16]]]}], records, spec_of())
    assert right.main == "gap_f1" and right.figures["gap_f1_feminine"] == 1.0
    # A mention around the name counts, and one of another entity does not.
    around = TASK.score([{"clusters": [[[0, 11], [13, 16]], [[8, 11], [24, 27]]]}], records, spec_of())
    assert around.figures["gap_f1"] == pytest.approx(2 / 3)
    assert around.figures["gap_nearest_f1"] == 0.0 and around.figures["gap_random_f1"] == pytest.approx(0.5)


def test_the_baselines_of_the_files_of_gap():
    folder = SHARED_DATA / "coreference"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    records = read_files((str(folder / "gap-validation.tsv"),), RecordFiles(format="gap"), "validation")
    figures = TASK.score([{"clusters": []}] * len(records), records, spec_of()).figures
    print({name: round(value, 4) for name, value in figures.items() if "gap" in name})
    assert figures["gap_f1"] == 0.0 and 0.4 < figures["gap_random_f1"] < 0.5 < figures["gap_nearest_f1"] + 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clusters": [[[0, 99]]]}, "inside a text of 28 characters"),
        ({"clusters": [[]]}, "entities of one mention"),
        ({"clusters": [[[0, 3]], [[0, 3]]]}, r"has the mention \[0, 3\] twice"),
        ({"clusters": [[0, 3]]}, "must be a list of entities, each a list of mentions"),
        ({"clusters": [[["0", 3]]]}, "must be a list of entities"),
        ({"clusters": 7}, "must be a list of entities"),
        ({"sentences": [[5, 9], [0, 4]]}, "the stretches of 'sentences' must ascend"),
        ({"speakers": [[0, 3]]}, "must be a list of stretches"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(values, message):
    (record,) = small.records_of({**DOCUMENTS[0].values, **values})
    with pytest.raises(DataError, match=f"file:1.*{message}"):
        TASK.check_record(spec_of().config, record)


def test_what_is_wrong_with_a_config_is_said():
    with pytest.raises(ConfigError, match="objective.windows = 0 must be at least 1"):
        dataclasses.replace(spec_of().config, windows=0).validate()
    with pytest.raises(ConfigError, match="objective.ranking.depth = 0 must be at least 1"):
        dataclasses.replace(spec_of().config, ranking=dataclasses.replace(RANKING, depth=0)).validate()
