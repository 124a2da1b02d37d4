"""What `tlx.load` returns: a trained model as an object.

lm = tlx.load("runs/quickstart")
lm.generate("def main(", max_tokens=32)
lm.score(["import os"])[0].bits_per_byte
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.adapt.config import AdaptConfig
from tlx.adapt.merge import merge
from tlx.api.forward import expected_params, forward_hidden, forward_logits
from tlx.api.reply import messages_from, reply
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.data.readers import Record
from tlx.data.records import RecordPipeline
from tlx.decode import generate as decoding
from tlx.decode import stop as stopping
from tlx.decode.beam import beam_search
from tlx.decode.choice import score_choices
from tlx.decode.padding import bucket, pad
from tlx.decode.sampling import Sampling
from tlx.evaluation import scoring
from tlx.evaluation.answers import Predictor, make_predictor, predict_split
from tlx.evaluation.choices import RankedChoice, TextScore, best_of, continuations
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream
from tlx.objectives.shared.base import ObjectiveModule
from tlx.parallel import unbox
from tlx.run import RunConfig
from tlx.run.config import get_objective
from tlx.run.spec import make_module, spec_of
from tlx.tasks.shared.base import is_supervised
from tlx.text import Tokenizer
from tlx.training.config import BaseConfig

PLACEHOLDERS = ("[MASK]", "<mask>")


class Candidate(NamedTuple):
    """One way to fill a gap."""

    piece: str
    probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained model with all it needs. `params` is {"model": ..., "heads": ...}, on the default device."""

    config: RunConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    module: ObjectiveModule
    step: int  # of the checkpoint

    @property
    def kind(self) -> str:
        """encoder, decoder, encoder_decoder, two_stream or bilstm."""
        return self.config.model.kind

    @property
    def standalone_params(self) -> dict[str, Any]:
        """The parameters with all of the language model in "model": what a task goes on from."""
        made = getattr(self.module, "standalone", None)
        return self.params if made is None else made(self.params)

    @property
    def num_params(self) -> int:
        """Number of scalars in all parameters."""
        return tree.num_params(self.params)

    def logits(self, tokens: Any, encoder_tokens: Any = None) -> np.ndarray:
        """float32 [B, T, V] from ids [B, T] (or [T]); pad ids are padding.

        decoder, and a bilstm's forward direction: at t, of the token after t.
        encoder: at t, of the token at t, all being visible.
        two_stream: at t, of the token at t from those before it (the first from an eos).
        encoder_decoder: as a decoder's, for `tokens` on the decoder's side, given `encoder_tokens`.
        """
        if (encoder_tokens is not None) != (self.kind == "encoder_decoder"):
            raise ConfigError(
                f"encoder_tokens are for an encoder-decoder and needed there; this is {self.kind}"
            )
        self._need_heads()
        rows = np.atleast_2d(np.asarray(tokens, np.int32))
        length = rows.shape[1]
        if self.kind == "two_stream":
            rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=self.tokenizer.vocab.eos)
        rows = self._widened(rows)
        prefix = "decoder_" if self.kind == "encoder_decoder" else ""
        batch = self._placed(rows, prefix)
        if encoder_tokens is not None:
            given = self._widened(np.atleast_2d(np.asarray(encoder_tokens, np.int32)))
            batch |= self._placed(given, "encoder_")
        order = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        if self._characters is not None:
            batch |= {"characters": self._characters[rows]}
        if self.kind == "encoder":
            batch |= {"target_positions": order}
        if self.kind == "two_stream":
            batch |= {"rank": order, "query_rank": order, "target_positions": order[:, 1:]}
        return np.asarray(forward_logits(self.module, self.params, batch))[:, :length]

    def score(
        self, texts: str | Sequence[str], prompts: str | Sequence[str] | None = None
    ) -> TextScore | list[TextScore]:
        """Log-likelihood and bits per byte of each text; one Score for one str.

        Texts longer than the training length are read in windows that overlap by half. A masked model
        gives the pseudo-log-likelihood (each token masked alone: as many rows as tokens), a permutation
        model reads from left to right. An encoder-decoder needs `prompts`, which its encoder reads (with
        "<extra_id_0>" for a gap, and in the texts for what fills it). Special ids count as tokens only.
        """
        self._need_heads()
        rows = [self._encode(text) for text in _as_list(texts)]
        sources = None
        if prompts is not None:
            sources = [self._source(prompt) for prompt in _as_list(prompts)]
        found = scoring.log_probs(
            self.module,
            self.params,
            rows,
            self.tokenizer.vocab,
            self.config.data.sequence_length,
            sources,
            self._characters,
        )
        scores = [self._score(row, log_probs) for row, log_probs in zip(rows, found, strict=True)]
        return scores[0] if isinstance(texts, str) else scores

    def generate(
        self,
        prompts: str | Sequence[str],
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        num_beams: int = 0,
        length_penalty: float = 1.0,
        begin: str = "",
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
    ) -> str | list[str]:
        """What follows each prompt, without the prompt; one str for one str. temperature 0 is greedy.

        stop: texts that end the answer, which they are not part of, wherever tokens begin and end.

        num_beams: search for the likeliest text with so many beams instead of drawing one; length_penalty is
        the power of its length that its log-probability is divided by. begin: what the decoder's side of an
        encoder-decoder begins with (a language's token, say); it is not in the answer.

        An encoder-decoder trained to fill gaps fills the "<extra_id_0>", "<extra_id_1>" ... of its prompt,
        and answers in that form; a prompt without a gap is continued. Others read the prompt as it is, where
        "[MASK]" is their mask. A permutation model continues from left to right (slowly: it has no cache).
        A masked model cannot: see `fill`.
        """
        if self.kind == "encoder":
            raise ConfigError('a masked model does not continue texts; use fill("... [MASK] ...")')
        if self.kind == "bilstm":
            raise ConfigError("a bilstm is there to be read by tasks, not to continue texts; use score")
        asked = _as_list(prompts)
        stopping.check(stop)
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        vocab, sources = self.tokenizer.vocab, None
        if self.kind == "encoder_decoder":
            sources = [self._source(prompt) for prompt in asked]
            rows = [[vocab.bos, *self._encode(begin)]] * len(asked)
        else:
            begin = vocab.eos if self.kind == "two_stream" else vocab.bos
            rows = [[begin, *self._encode(prompt)] for prompt in asked]
        given = {"sources": sources, "max_tokens": max_tokens, "max_length": self.max_length}
        given["stops_SV"] = self.automaton(tuple(stop), any(map(self._shows_names, asked)))
        lm, params = self.network, self.params["model"]
        if num_beams and (sampling.penalised or sampling.min_p):
            raise ConfigError(
                f"min_p and repetition_penalty are for drawing tokens; num_beams = {num_beams} searches"
            )
        if num_beams:
            found = beam_search(
                lm, params, rows, vocab, num_beams=num_beams, length_penalty=length_penalty, **given
            )
            drawn = [best.tokens for best, *_ in found]
        else:
            drawn = decoding.generate(lm, params, rows, vocab, sampling=sampling, seed=seed, **given)
        texts = [self._answer(prompt, ids) for prompt, ids in zip(asked, drawn, strict=True)]
        texts = [stopping.cut(text, stop) for text in texts]
        return texts[0] if isinstance(prompts, str) else texts

    def choose(
        self,
        prompts: str | Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
        by: str = "total",
    ) -> RankedChoice | list[RankedChoice]:
        """Which of the given texts goes on best after each prompt; one Choice for one str.

        choices: the same for all prompts, or a sequence for each. by: "total" (the log-likelihood), or that
        over the "tokens" or "bytes" of each text. Nothing is drawn: all of them are scored.
        """
        asked = _as_list(prompts)
        shared = all(isinstance(choice, str) for choice in choices)
        given = [list(choices)] * len(asked) if shared else [list(own) for own in choices]
        scored = self.score_choices(asked, given)
        found = [best_of(own, scores, by) for own, scores in zip(given, scored, strict=True)]
        return found[0] if isinstance(prompts, str) else found

    def score_choices(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[TextScore]]:
        """How likely each choice of a prompt is behind it; the prompt goes through the model once.

        Prompt and choice are cut into tokens together, white space between them being the choice's. An
        encoder-decoder reads the prompt in its encoder (and where it fills gaps, the choice is in the gap).
        """
        if self.kind not in ("decoder", "encoder_decoder"):
            raise ConfigError(f"choices are scored by decoders and encoder-decoders, this is {self.kind}")
        self._need_heads()
        sources, rows, behind = zip(*map(self._choosing, prompts, choices), strict=True)
        given = {"sources": sources, "max_length": self.max_length}
        if self.kind == "decoder":
            given["sources"] = None
        params, vocab = self.params["model"], self.tokenizer.vocab
        found = score_choices(self.network, params, rows, behind, vocab, **given)
        return [
            [self._score(ids, scored.log_probs) for ids, scored in zip(*pair, strict=True)]
            for pair in zip(behind, found, strict=True)
        ]

    def num_tokens(self, prompt: str, choices: Sequence[str]) -> int:
        """Of a prompt with the longest of its choices as `score_choices` reads them, in the longer tower."""
        source, row, behind = self._choosing(prompt, choices)
        return max(len(source), len(row) + max(map(len, behind), default=0))

    def _choosing(self, prompt: str, choices: Sequence[str]) -> tuple[list[int], list[int], list[list[int]]]:
        """(what the encoder reads, where there is one, the decoder's side before choices, the choices)."""
        vocab = self.tokenizer.vocab
        if self.kind == "encoder_decoder":
            begin = [vocab.bos, vocab.sentinel(0)] if self._fills_gaps else [vocab.bos]
            return self._source(prompt), begin, [self._encode(choice) for choice in choices]
        before, behind = continuations(self._encode, prompt, choices)
        return [], [vocab.bos, *before], behind

    def fill(self, text: str, top: int = 5) -> list[list[Candidate]]:
        """The `top` likeliest tokens for each "[MASK]" (or "<mask>") of `text`, each gap by itself."""
        if self.kind not in ("encoder", "two_stream"):
            instead = '("... <extra_id_0> ...")' if self.kind == "encoder_decoder" else ""
            raise ConfigError(f"fill is for masked models, this is {self.kind}; use generate{instead}")
        self._need_heads()
        vocab = self.tokenizer.vocab
        tokens = _encode(self.tokenizer, text, self._masks)
        frame = (vocab.cls, vocab.sep) if self.kind == "encoder" else (vocab.eos,)
        row = np.array([frame[0], *tokens, *frame[1:]])
        (gaps,) = np.nonzero(row == vocab.mask)
        if not len(gaps):
            raise ConfigError(f"the text to fill has no {PLACEHOLDERS[0]}")
        if len(row) > self.config.data.sequence_length:
            raise ConfigError(
                f"the text to fill has {len(row)} tokens, the model reads {self.config.data.sequence_length}"
            )
        rows = self._widened(row[None])
        batch = self._placed(rows) | {"target_positions": gaps[None]}
        if self.kind == "two_stream":  # everything sees all but the gaps
            batch |= {"rank": np.where(rows == vocab.mask, 0, -1), "query_rank": np.zeros_like(rows)}
        logits_PV = np.asarray(forward_logits(self.module, self.params, batch))[0]
        probs_PV = np.asarray(jax.nn.softmax(np.where(vocab.special, -np.inf, logits_PV[:, : vocab.size])))
        best_PK = np.argsort(-probs_PV, axis=-1)[:, :top]
        return [
            [Candidate(self.tokenizer.decode([index]), float(probs[index])) for index in best]
            for best, probs in zip(best_PK, probs_PV, strict=True)
        ]

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """float32 [N, D] (or [D] for one str): the mean of the last hidden states over each text's tokens.

        The encoder's of an encoder-decoder; of two streams the content stream's, every token seeing all; of a
        bilstm the mean of all its layers, both directions side by side [N, 2 D].
        ConfigError for a text longer than the model has positions for.
        """
        vocab = self.tokenizer.vocab
        frames = {"encoder": ([vocab.cls], [vocab.sep]), "encoder_decoder": ([], [vocab.eos])}
        before, behind = frames.get(self.kind, ([vocab.bos], []))
        rows = [[*before, *self._encode(text), *behind] for text in _as_list(texts)]
        longest = max(map(len, rows), default=0)
        if self.max_length is not None and longest > self.max_length:
            raise ConfigError(f"a text has {longest} tokens, the model has {self.max_length} positions")
        batch = pad(rows, vocab.pad, left=False, limit=self.max_length)
        arrays = batch._asdict()
        if self._characters is not None:
            arrays["characters"] = self._characters[arrays["tokens"]]
        hidden_NTD = np.asarray(forward_hidden(self.network, self.params["model"], arrays), np.float32)
        place_NT = np.arange(hidden_NTD.shape[1])[None]
        lengths_N1 = np.array([[len(row) - len(behind)] for row in rows])
        weight_NT = (place_NT >= len(before)) & (place_NT < lengths_N1)
        totals = np.einsum("ntd,nt->nd", hidden_NTD, weight_NT.astype(np.float32))
        means = totals / np.float32(np.maximum(weight_NT.sum(axis=1, keepdims=True), 1))
        return means[0] if isinstance(texts, str) else means

    def predict(self, records: str | Mapping[str, Any] | Sequence[Any]) -> Any:
        """What a model fine-tuned on a task answers: {"label": ..., "probability": ...} and the like.

        A record is a mapping of the columns that the task reads, or its one text; one answer for one record.
        """
        task = get_objective(self.config)
        if not is_supervised(task):
            raise ConfigError(f"predict is for fine-tuned models, this is {self.config.objective.name}")
        alone = isinstance(records, str | Mapping)
        asked, (column, *_) = [records] if alone else list(records), task.text_columns(self.config.objective)
        values = [{column[0]: record} if isinstance(record, str) else record for record in asked]
        rows = [Record(f"record {number}", value) for number, value in enumerate(values)]
        spec = spec_of(self.config, self.tokenizer)
        items = task.prepare(rows, self.tokenizer, spec, labelled=False)
        size = min(bucket(len(items)), self.config.train.batch_size)
        pipeline = RecordPipeline(self.config.data, rows, items, task, spec, size, 0, "predict")
        answers = predict_split(self._predictor, self.params, task, spec, pipeline).answers
        return answers[0] if alone else answers

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        template: str = "",
    ) -> str:
        """What the assistant says next: of a decoder tuned on the task "chat", by the template that it was
        tuned with (or one of text/chat.py's, by name).

        messages: {"role": "user", "content": ...} and so on, the last one the user's; or one question. The
        oldest ones are left out where the model's length has no room for them.
        """
        how = Sampling(temperature, top_k, top_p)
        return reply(self, messages_from(messages), max_tokens, how, seed, template).text

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return make_predictor(self.module)

    def merged(self) -> "LoadedModel":
        """The same model with what LoRA or added hidden units learned as part of its matrices."""
        model, params = merge(self.module.model, jax.device_get(self.params))
        model = dataclasses.replace(model, vocab_size=self.config.model.vocab_size)
        config = dataclasses.replace(self.config, model=model, adapt=AdaptConfig(), base=BaseConfig())
        module = make_module(config, self.tokenizer.vocab)
        return dataclasses.replace(self, config=config, module=module, params=jax.device_put(params))

    def _need_heads(self) -> None:
        """ConfigError where the objective predicts with a head that the checkpoint does not hold."""
        if get_objective(self.config).supervised and not hasattr(self.module, "logits"):
            raise ConfigError(f"this model is fine-tuned for {self.config.objective.name}; use predict")
        if self._missing_heads:
            raise ConfigError(
                f"this checkpoint is a bare model: {self.config.objective.name} predicts with "
                f"heads/{self._missing_heads[0]}, which it lacks; take one that was saved with its head"
            )

    @functools.cached_property
    def _missing_heads(self) -> list[str]:
        wanted = unbox(expected_params(self.module, self.config, self.tokenizer))
        return sorted(set(wanted.get("heads", {})) - set(self.params.get("heads", {})))

    @functools.cached_property
    def _characters(self) -> np.ndarray | None:
        return getattr(spec_of(self.config, self.tokenizer), "characters", None)  # a task's spec has none

    @functools.cached_property
    def network(self) -> Transformer | TwoStream:
        """The language model inside the module. Decoding runs plain einsums whatever trained it."""
        execution = dataclasses.replace(self.module.model.execution, attention="xla")
        cfg = dataclasses.replace(self.module.model, execution=execution)
        return TwoStream(cfg) if self.kind == "two_stream" else Transformer(cfg)

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest text that there are positions for; None: no limit."""
        return self.config.model.position.max_positions

    @functools.cached_property
    def _fills_gaps(self) -> bool:
        return get_objective(self.config).fills_gaps and self.tokenizer.vocab.num_sentinels > 0

    @functools.cached_property
    def automaton(self) -> Callable[[tuple[str, ...], bool], np.ndarray | None]:
        """Of stop strings; those of the last calls are kept."""
        return functools.lru_cache(4)(
            lambda stop, names_too: stopping.automaton(stop, self.tokenizer, names_too) if stop else None
        )

    @functools.cached_property
    def _names(self) -> dict[str, int]:
        """What stands in a text for an id of its own: sentinels and mask, for an encoder-decoder."""
        vocab = self.tokenizer.vocab
        if self.kind != "encoder_decoder":
            return {}
        sentinels = [vocab.sentinel(i) for i in range(vocab.num_sentinels)]
        return {self.tokenizer.piece(index): index for index in sentinels} | self._masks

    @functools.cached_property
    def _masks(self) -> dict[str, int]:
        return dict.fromkeys(PLACEHOLDERS, self.tokenizer.vocab.mask)

    def _encode(self, text: str) -> list[int]:
        return _encode(self.tokenizer, text, self._names)

    def _source(self, prompt: str) -> list[int]:
        """What the encoder reads; where gaps are filled, a prompt without one gets one behind it."""
        vocab, ids = self.tokenizer.vocab, self._encode(prompt)
        if self._fills_gaps and not self._has_gap(ids):
            ids.append(vocab.sentinel(0))
        before, behind = getattr(self.tokenizer, "frame", ((), (vocab.eos,)))
        return [*before, *ids, *behind]

    def _has_gap(self, ids: Sequence[int]) -> bool:
        vocab = self.tokenizer.vocab
        return any(vocab.is_sentinel(index) for index in ids)

    def _shows_names(self, prompt: str) -> bool:
        """Whether the answer has the names of special ids in it."""
        return self._has_gap(self._encode(prompt))

    def _answer(self, prompt: str, ids: list[int]) -> str:
        if self._shows_names(prompt):
            return self.tokenizer.decode(ids, keep_special=True)
        if self._fills_gaps:  # what stands in the gap behind the prompt
            second = self.tokenizer.vocab.sentinel(1)
            ids = ids[: ids.index(second)] if second in ids else ids
        return self.tokenizer.decode(ids)

    def _score(self, ids: Sequence[int], log_probs: np.ndarray) -> TextScore:
        total = float(log_probs.sum())
        num_bytes = int(self.tokenizer.num_bytes[np.asarray(ids, int)].sum())
        bits = -total / math.log(2) / num_bytes if num_bytes else math.nan
        return TextScore(total, bits, len(ids), num_bytes)

    def _widened(self, rows: np.ndarray) -> np.ndarray:
        """Padded on the right to one of few widths: each compiles a program."""
        more = bucket(rows.shape[1]) - rows.shape[1]
        return np.pad(rows, ((0, 0), (0, more)), constant_values=self.tokenizer.vocab.pad)

    def _placed(self, rows: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
        real = rows != self.tokenizer.vocab.pad
        if prefix == "decoder_":  # which some models begin with their pad
            real[:, 0] = True
        positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
        parts = {"tokens": rows, "segments": real.astype(np.int32), "positions": positions}
        return {prefix + name: value for name, value in parts.items()}


def _encode(tokenizer: Tokenizer, text: str, names: dict[str, int]) -> list[int]:
    """Ids of `text`, with the id of each of `names` where it stands."""
    if not names:
        return tokenizer.encode(text)
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        ids += [names[part]] if part in names else tokenizer.encode(part)
    return ids


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
