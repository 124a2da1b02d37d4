"""Text written by a loaded model: continuations, filled masks, a conversation's next answer.

Shapes: A states of the automaton of stop strings.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from tlx.api.core import ModelCore
from tlx.api.draft import drafter_of
from tlx.api.forward import forward_logits
from tlx.api.reply import best_reply, messages_from, reply_pieces, reply_request
from tlx.api.text import PLACEHOLDERS, UNMARKED, Marks, TextMixin, as_list, encode_with_specials, row_arrays
from tlx.base.errors import ConfigError
from tlx.decode import generate as decoding
from tlx.decode import stop as stopping
from tlx.decode.beam import beam_search
from tlx.decode.pieces import TextPieces, text_pieces
from tlx.decode.ranked import sample_and_rank
from tlx.decode.rows import RowRequest, stream
from tlx.decode.sampling import Sampling
from tlx.decode.speculative import generate_speculative
from tlx.decode.stop import joins_bytes

_log = logging.getLogger("tlx")


class Candidate(NamedTuple):
    """A token that may fill a gap."""

    piece: str
    """Text of the token."""
    probability: float
    """Its probability among all tokens but special ones, 0 to 1."""


class GenerationMixin(TextMixin):
    """Generation of text."""

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
        language: str | None = None,
        target_language: str | None = None,
        code: str | None = None,
        mode: str | None = None,
        draft: ModelCore | str | None = None,
        best_of: int = 0,
    ) -> str | list[str]:
        """Continue each prompt by sampling, greedily or with beam search.

        An encoder-decoder trained to fill gaps fills the "<extra_id_0>", "<extra_id_1>" ... of its prompt and
        answers in that form; a prompt without a gap is continued. Others read the prompt as it is, where
        "[MASK]" is their mask. A permutation model continues from left to right (slowly: it has no cache).
        A masked model cannot: see `fill`. One that was trained with languages, control codes or modes writes after
        the one that is named, by default the first (`frame.marks` lists them). What an imported model's
        generation_config.json asks for (several ids that end a text, bad words, forced ids, smallest lengths,
        n-grams that may not repeat) is obeyed; one warning names the keys that are not.

        Args:
            prompts: One prompt or several.
            max_tokens: Largest number of new tokens, the end of the text included.
            temperature: Divides the logits; 0 takes the likeliest token (greedy).
            top_k: Sample from the k likeliest tokens only; 0: from all.
            top_p: Sample from the fewest tokens whose probabilities reach this sum (nucleus); 1: from all.
            seed: Seed of the random draws; prompt i has its own stream, whatever the other prompts are.
            num_beams: Number of beams of a beam search, instead of sampling; 0: sample.
            length_penalty: Exponent of the length by which beam scores are divided; larger favours longer.
            begin: Text that an encoder-decoder's decoder starts with; it is not part of the answer.
            min_p: Drop tokens whose probability is below min_p times that of the likeliest; 0: none.
            repetition_penalty: Penalty on tokens that the text contains already; 1: none.
            stop: Strings that end the answer wherever token boundaries lie; they are not part of it.
            language: Language of the prompts, as data.language names it.
            target_language: Language of the answers; None: that of the prompts.
            code: Control code of the answers, as data.language names it.
            mode: Mode of a mixture of denoisers: "R", "X" or "S"; None: "S" for a prompt to continue, else "R".
            draft: Source of drafts, of which this model judges several at a time (speculative decoding): a small
                decoder with the same tokenizer, or "heads" for the model's own (objective multi_token). The text is
                the same where it is greedy, its distribution is the same else.
            best_of: Number of samples of each prompt, of which the likeliest under the model is returned
                (sample-and-rank; Meena's 20); 0: draw one.

        Returns:
            The continuations without their prompts; one str for one str.

        Raises:
            ConfigError: an argument is not legal, a prompt does not fit, or the model cannot continue texts.
        """
        self._require_continuation(begin)
        stopping.check(stop)
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        self._check_search(sampling, num_beams, draft is not None, best_of)
        texts = as_list(prompts)
        vocab = self.tokenizer.vocab
        marks = Marks(language, target_language, code, mode)
        rows, sources = self._rows_of(texts, begin, marks)
        stops_AV = self.automaton(tuple(stop), any(map(self._keeps_special, texts)))
        if num_beams:
            hypotheses = beam_search(
                self.network,
                self.params["model"],
                rows,
                vocab,
                num_beams=num_beams,
                max_tokens=max_tokens,
                length_penalty=length_penalty,
                sources=sources,
                max_length=self.max_length,
                stops_AV=stops_AV,
                rules=self.generation_rules,
            )
            outputs = [best.tokens for best, *_ in hypotheses]
        elif draft is not None:
            outputs = self._drafted(draft, rows, max_tokens, sampling, seed, stops_AV)
        elif best_of:
            first = RowRequest([], max_tokens, sampling, seed, rules=self.generation_rules)
            requests = [first._replace(prompt=row) for row in rows]
            if sources is not None:
                pairs = zip(requests, sources, strict=True)
                requests = [request._replace(source=source) for request, source in pairs]
            outputs = sample_and_rank(self.row_decoder, requests, best_of, stops_AV)
        else:
            outputs = decoding.generate(
                self.network,
                self.params["model"],
                rows,
                vocab,
                max_tokens=max_tokens,
                sampling=sampling,
                seed=seed,
                sources=sources,
                max_length=self.max_length,
                stops_AV=stops_AV,
                rules=self.generation_rules,
            )
        answers = [
            self._decode_answer(text, tokens, marks) for text, tokens in zip(texts, outputs, strict=True)
        ]
        answers = [stopping.cut(answer, stop) for answer in answers]
        return answers[0] if isinstance(prompts, str) else answers

    def stream(
        self,
        prompt: str,
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        begin: str = "",
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        language: str | None = None,
        target_language: str | None = None,
        code: str | None = None,
        mode: str | None = None,
    ) -> Iterator[str]:
        """Continue a prompt, piece by piece: joined they are what `generate` returns for the same arguments.

        A piece is whole characters, and never the beginning of what becomes a stop string.

        Args:
            prompt: The prompt.
            max_tokens: Largest number of new tokens, the end of the text included.
            temperature: Divides the logits; 0 takes the likeliest token (greedy).
            top_k: Sample from the k likeliest tokens only; 0: from all.
            top_p: Sample from the fewest tokens whose probabilities reach this sum (nucleus); 1: from all.
            seed: Seed of the random draws.
            begin: Text that an encoder-decoder's decoder starts with; it is not part of the answer.
            min_p: Drop tokens whose probability is below min_p times that of the likeliest; 0: none.
            repetition_penalty: Penalty on tokens that the text contains already; 1: none.
            stop: Strings that end the answer wherever token boundaries lie; they are not part of it.
            language: Language of the prompt, as data.language names it.
            target_language: Language of the answer; None: that of the prompt.
            code: Control code of the answer, as data.language names it.
            mode: Mode of a mixture of denoisers; None: "S" for a prompt to continue, else "R".

        Returns:
            An iterator over the pieces.

        Raises:
            ConfigError: an argument is not legal, the prompt does not fit, or the model cannot continue texts.
        """
        stopping.check(stop)
        marks = Marks(language, target_language, code, mode)
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        row = self.row_request(prompt, max_tokens, sampling, begin, marks)._replace(seed=seed)
        stops_AV = self.automaton(tuple(stop), self._keeps_special(prompt))
        return text_pieces(stream(self.row_decoder, row, stops_AV), self.pieces_of(prompt, stop, marks))

    def row_request(
        self, prompt: str, max_tokens: int, sampling: Sampling, begin: str = "", marks: Marks = UNMARKED
    ) -> RowRequest:
        """Return the row whose continuation is that of a prompt.

        Args:
            prompt: The prompt.
            max_tokens: Largest number of new tokens.
            sampling: How tokens are drawn.
            begin: Text that an encoder-decoder's decoder starts with.
            marks: Names of its language, control code or mode.

        Returns:
            The row, with the seed 0.

        Raises:
            ConfigError: an argument is not legal, the prompt does not fit, or the model cannot continue texts.
        """
        self.require_stream(begin)
        (ids,), sources = self._rows_of([prompt], begin, marks)
        source = None if sources is None else sources[0]
        row = RowRequest(ids, max_tokens, sampling, source=source, rules=self.generation_rules)
        self.row_decoder.check(row)
        return row

    def require_stream(self, begin: str = "") -> None:
        """Raise ConfigError where the model does not write texts token by token, or has no use for `begin`."""
        self._require_continuation(begin)
        if self.kind == "two_stream":
            raise ConfigError(
                "a permutation model has no cache, and writes its text as a whole; use generate"
            )

    def pieces_of(self, prompt: str, stop: Sequence[str] = (), marks: Marks = UNMARKED) -> TextPieces:
        """Return what makes pieces of text of an answer's tokens.

        Args:
            prompt: The prompt.
            stop: Strings that end the answer.
            marks: Names of its language, control code or mode.

        Returns:
            The pieces, without a token so far.
        """
        joined = joins_bytes(self.tokenizer)
        return TextPieces(lambda tokens: self._decode_answer(prompt, tokens, marks), stop, joined)

    def _drafted(
        self,
        draft: ModelCore | str,
        rows: list[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seed: int,
        stops_AV: np.ndarray | None,
    ) -> list[list[int]]:
        """Continue rows with the drafts of a small model or of the model's own heads."""
        drafter, max_length = drafter_of(self, draft)
        texts = generate_speculative(
            self.network,
            self.params["model"],
            drafter,
            rows,
            self.tokenizer.vocab,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=seed,
            max_length=max_length,
            stops_AV=stops_AV,
            rules=self.generation_rules,
        )
        # The first token of a text is that of the prompt's pass.
        num_passes = sum(text.num_passes for text in texts)
        num_tokens = sum(len(text.tokens) - 1 for text in texts if text.num_passes)
        if num_passes:
            _log.info("drafts: %d passes, %.2f tokens each", num_passes, num_tokens / num_passes)
        return [text.tokens for text in texts]

    def _check_search(self, sampling: Sampling, num_beams: int, is_drafted: bool, best_of: int) -> None:
        """Raise ConfigError where two ways to find the text are asked for, or one that the model does not have."""
        if num_beams and is_drafted:
            raise ConfigError(f"draft is for drawing tokens; num_beams = {num_beams} searches")
        if num_beams and (sampling.penalised or sampling.min_p):
            raise ConfigError(
                f"min_p and repetition_penalty are for drawing tokens; num_beams = {num_beams} searches"
            )
        if best_of and (num_beams or is_drafted or self.kind == "two_stream"):
            raise ConfigError(
                f"best_of = {best_of} draws whole samples of a decoder or encoder-decoder and ranks them: it does "
                f"not go with num_beams or draft, and this is {self.kind}; leave it at 0"
            )

    def _require_continuation(self, begin: str) -> None:
        """Raise ConfigError where the model does not continue texts, or has no use for `begin`."""
        if self.kind == "encoder":
            raise ConfigError('a masked model does not continue texts; use fill("... [MASK] ...")')
        if self.kind == "bilstm":
            raise ConfigError("a bilstm is there to be read by tasks, not to continue texts; use score")
        if begin and self.kind != "encoder_decoder":
            raise ConfigError(
                f"begin = {begin!r} is for encoder-decoders, this is {self.kind}: put it at the end of the prompt"
            )
        self.require_output()

    def _rows_of(
        self, texts: Sequence[str], begin: str, marks: Marks
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        """Return the ids that the decoder continues for each text, and those that the encoder reads."""
        if self.kind != "encoder_decoder":
            return [self._decoder_prompt(text, marks) for text in texts], None
        sources = [self._encode_source(text, marks) for text in texts]
        return [self._decoder_prompt(begin, marks)] * len(texts), sources

    def fill(self, text: str, top: int = 5, language: str | None = None) -> list[list[Candidate]]:
        """Return the likeliest tokens for each mask of a text; each gap is filled independently.

        Args:
            text: A text with "[MASK]" (or "<mask>") in it.
            top: Number of candidates per gap.
            language: Language of the text, for a model that was trained with languages.

        Returns:
            Candidates of each gap, the likeliest first.

        Raises:
            ConfigError: the model is no masked or permutation model, or the text has no mask or is too long.
        """
        if self.kind not in ("encoder", "two_stream"):
            alternative = '("... <extra_id_0> ...")' if self._fills_gaps else ""
            raise ConfigError(f"fill is for masked models, this is {self.kind}; use generate{alternative}")
        self._require_heads()
        vocab = self.tokenizer.vocab
        tokens = encode_with_specials(self.tokenizer, text, self._mask_pieces)
        frame = self._frame_of(Marks(language))
        row = np.array([*frame.before, *tokens, *frame.after])
        if self.kind == "two_stream":
            row = np.array([*frame.start, *tokens])
        (gaps,) = np.nonzero(row == vocab.mask)
        if not len(gaps):
            raise ConfigError(f"the text to fill has no {PLACEHOLDERS[0]}")
        if len(row) > self.config.data.sequence_length:
            raise ConfigError(
                f"the text to fill has {len(row)} tokens, the model reads {self.config.data.sequence_length}"
            )
        rows = self._pad_to_bucket(row[None])
        batch = self._token_arrays(rows, np.array([len(row)])) | {"target_positions": gaps[None]}
        batch |= row_arrays(frame, [row.tolist()], rows.shape[1]) if self.kind == "encoder" else {}
        if self.kind == "two_stream":
            # Rank -1 makes a token visible to all others; the gaps come after them.
            batch |= {"rank": np.where(rows == vocab.mask, 0, -1), "query_rank": np.zeros_like(rows)}
        logits_PV = np.asarray(forward_logits(self.module, self.params, batch))[0]
        probs_PV = np.asarray(jax.nn.softmax(np.where(vocab.special, -np.inf, logits_PV[:, : vocab.size])))
        best_PK = np.argsort(-probs_PV, axis=-1)[:, :top]
        return [
            [Candidate(self.tokenizer.decode([index]), float(probs[index])) for index in best]
            for best, probs in zip(best_PK, probs_PV, strict=True)
        ]

    def gap_logits(self, rows: Sequence[Sequence[int]], gaps: Sequence[int]) -> np.ndarray:
        """Compute a masked model's logits at one position of each row.

        Rows are padded to data.sequence_length, so that one program serves batches of one size.

        Args:
            rows: Ids of each row, its special ids included.
            gaps: The position in each row.

        Returns:
            float32 [B, V].

        Raises:
            ConfigError: The model is no masked one, or a row is too long.
        """
        if self.kind != "encoder":
            raise ConfigError(f"candidates for a gap come from a masked model, this is {self.kind}")
        self._require_heads()
        width = self.config.data.sequence_length
        lengths = np.array([len(row) for row in rows])
        if lengths.max() > width:
            raise ConfigError(f"a row has {lengths.max()} tokens, the model reads {width}")
        tokens = np.full((len(rows), width), self.tokenizer.vocab.pad, np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        batch = self._token_arrays(tokens, lengths) | {"target_positions": np.asarray(gaps)[:, None]}
        batch |= row_arrays(self.frame, rows, width)
        return np.asarray(forward_logits(self.module, self.params, batch))[:, 0]

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        template: str = "",
        best_of: int = 0,
    ) -> str:
        """Generate the assistant's next answer, with a decoder tuned on conversations.

        That is a run of the task "chat", or an imported model whose files hold a chat template.

        Args:
            messages: {"role": "user", "content": ...} and so on, the last one the user's; or one question.
                The oldest are dropped if the model's length has no room for all.
            max_tokens: Largest number of tokens of the answer.
            temperature: Divides the logits; 0 takes the likeliest token (greedy).
            top_k: Sample from the k likeliest tokens only; 0: from all.
            top_p: Sample from the fewest tokens whose probabilities reach this sum (nucleus); 1: from all.
            seed: Seed of the random draws.
            template: Name of a chat template (text/chat.py); "" is the one that the model was tuned with, or came
                with.
            best_of: Number of samples of the answer, of which the likeliest is returned; 0: draw one.

        Returns:
            The answer.

        Raises:
            ConfigError: the model is no chat decoder, or messages or max_tokens are not legal.
        """
        sampling = Sampling(temperature, top_k, top_p)
        request = reply_request(self, messages_from(messages), max_tokens, sampling, template)
        request = request._replace(row=request.row._replace(seed=seed))
        if best_of:
            return best_reply(self, request, best_of)
        return "".join(reply_pieces(self, self.row_decoder, request.row, request.stop))

    def stream_chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        template: str = "",
    ) -> Iterator[str]:
        """Generate the assistant's next answer piece by piece: joined they are what `chat` returns.

        Args:
            messages: The conversation, as in `chat`.
            max_tokens: Largest number of tokens of the answer.
            temperature: Divides the logits; 0 takes the likeliest token (greedy).
            top_k: Sample from the k likeliest tokens only; 0: from all.
            top_p: Sample from the fewest tokens whose probabilities reach this sum (nucleus); 1: from all.
            seed: Seed of the random draws.
            template: Name of a chat template; "" is the one that the model was tuned with, or came with.

        Returns:
            An iterator over the pieces.

        Raises:
            ConfigError: the model is no chat decoder, or messages or max_tokens are not legal.
        """
        sampling = Sampling(temperature, top_k, top_p)
        request = reply_request(self, messages_from(messages), max_tokens, sampling, template)
        return reply_pieces(self, self.row_decoder, request.row._replace(seed=seed), request.stop)

    @functools.cached_property
    def automaton(self) -> Callable[[tuple[str, ...], bool], np.ndarray | None]:
        """Function that builds the automaton of stop strings; it caches those of the last calls."""
        return functools.lru_cache(4)(
            lambda stop, names_too: stopping.automaton(stop, self.tokenizer, names_too) if stop else None
        )
