"""A fine-tuned import reads texts in its own form and learns as transformers' class does, which tokenizes for itself.

pytest -m 'slow or long' tests/tasks/test_transformers_frames.py
"""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

import tlx
from tests.hub import folders
from tests.tasks import small
from tests.tiers import tiers
from tlx.optim import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from tlx.run.spec import make_module, spec_of
from tlx.tasks import TABLE
from tlx.training.config import TrainConfig
from tlx.training.state import State, boxed_params
from tlx.training.step import make_step

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    pytest.skip("needs torch and transformers (pip install -e '.[hf]' torch)", allow_module_level=True)

STEPS, ROWS, LENGTH, RATE = 20, 8, 24, 1e-3
WORDS = "the cat sat on mat and a über import os print".split()
SPECIAL = list(folders.BERT_SPECIAL.values())
# Template of one text and of two, with the types of the second.
TEMPLATES = {
    "bart": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
    "xlnet": ("$A:0 [SEP]:0 [CLS]:2", "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"),
    "xlm": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "electra": ("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
}
NUM_TEXTS = {"bart": 1, "xlnet": 2, "xlm": 2, "electra": 2}


def original(transformers, family, folder):
    """A tiny model with random weights and its tokenizer, written to the folder."""
    from tokenizers import processors

    tokenizer = folders.word_pieces(folder)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    single, pair = TEMPLATES[family]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(ids.items())
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    pad = ids["[PAD]"]
    common = {"vocab_size": tokenizer.get_vocab_size(), "num_labels": 3, "pad_token_id": pad}
    if family == "bart":
        config = transformers.BartConfig(
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32, dropout=0.0, attention_dropout=0.0,
            classifier_dropout=0.0, decoder_start_token_id=ids["[SEP]"], eos_token_id=ids["[SEP]"],
            bos_token_id=ids["[CLS]"], **common,
        )  # fmt: skip
        return transformers.BartForSequenceClassification(config)
    if family == "xlnet":
        config = transformers.XLNetConfig(
            d_model=32, n_layer=1, n_head=4, d_inner=48, dropout=0.0, summary_last_dropout=0.0, **common
        )
        return transformers.XLNetForSequenceClassification(config)
    if family == "xlm":
        config = transformers.XLMConfig(
            emb_dim=32, n_layers=1, n_heads=4, dropout=0.0, attention_dropout=0.0, summary_first_dropout=0.0,
            summary_activation=None, max_position_embeddings=32, n_langs=1, pad_index=pad, bos_index=ids["[CLS]"],
            eos_index=ids["[SEP]"], unk_index=ids["[UNK]"], mask_index=ids["[MASK]"], **common,
        )  # fmt: skip
        return transformers.XLMForSequenceClassification(config)
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    config = transformers.ElectraConfig(
        hidden_size=32, embedding_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, **drops, **common,
    )  # fmt: skip
    return transformers.ElectraForSequenceClassification(config)


@pytest.mark.parametrize("family", tiers(TEMPLATES, slow=("bart",)))
def test_the_loss_curve_is_that_of_the_class_and_its_tokenizer(family, tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    model = original(transformers, family, tmp_path)
    model.save_pretrained(tmp_path)
    num_texts = NUM_TEXTS[family]
    lm = tlx.load(tmp_path, task="pair_classification" if num_texts == 2 else None)
    # As a fine-tuning of the bare model has it: in the form that the import kept, not that of an imported head.
    objective = dataclasses.replace(lm.config.objective, frame="model")
    data = dataclasses.replace(lm.config.data, sequence_length=LENGTH)
    config = dataclasses.replace(lm.config, objective=objective, data=data)
    spec = spec_of(config, lm.tokenizer)
    assert spec.frame is not None and not spec.frames
    rng = np.random.default_rng(0)
    names = ("premise", "hypothesis") if num_texts == 2 else ("text",)
    values = [
        {name: " ".join(rng.choice(WORDS, rng.integers(2, 5))) for name in names}
        | {"label": objective.labels[int(rng.integers(3))]}
        for _ in range(2 * ROWS)
    ]
    task = TABLE.load(objective.name)
    items = task.prepare(small.records_of(*values), lm.tokenizer, spec)
    rows = [task.example(rng, item, spec) for item in items]
    batches = [
        {key: np.stack([row[key] for row in rows[start : start + ROWS]]) for key in rows[0]}
        for start in range(0, len(rows), ROWS)
    ]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="[PAD]",
        padding_side="left" if family == "xlnet" else "right",
    )  # fmt: skip
    labels = [objective.labels.index(value["label"]) for value in values]
    encoded = [
        tokenizer(
            *([value[name] for value in values[start : start + ROWS]] for name in names),
            padding=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        for start in range(0, len(values), ROWS)
    ]
    given = [
        {"labels": torch.tensor(labels[number * ROWS : (number + 1) * ROWS])}
        | {"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]}
        | ({"token_type_ids": one["token_type_ids"]} if family in ("xlnet", "electra") else {})
        for number, one in enumerate(encoded)
    ]
    ours = our_losses(make_module(config, lm.tokenizer.vocab), lm.params, batches)
    np.testing.assert_allclose(ours, their_losses(torch, model.train(), given), rtol=1e-3)
    # In tlx's own rows the first loss of a BART is another one already.
    plain = spec_of(dataclasses.replace(config, frame=None), lm.tokenizer)
    other = {key: np.stack([task.example(rng, i, plain)[key] for i in items[:ROWS]]) for key in rows[0]}
    if family == "bart":
        assert (
            abs(our_losses(make_module(config, lm.tokenizer.vocab), lm.params, [other], 1)[0] - ours[0])
            > 1e-4
        )


def our_losses(module, params, batches, steps=STEPS):
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batches[0].items()}
    boxed = boxed_params(module, abstract)
    optimizer = OptimizerConfig(
        learning_rate=RATE, beta2=0.999, weight_decay=0.0, schedule=ScheduleConfig("constant", warmup=0)
    )
    schedule = make_schedule(optimizer, steps)
    transform = make_optimizer(optimizer, schedule, boxed)
    zero = np.zeros((), np.int32)
    state = State(params, {}, jax.jit(transform.init)(params), None, np.uint32(0), zero, zero, zero)
    step = jax.jit(make_step(module, transform, schedule, TrainConfig(batch_size=ROWS, clip_norm=None)))
    losses = []
    for number in range(steps):
        state, metrics = step(state, batches[number % len(batches)])
        losses.append(float(metrics["loss"]))
    return losses


def their_losses(torch, model, given):
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for number in range(STEPS):
        loss = model(**given[number % len(given)]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
