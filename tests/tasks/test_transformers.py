"""A fine-tuned import learns as transformers' own model does: by hand, with torch and transformers installed.

pytest -m long tests/tasks/test_transformers.py
"""

import jax
import numpy as np
import pytest

import tlx
from tests.hub import folders
from tests.tasks import small
from tlx import parallel
from tlx.adapt.transfer import from_base
from tlx.optim import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from tlx.tasks import TABLE
from tlx.tasks.shared.base import TaskSpec
from tlx.training.config import TrainConfig
from tlx.training.state import State, boxed_params
from tlx.training.step import make_step

STEPS, ROWS, LENGTH, RATE = 20, 8, 16, 1e-3
WORDS = "the cat sat on mat and a über 고양이 import os print".split()


def original(transformers, family, folder, vocab_size):
    """A tiny model with random weights, written to the folder, and the class that is trained."""
    shape = {"vocab_size": vocab_size, "num_labels": 3}
    if family == "t5":
        config = transformers.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
            **folders.with_end(folder), **shape,
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
        model.save_pretrained(folder)
    elif family == "bert":
        drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=LENGTH, **drops, **shape,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
        model.bert.save_pretrained(folder)
    else:
        drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=LENGTH, pad_token_id=0, **drops, **shape
        )
        model = transformers.GPT2ForSequenceClassification(config)
        model.transformer.save_pretrained(folder)
    return model.train()


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_the_loss_curve_is_that_of_transformers(family, tmp_path):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    torch.manual_seed(0)
    if family != "t5":
        (folders.word_pieces if family == "bert" else folders.byte_pairs)(tmp_path)
    model = original(transformers, family, tmp_path, 96 if family == "bert" else 304)
    lm = tlx.load(tmp_path)
    rng = np.random.default_rng(0)
    records = small.records_of(
        *({"text": " ".join(rng.choice(WORDS, 3)), "label": str(rng.integers(3))} for _ in range(4 * ROWS))
    )
    name = "generation" if family == "t5" else "classification"
    task, asked = TABLE.load(name), {}
    if family == "t5":
        asked = {"source": "say it: {text}", "target": "{label} {text}", "target_length": 12}
    config = task.infer_labels(task.config_class(**asked), records)
    spec = TaskSpec(config, LENGTH, lm.tokenizer.vocab, lm.kind)
    items = task.prepare(records, lm.tokenizer, spec)
    rows = [task.example(rng, item, spec) for item in items]
    batches = [
        {key: np.stack([row[key] for row in rows[start : start + ROWS]]) for key in rows[0]}
        for start in range(0, len(rows), ROWS)
    ]
    ours = _ours(task, config, lm, batches)
    theirs = _theirs(torch, model, family, batches, ours.head)
    np.testing.assert_allclose(ours.losses, theirs, rtol=1e-3)


class _Curve:
    def __init__(self, head, losses):
        self.head, self.losses = head, losses


def _ours(task, config, lm, batches):
    module = task.module(config, lm.module.model)
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batches[0].items()}
    boxed = boxed_params(module, abstract)
    one = {name: value[:1] for name, value in batches[0].items()}
    fresh = parallel.unbox(jax.jit(lambda key: module.init(key, one)["params"])(jax.random.key(0)))
    params = from_base(fresh, jax.device_get(lm.params), config.name, lm.tokenizer.vocab)
    optimizer = OptimizerConfig(
        learning_rate=RATE, beta2=0.999, weight_decay=0.0, schedule=ScheduleConfig("constant", warmup=0)
    )
    schedule = make_schedule(optimizer, STEPS)
    transform = make_optimizer(optimizer, schedule, boxed)
    zero = np.zeros((), np.int32)
    state = State(params, {}, jax.jit(transform.init)(params), None, np.uint32(0), zero, zero, zero)
    step = jax.jit(make_step(module, transform, schedule, TrainConfig(batch_size=ROWS, clip_norm=None)))
    head = jax.device_get(params["heads"][config.name]["classifier"]) if "heads" in params else None
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, batches[number % len(batches)])
        losses.append(float(metrics["loss"]))
    return _Curve(head, losses)


def _theirs(torch, model, family, batches, head):
    if family == "gpt2":  # whose class has no bias there
        model.score = torch.nn.Linear(32, 3)
    if head is not None:
        layer = model.classifier if family == "bert" else model.score
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(head["kernel"].T))
            layer.bias.copy_(torch.tensor(head["bias"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for number in range(STEPS):
        batch = {name: torch.tensor(value) for name, value in batches[number % len(batches)].items()}
        front = "encoder_" if family == "t5" else ""
        given = {
            "input_ids": batch[front + "tokens"].long(),
            "attention_mask": batch[front + "segments"].long(),
        }
        if family == "t5":
            targets = torch.where(batch["weights"] > 0, batch["targets"], -100).long()
            loss = model(**given, decoder_input_ids=batch["decoder_tokens"].long(), labels=targets).loss
        elif family == "bert":
            loss = model(**given, labels=batch["label"].long()).loss
        else:  # at the place that ours reads
            hidden = model.transformer(**given).last_hidden_state
            read = hidden[torch.arange(ROWS), batch["place"].long()]
            loss = torch.nn.functional.cross_entropy(model.score(read), batch["label"].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
