"""Written answers: rows by hand, the loss by numpy, what is written, and how it scores."""

import dataclasses

import jax
import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from tests.tasks import small
from tests.tiers import tiers
from tlx import parallel
from tlx.adapt.config import AdaptConfig
from tlx.adapt.parts import check_patterns
from tlx.base.errors import ConfigError, DataError
from tlx.data.config import DataConfig
from tlx.data.records import RecordPipeline
from tlx.evaluation.answers import evaluate_task, make_predictor
from tlx.evaluation.writing import write
from tlx.metrics import generation as metrics
from tlx.models.transformer import Transformer
from tlx.nn.embed import logits
from tlx.tasks import TABLE
from tlx.tasks.generation import Generation
from tlx.tasks.shared.base import TaskSpec
from tlx.tasks.shared.text_metrics import METRICS

V, encode = small.TOKENIZER.vocab, small.TOKENIZER.encode
TASK = TABLE.load("generation")
SHAPES = ("encoder_decoder", "decoder")
RECORDS = small.records_of(
    {"source": "ab", "target": "xyz"},
    {"source": "a source that is far too long", "target": "q"},
    {"source": "", "target": ["one and much more", "zz"]},
)


def spec_of(shape, **config):
    config = Generation(**({"target_length": 6} | config))
    config.validate()
    return TaskSpec(config, small.LENGTH, V, shape, tokenizer=small.TOKENIZER)


def made(shape, **config):
    spec = spec_of(shape, **config)
    batch = small.batch_of("generation", spec, RECORDS)
    module = small.module_of("generation", shape, spec.config)
    return spec, batch, module, small.init(module, batch)


def test_rows_by_hand():
    a, x = encode("ab"), [*encode("xyz"), V.eos]
    row = small.batch_of("generation", spec_of("encoder_decoder", source="t: {source}"), RECORDS[:1])
    source = [*encode("t: ab"), V.eos]
    assert row["encoder_tokens"][0].tolist() == [*source, *[V.pad] * (16 - len(source))]
    assert row["decoder_tokens"][0].tolist() == [V.bos, *x[:-1], V.pad, V.pad]
    assert row["decoder_segments"][0].tolist() == [1, 1, 1, 1, 0, 0]
    assert row["targets"][0].tolist() == [*x, V.pad, V.pad] and row["weights"][0].tolist() == [
        1,
        1,
        1,
        1,
        0,
        0,
    ]
    row = small.batch_of("generation", spec_of("decoder"), RECORDS[:1])
    assert row["tokens"][0].tolist() == [V.bos, *a, V.sep, *x[:-1], *[V.pad] * 9]
    assert row["targets"][0].tolist() == [*[V.pad] * 3, *x, *[V.pad] * 9]
    np.testing.assert_array_equal(row["weights"][0] > 0, row["targets"][0] != V.pad)
    prompted = dataclasses.replace(spec_of("decoder"), prompt=(500, 501))
    assert small.batch_of("generation", prompted, RECORDS[:1])["tokens"][0, :4].tolist() == [
        V.bos,
        500,
        501,
        a[0],
    ]


def test_long_texts_lose_their_ends_and_a_reference_is_drawn():
    spec = spec_of("decoder")
    _, long, several = TASK.prepare(RECORDS, small.TOKENIZER, spec)
    assert long.source.tolist() == [V.bos, *encode("a source")[: 16 - 6 - 2], V.sep]
    assert [text.tolist() for text in several.targets] == [encode("one an"), [*encode("zz"), V.eos]]
    drawn = {tuple(TASK.example(np.random.default_rng(seed), several, spec)["targets"]) for seed in range(20)}
    assert len(drawn) == 2


@pytest.mark.parametrize("shape", tiers(SHAPES, quick=["decoder"]))
def test_the_loss_is_that_of_the_targets_alone(shape):
    """By numpy from the logits of each row alone, without padding."""
    spec, batch, module, params = made(shape)
    terms, _ = small.evaluated(module, params, batch)
    items, total, count = TASK.prepare(RECORDS, small.TOKENIZER, spec), 0.0, 0
    for item in items:
        target = item.targets[0]
        if len(item.targets) > 1:  # the one that batch_of drew
            target = item.targets[int(np.random.default_rng(0).integers(2))]
        y = logits_of(module, params, item.source, target[:-1], shape)[-len(target) :]
        log_p = y - np.log(np.exp(y).sum(axis=-1, keepdims=True))
        total -= log_p[np.arange(len(target)), target].sum()
        count += len(target)
    assert float(terms["loss"].weight) == count
    assert float(terms["loss"].sum) == pytest.approx(total, rel=1e-4)


def logits_of(module, params, source, target, shape):
    """float64 [T, V] of one row without padding."""
    lm = Transformer(module.model)

    def part(ids, prefix=""):
        ids = np.asarray(ids, np.int32)[None]
        arrays = {"tokens": ids, "segments": np.ones_like(ids), "positions": np.arange(ids.shape[1])[None]}
        return {prefix + name: value for name, value in arrays.items()}

    if shape == "decoder":
        batch = part([*source, *target])
    else:
        batch = part(source, "encoder_") | part([V.bos, *target], "decoder_")

    @jax.jit
    def run(params, batch):
        bound = lm.bind({"params": params})
        return logits(bound(batch), bound.unembedding())

    return np.asarray(run(params["model"], batch), np.float64)[0][:, : V.size]


@pytest.mark.slow
@pytest.mark.parametrize("shape", tiers(["decoder", "encoder_decoder"], quick=["decoder"], slow=()))
def test_what_is_written_is_the_likeliest_token_each_time(shape):
    spec, _, module, params = made(shape)
    items = TASK.prepare(RECORDS, small.TOKENIZER, spec)
    pipeline = RecordPipeline(DataConfig(), RECORDS, items, TASK, spec, 2, 0, "validation")
    predictor = make_predictor(module)
    found = evaluate_task(predictor, params, TASK, spec, pipeline)
    assert found.figures["perplexity"] == pytest.approx(np.exp(found.figures["loss"]))
    ids = write(module.model, params["model"], TASK.generation_requests(items, spec), spec, 2)
    for item, one, answer in zip(items, ids, found.answers, strict=True):
        written = []
        while len(written) < 6 and (not written or written[-1] != V.eos):
            written.append(int(logits_of(module, params, item.source, written, shape)[-1].argmax()))
        assert one == [i for i in written if i != V.eos]
        assert answer["answer"] == small.TOKENIZER.decode(one).strip()
    # fewer batches: the first records; on a mesh: the same texts
    assert (
        evaluate_task(predictor, params, TASK, spec, pipeline, None, lambda b: b, 1).answers
        == found.answers[:2]
    )
    mesh = parallel.MeshConfig(data=2, fsdp=1)
    with parallel.use(parallel.make_mesh(mesh, jax.devices()[:2]), parallel.rules(mesh)):
        again = evaluate_task(make_predictor(module), params, TASK, spec, pipeline)
    assert again.answers == found.answers


WAYS = [(shape, method) for shape in SHAPES for method in ("lora", "prefix", "prompt")]
IN_CI = [("decoder", "prompt"), ("encoder_decoder", "prefix")]


@pytest.mark.parametrize("shape, method", tiers(WAYS, slow=IN_CI))
def test_adapted_models_write_what_they_learned(shape, method):
    """The cached decoder knows all that adaptation adds."""
    adapters = AdaptConfig(method, size=3).adapters
    model = dataclasses.replace(small.model_of(shape), adapters=adapters)
    prompt = tuple(range(model.padded_vocab, model.padded_vocab + adapters.prompt_length))
    spec = dataclasses.replace(spec_of(shape, target_length=4), prompt=prompt)
    module = TASK.module(spec.config, model)
    params = small.init(module, small.batch_of("generation", spec, RECORDS))
    items = TASK.prepare(RECORDS, small.TOKENIZER, spec)
    one = write(model, params["model"], TASK.generation_requests(items, spec), spec, 3)[0]
    y = logits_of(module, params, items[0].source, one[:-1], shape)
    assert len(one) == 4 and one == y[-4:].argmax(axis=-1).tolist()


def test_a_task_without_a_head_has_none_to_train():
    with pytest.raises(ConfigError, match="this task has none"):
        check_patterns(AdaptConfig("head"), {"model": {"kernel": np.zeros(1)}})
    check_patterns(AdaptConfig("head", also_train=("kernel",)), {"model": {"kernel": np.zeros(1)}})


def test_scores_are_the_libraries_own():
    rng = np.random.default_rng(0)
    words = "the a cat sat on mat and then it ran 고양이 가 앉았다".split()
    records = small.records_of(
        *(
            {"source": "", "target": [" ".join(rng.choice(words, 7)) for _ in range(n % 2 + 1)]}
            for n in range(9)
        )
    )
    spec = spec_of("decoder", metrics=tuple(METRICS))
    said = [" ".join(rng.choice(words, 7)) for _ in records]
    answers = [{"answer": text} for text in said]
    figures = TASK.score(answers, records, spec).figures
    known = [record.values["target"] for record in records]
    columns = [[texts[0] for texts in known], [texts[1] if len(texts) > 1 else None for texts in known]]
    assert figures["bleu"] == sacrebleu.corpus_bleu(said, columns).score > 0
    assert figures["chrf"] == sacrebleu.corpus_chrf(said, columns).score
    assert figures["chrf++"] == sacrebleu.corpus_chrf(said, columns, word_order=2).score
    english = [" ".join(w for w in text.split() if w.isascii()) for text in said]
    scorer = rouge_scorer.RougeScorer(["rouge2", "rougeL"])
    best = [scorer.score_multi(texts, text) for texts, text in zip(known, english, strict=True)]
    ours = metrics.rouge(english, known, ascii_words=True)
    for name in ("rouge2", "rougeL"):
        assert ours[name] == pytest.approx(np.mean([one[name].fmeasure for one in best]), rel=1e-9)
    assert figures["rougeLsum"] > 0 and -1 <= figures["spearman"] <= 1 or np.isnan(figures["spearman"])
    some = np.array([3, 3, 8, 0])
    scores = TASK.score(answers, records, dataclasses.replace(spec, config=Generation(metrics=("bleu",))))
    again = sacrebleu.corpus_bleu([said[i] for i in some], [[col[i] for i in some] for col in columns])
    assert scores.statistic(some) == again.score and scores.main == "bleu"
    alike = small.records_of(*({"target": text} for text in ("the cat sat there", "a b c d e", "a b c d e")))
    same = TASK.score([{"answer": ""}] * 3, alike, spec_of("decoder", metrics=("chrf",))).majority_baseline
    assert same == sacrebleu.corpus_chrf(["a b c d e"] * 3, [["the cat sat there"] + ["a b c d e"] * 2]).score


def test_labels_in_words_and_numbers():
    how = Generation(target="{label}", label_words=(("0", "bad"), ("1", "good")), metrics=("accuracy",))
    records = small.records_of({"label": 1}, {"label": "0"}, {"label": 1})
    assert [how.references(record) for record in records] == [["good"], ["bad"], ["good"]]
    spec = TaskSpec(how, 16, V, "decoder")
    scores = TASK.score([{"answer": "good"}, {"answer": "good"}, {"answer": " bad"}], records, spec)
    assert scores.figures == {"accuracy": pytest.approx(1 / 3)} and scores.majority_baseline == pytest.approx(
        2 / 3
    )
    numbers = Generation(target="{score}", number_step=0.2, metrics=("pearson",))
    assert numbers.references(small.records_of({"score": "3.86"})[0]) == ["3.8"]
    assert dataclasses.replace(numbers, number_step=1.0).references(small.records_of({"score": 2.6})[0]) == [
        "3"
    ]
    records = small.records_of(*({"score": value} for value in (1, 2, 5)))
    scores = TASK.score([{"answer": "1"}, {"answer": "x"}, {"answer": "4"}], records, spec_with(numbers))
    assert scores.figures["pearson"] == pytest.approx(np.corrcoef([1, -1, 4], [1, 2, 5])[0, 1])


def spec_with(config):
    return TaskSpec(config, 16, V, "decoder")


@pytest.mark.parametrize(
    ("config", "values", "error", "message"),
    [
        ({"metrics": ("blue",)}, {}, ConfigError, "did you mean 'bleu'"),
        ({"metrics": ()}, {}, ConfigError, "objective.metrics is empty"),
        ({"source": "text"}, {}, ConfigError, "objective.source = 'text' names no column"),
        ({"target_length": 1}, {}, ConfigError, "objective.target_length = 1"),
        ({"target_length": 14}, {}, ConfigError, "sequence_length = 16 leaves no room"),
        ({}, {"sauce": "", "target": ""}, DataError, "file:1 .*did you mean 'sauce'"),
        ({}, {"source": {"a": 1}, "target": ""}, DataError, "file:1.*objective.source wants texts"),
        ({"label_words": (("a", "b"),)}, {"source": "", "target": "c"}, DataError, "objective.label_words"),
        ({"number_step": 0.2}, {"source": "", "target": "c"}, DataError, "'c' is no number"),
    ],
)
def test_mistakes_are_told(config, values, error, message):
    with pytest.raises(error, match=message):
        spec = spec_of("decoder", **config)
        TASK.empty_item(spec)
        TASK.prepare(small.records_of(values), small.TOKENIZER, spec)
