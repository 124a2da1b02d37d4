"""The end of a pretraining: metrics beside baselines, the loss curve, samples, and the next commands."""

import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import tlx
from tlx.base.place import Place
from tlx.data.batches import Batch
from tlx.data.text_bytes import bytes_of_ids
from tlx.data.token_split import TokenSplit
from tlx.evaluation import ngram
from tlx.run.assemble import Run
from tlx.trainer import samples
from tlx.trainer.config_input import shown_path
from tlx.training.clock import Clock
from tlx.training.peak import matmul_peak
from tlx.training.plot import plot_loss

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel

# Batches whose targets make the unigram of an objective's own targets.
_UNIGRAM_BATCHES = 300

# Tokens from which a trigram is counted, at most: it takes 60 bytes of memory for each.
_TRIGRAM_TOKENS = 20_000_000

# Characters of a prompt that is suggested: from so many letters on, up to about so many in all.
_PROMPT_LETTERS = 6
_PROMPT_LENGTH = 24
_SAMPLE_TOKENS = 48


class TextLoss(NamedTuple):
    """Loss of a model or a baseline on the targets of the final evaluation."""

    nats: float
    """Mean negative log-likelihood of a target, in nats."""
    bits_per_byte: float
    """Bits of all targets over the bytes of text that they stand for."""


def show(run: Run, workdir: Place, figures: Mapping[str, float], model: "LoadedModel") -> dict[str, TextLoss]:
    """Print metrics beside baselines and samples of the model; draw workdir/loss.png.

    Args:
        run: the trained run.
        workdir: its directory.
        figures: metrics of the final evaluation.
        model: the trained model.

    Returns:
        The baselines by name.
    """
    losses = baselines(run)
    loss_of_model = TextLoss(figures["loss"], figures["bits_per_byte"])
    print(f"\nvalidation: {figures['targets']:,.0f} targets that stand for {figures['bytes']:,.0f} bytes")
    print(f"  {'':20} nats/target  bits/byte")
    for name, loss in {"this model": loss_of_model, **losses}.items():
        print(f"  {name:20} {loss.nats:11.4f}  {loss.bits_per_byte:9.4f}")
    for name, loss in losses.items():
        share = 1 - loss_of_model.nats / loss.nats
        print(f"  {abs(share):.1%} {'below' if share > 0 else 'ABOVE'} the {name}")
    title = f"{run.config.name}: {run.config.objective.name}"
    print(f"loss curve: {plot_loss(workdir, title, {name: loss.nats for name, loss in losses.items()})}")
    _show_samples(run, workdir, model)
    return losses


def baselines(run: Run) -> dict[str, TextLoss]:
    """Return the losses of n-gram models, best first, on the batches of the final evaluation.

    The unigram is that of the objective's own targets. A trigram of the text is comparable only with a
    model that predicts all of the text from left to right.
    """
    targets = _targets(itertools.islice(run.validation.epoch_batches(), run.config.eval.final_batches))
    vocab_size = run.tokenizer.vocab.size
    train: Any = run.train  # Pipelines: only tasks have records
    validation: Any = run.validation
    num_bytes = bytes_of_ids(validation.caches, run.tokenizer)
    if run.config.model.kind != "decoder":
        train_targets = _targets(run.train.batch(k) for k in range(_UNIGRAM_BATCHES))
        unigram = ngram.fit_unigram(train_targets, vocab_size)
        return {"unigram": _loss(unigram.log_probs(targets), targets, num_bytes)}
    tokens, offsets = _concatenated(train.caches, _TRIGRAM_TOKENS)
    text, text_offsets = _concatenated(validation.caches, len(targets))
    trigram = ngram.fit_trigram(tokens, offsets, vocab_size)
    unigram = ngram.fit_unigram(tokens, vocab_size)
    return {
        "Kneser-Ney trigram": _loss(trigram.log_probs(text, text_offsets), text, num_bytes),
        "unigram": _loss(unigram.log_probs(text), text, num_bytes),
    }


def _targets(batches: Iterable[Batch]) -> np.ndarray:
    """All targets with a weight, int64 [n]."""
    return np.concatenate([batch["targets"][batch["weights"] > 0] for batch in batches]).astype(np.int64)


def _loss(log_probs: np.ndarray, tokens: np.ndarray, num_bytes: np.ndarray) -> TextLoss:
    nats = -float(log_probs.mean())
    bits = nats * len(tokens) / math.log(2)
    return TextLoss(nats, bits / float(num_bytes[tokens].sum()))


def _concatenated(caches: tuple[TokenSplit, ...], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `most` tokens of all caches as one text, int64, and the offsets of its documents."""
    tokens = []
    offsets = [np.zeros(1, np.int64)]
    start = 0
    for cache in caches:
        count = min(cache.num_tokens, most - start)
        tokens.append(np.asarray(cache.read_tokens(0, count), np.int64))
        offsets += [start + cache.starts_between(0, count), np.array([start + count])]
        start += count
    return np.concatenate(tokens), np.concatenate(offsets)


def _show_samples(run: Run, workdir: Place, model: "LoadedModel") -> None:
    """Print two continued prompts, or two filled gaps; nothing of a bilstm, which tasks read."""
    if run.config.model.kind == "bilstm":
        return
    if jax.process_count() > 1:
        # The trained arrays belong to all processes, and only this one is here.
        model = tlx.load(workdir)
    prompts = samples.held_out_prompts(run, 2)
    if not prompts:
        return
    texts = [prompt.text for prompt in prompts]
    answers = samples.write_answers(model, texts, _SAMPLE_TOKENS, run.config.seed)
    for prompt, answer in zip(prompts, answers, strict=True):
        shown = answer if prompt.truth is None else f"{answer}; it was {prompt.truth!r}"
        _show_sample(prompt.text, shown)


def _show_sample(prompt: str, answer: str) -> None:
    print(f"\n--- from the validation files\n{prompt}\n--- the model\n{answer}")


def show_times(clock: Clock, peak: float) -> None:
    """Print where the time went, and the machine's speed where it has changed from `peak` FLOP/s."""
    clock.training()
    parts = sorted(clock.seconds.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in parts if seconds >= 0.5)
    print(f"\ntime: {sum(clock.seconds.values()):.0f} s ({shown})")
    now = matmul_peak().flops_per_s
    if not 0.8 < now / peak < 1.25:
        print(
            f"this machine's speed drifts: {peak / 1e9:,.0f} GFLOP/s at the start, {now / 1e9:,.0f} now; "
            "times and speeds above drift with it"
        )


def show_next(model: "LoadedModel", workdir: Place, config_words: Sequence[str]) -> None:
    """Print commands that use the run, on a text of its own validation split.

    Args:
        model: the trained model.
        workdir: its run directory.
        config_words: words of the command line that gave its config.
    """
    config = model.config
    path = shown_path(workdir)
    quoted = shlex.quote(path)
    words = shlex.join(word for word in config_words if not word.startswith("--config.train.steps="))
    print("\nnext:")
    starts = samples.document_starts(config, model.tokenizer, 4)
    texts = [model.tokenizer.decode(tokens) for tokens in starts]
    prompt = example_prompt(texts, samples.gap_name(config))
    call = f"fill({prompt!r})" if config.model.kind == "encoder" else f"generate({prompt!r})"
    if config.model.kind == "bilstm":
        call = f"score({prompt!r})"
    else:
        print(f"  tlx generate {quoted} --prompt={shlex.quote(prompt)}")
    print(f"  tlx evaluate {quoted} --data='my/files/*.txt'")
    longer = 2 * config.train.steps
    base = f"--from={shlex.quote(config.base.path)} " if config.base.path else ""
    print(
        f"  tlx train {words} {base}--workdir={quoted} --config.train.steps={longer}   "
        f"# resumes; the schedule is stretched to {longer:,} steps"
    )
    print(f"  python -c {shlex.quote(f'import tlx; lm = tlx.load({path!r}); print(lm.{call})')}")


def example_prompt(texts: Sequence[str], gap: str | None) -> str:
    """Return the beginning of a line of the texts, one that is easy to type.

    Args:
        texts: beginnings of documents.
        gap: the mark of a gap that the model fills, which replaces the last word; None continues the line.
    """
    lines = [line.strip() for text in texts for line in text.splitlines()]
    # The last line of a text may be cut within a word; letters are what a model has most to say about.
    good = [line for line in lines if line.isprintable() and sum(map(str.isalpha, line)) >= _PROMPT_LETTERS]
    words = (max(good, key=lambda line: sum(map(str.isalpha, line)) / len(line)) if good else "The").split()
    chosen: list[str] = []
    while words and len(" ".join(chosen)) < _PROMPT_LENGTH:
        chosen.append(words.pop(0))
    if gap is not None:
        chosen = [*(chosen[:-1] or chosen), gap]
    return " ".join(chosen)[: 2 * _PROMPT_LENGTH]
