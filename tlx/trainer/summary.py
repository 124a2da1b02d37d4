"""How `tlx train` ends: figures beside baselines, the loss curve, samples, and what to type next."""

import itertools
import math
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import tlx
from tlx.data.cache import TokenCache
from tlx.data.prepare import open_caches
from tlx.evaluation import ngram
from tlx.run.assemble import Run
from tlx.training.clock import Clock
from tlx.training.peak import matmul_peak
from tlx.training.plot import plot_loss
from tlx.training.step import Batch

# Batches whose targets make the unigram of an objective's own targets.
_UNIGRAM_BATCHES = 300

# Tokens from which a trigram is counted, at most: it takes 60 bytes of memory for each.
_TRIGRAM_TOKENS = 20_000_000

_PROMPT_TOKENS, _SAMPLE_TOKENS = 24, 48
_GAP = (12, 13)  # the token of a prompt that a model fills in, where it does not continue

_GAP_NAMES = {"encoder": "[MASK]", "encoder_decoder": "<extra_id_0>"}


class TextLoss(NamedTuple):
    """How well something predicts the targets of the evaluation."""

    nats: float  # per target
    bits_per_byte: float


def show(run: Run, workdir: pathlib.Path, figures: Mapping[str, float]) -> dict[str, TextLoss]:
    """Prints all of it and draws workdir/loss.png; returns the baselines."""
    scores = baselines(run)
    model = TextLoss(figures["loss"], figures["bits_per_byte"])
    print(f"\nvalidation: {figures['targets']:,.0f} targets that stand for {figures['bytes']:,.0f} bytes")
    print(f"  {'':20} nats/target  bits/byte")
    for name, score in {"this model": model, **scores}.items():
        print(f"  {name:20} {score.nats:11.4f}  {score.bits_per_byte:9.4f}")
    for name, score in scores.items():
        share = 1 - model.nats / score.nats
        print(f"  {abs(share):.1%} {'below' if share > 0 else 'ABOVE'} the {name}")
    title = f"{run.config.name}: {run.config.objective.name}"
    print(f"loss curve: {plot_loss(workdir, title, {name: score.nats for name, score in scores.items()})}")
    _show_samples(run, workdir)
    return scores


def baselines(run: Run) -> dict[str, TextLoss]:
    """Best first, on the batches of the final evaluation.

    The unigram is that of the objective's own targets. A trigram of the text is comparable only with a
    model that predicts all of the text from left to right.
    """
    targets = _targets(itertools.islice(run.validation.epoch_batches(), run.config.eval.final_batches))
    if run.config.model.kind != "decoder":
        seen = _targets(run.train.batch(k) for k in range(_UNIGRAM_BATCHES))
        unigram = ngram.fit_unigram(seen, run.tokenizer.vocab.size)
        return {"unigram": _score(unigram.log_probs(targets), targets, run)}
    tokens, offsets = _joined(open_caches(run.config.data, run.tokenizer, "train"), _TRIGRAM_TOKENS)
    text, text_offsets = _joined(open_caches(run.config.data, run.tokenizer, "validation"), len(targets))
    trigram = ngram.fit_trigram(tokens, offsets, run.tokenizer.vocab.size)
    unigram = ngram.fit_unigram(tokens, run.tokenizer.vocab.size)
    return {
        "Kneser-Ney trigram": _score(trigram.log_probs(text, text_offsets), text, run),
        "unigram": _score(unigram.log_probs(text), text, run),
    }


def _targets(batches: Iterable[Batch]) -> np.ndarray:
    """All targets with a weight, int64 [n]."""
    return np.concatenate([batch["targets"][batch["weights"] > 0] for batch in batches]).astype(np.int64)


def _score(log_probs: np.ndarray, tokens: np.ndarray, run: Run) -> TextLoss:
    nats = -float(log_probs.mean())
    return TextLoss(nats, nats * len(tokens) / math.log(2) / int(run.tokenizer.num_bytes[tokens].sum()))


def _joined(caches: tuple[TokenCache, ...], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `most` tokens of all caches as one text, int64, and where its documents begin."""
    tokens, offsets, start = [], [np.zeros(1, np.int64)], 0
    for cache in caches:
        count = min(cache.num_tokens, most - start)
        tokens.append(np.asarray(cache.tokens[:count], np.int64))
        inside = cache.offsets[1:][cache.offsets[1:] < count]
        offsets += [start + inside, np.array([start + count])]
        start += count
    return np.concatenate(tokens), np.concatenate(offsets)


def _show_samples(run: Run, workdir: pathlib.Path) -> None:
    """Two continued prompts, or two filled gaps, through the same door that users take.

    Nothing of a bilstm, which is there to be read by tasks.
    """
    if run.config.model.kind == "bilstm":
        return
    lm = tlx.load(workdir)
    parts = [[run.tokenizer.decode(part) for part in np.split(x, _GAP)] for x in _beginnings(run, 2)]
    if lm.kind in ("encoder", "encoder_decoder"):
        for first, gap, rest in parts:
            prompt = f"{first}{_GAP_NAMES[lm.kind]}{rest}"
            _show_sample(prompt, f"{_filled(lm, prompt)}; it was {gap!r}")
        return
    prompts = ["".join(part) for part in parts]
    texts = lm.generate(prompts, _SAMPLE_TOKENS, temperature=0.7, seed=run.config.seed)
    for prompt, text in zip(prompts, texts, strict=True):
        _show_sample(prompt, text)


def _filled(lm: tlx.LoadedModel, prompt: str) -> str:
    """What the model would write into the gap."""
    if lm.kind == "encoder_decoder":
        return lm.generate(prompt, max_tokens=12, temperature=0)
    return ", ".join(f"{c.piece!r} {c.probability:.0%}" for c in lm.fill(prompt, top=3)[0])


def _beginnings(run: Run, count: int) -> list[np.ndarray]:
    """Tokens that documents of the validation split begin with."""
    (cache, *_) = open_caches(run.config.data, run.tokenizer, "validation")
    length = min(_PROMPT_TOKENS, run.config.data.sequence_length // 2)
    long = np.flatnonzero(np.diff(cache.offsets) > length)
    chosen = long[np.linspace(0, len(long), count, endpoint=False).astype(int)] if len(long) else []
    return [np.asarray(cache.tokens[cache.offsets[d] :][:length], np.int32) for d in chosen]


def _show_sample(prompt: str, answer: str) -> None:
    print(f"\n--- from the validation files\n{prompt}\n--- the model\n{answer}")


def show_times(clock: Clock, peak: float) -> None:
    """Where the time went; and how fast the machine multiplies now, where that is not what it was."""
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


def show_next(run: Run, workdir: pathlib.Path, config_words: Sequence[str]) -> None:
    """Commands that go on from here."""
    inside = workdir.is_relative_to(pathlib.Path.cwd())
    path = str(workdir.relative_to(pathlib.Path.cwd()) if inside else workdir)
    place = shlex.quote(path)
    words = shlex.join(word for word in config_words if not word.startswith("--config.train.steps="))
    print("\nnext:")
    gap = _GAP_NAMES.get(run.config.model.kind)
    prompt = "def main(" if gap is None else f"for i in {gap}:"
    call = f"fill({prompt!r})" if run.config.model.kind == "encoder" else f"generate({prompt!r})"
    if run.config.model.kind == "bilstm":
        call = f"score({prompt!r})"
    else:
        print(f"  tlx generate {place} --prompt={shlex.quote(prompt)}")
    print(f"  tlx evaluate {place} --data='my/files/*.txt'")
    longer = 2 * run.config.train.steps
    print(f"  tlx train {words} --workdir={place} --config.train.steps={longer}   # goes on from here")
    print(f"  python -c {shlex.quote(f'import tlx; lm = tlx.load({path!r}); print(lm.{call})')}")
