"""Likelihood of given texts under a loaded model: logits, scores, choice among continuations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.api.forward import forward_logits
from tlx.api.text import UNMARKED, Marks, TextMixin, as_list
from tlx.base.errors import ConfigError
from tlx.decode.choice import score_choices
from tlx.evaluation import scoring
from tlx.evaluation.choices import RankedChoice, TextScore, best_of, continuations


class ScoringMixin(TextMixin):
    """Logits and log-likelihoods of given texts."""

    def logits(
        self, tokens: Any, encoder_tokens: Any = None, lengths: Any = None, encoder_lengths: Any = None
    ) -> np.ndarray:
        """Compute the logits of the model's predictions at each position.

        decoder, and a bilstm's forward direction: at t, of the token after t.
        encoder: at t, of the token at t, with all tokens visible.
        two_stream: at t, of the token at t from those before it (the first from an eos).
        encoder_decoder: as a decoder, for `tokens` as the decoder's input, given `encoder_tokens`.

        Args:
            tokens: Token ids [T] or [B, T], or a list of rows of different lengths, which are padded.
            encoder_tokens: Such ids for an encoder-decoder's encoder; None for other models.
            lengths: Number of ids of each row, after which the rest is padding. None: all ids of a row, but pad
                ids at its end if pad is no other special id too (it often is eos).
            encoder_lengths: The same of encoder_tokens.

        Returns:
            float32 [B, T, V], T of the longest row.

        Raises:
            ConfigError: encoder_tokens do not fit the kind of model, lengths do not fit the rows, or the
                checkpoint lacks a head.
        """
        if (encoder_tokens is not None) != (self.kind == "encoder_decoder"):
            raise ConfigError(
                f"encoder_tokens are for an encoder-decoder and needed there; this is {self.kind}"
            )
        self._require_heads()
        rows, counts = self._rows(tokens, lengths, "lengths")
        length = rows.shape[1]
        if self.kind == "two_stream":
            rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=self.tokenizer.vocab.eos)
            counts = counts + 1
        rows = self._pad_to_bucket(rows)
        prefix = "decoder_" if self.kind == "encoder_decoder" else ""
        batch = self._token_arrays(rows, counts, prefix)
        if encoder_tokens is not None:
            source, source_counts = self._rows(encoder_tokens, encoder_lengths, "encoder_lengths")
            batch |= self._token_arrays(self._pad_to_bucket(source), source_counts, "encoder_")
        order = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        if self._characters is not None:
            batch |= {"characters": self._characters[rows]}
        if self.kind == "encoder":
            batch |= {"target_positions": order}
        if self.kind == "two_stream":
            batch |= {"rank": order, "query_rank": order, "target_positions": order[:, 1:]}
        return np.asarray(forward_logits(self.module, self.params, batch))[:, :length]

    def score(
        self,
        texts: str | Sequence[str],
        prompts: str | Sequence[str] | None = None,
        language: str | None = None,
        target_language: str | None = None,
        code: str | None = None,
        mode: str | None = None,
    ) -> TextScore | list[TextScore]:
        """Compute log-likelihood and bits per byte of each text.

        Texts longer than the training length are read in windows that overlap by half. A masked model gives
        the pseudo-log-likelihood (each token masked alone, one row per token); a permutation model reads from
        left to right. Bytes are those of the text itself, whatever the tokenizer makes of it; names of special
        ids in it count as tokens, but have no bytes.

        Args:
            texts: One text or several.
            prompts: Inputs of an encoder-decoder's encoder, one per text, with "<extra_id_0>" for a gap (and
                in the texts for its content); None for other models.
            language: As `generate` has it, of the prompts where there are some, else of the texts.
            target_language: As `generate` has it, of the texts.
            code: As `generate` has it.
            mode: As `generate` has it.

        Returns:
            A list of TextScores; one TextScore for one str.

        Raises:
            ConfigError: prompts do not fit the kind of model, or the checkpoint lacks a head.
        """
        self._require_heads()
        rows = [self._encode(text) for text in as_list(texts)]
        sizes = [self._count_bytes(text) for text in as_list(texts)]
        marks = Marks(language, target_language, code, mode)
        sources = None
        if prompts is not None:
            sources = [self._encode_source(prompt, marks) for prompt in as_list(prompts)]
        log_probs = scoring.log_probs(
            self.module,
            self.params,
            rows,
            self.tokenizer.vocab,
            self.config.data.sequence_length,
            self._frame_of(marks),
            sources,
            self._characters,
        )
        scores = [_text_score(values, size) for values, size in zip(log_probs, sizes, strict=True)]
        return scores[0] if isinstance(texts, str) else scores

    def choose(
        self,
        prompts: str | Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
        by: str = "total",
        language: str | None = None,
        target_language: str | None = None,
        code: str | None = None,
        mode: str | None = None,
    ) -> RankedChoice | list[RankedChoice]:
        """Choose the likeliest of given continuations of each prompt; nothing is sampled.

        Args:
            prompts: One prompt or several.
            choices: Continuations, the same for all prompts, or one sequence per prompt.
            by: What is compared: "total" is the log-likelihood, "tokens" and "bytes" divide it by the
                length of the text.
            language: As `generate` has it.
            target_language: As `generate` has it.
            code: As `generate` has it.
            mode: As `generate` has it.

        Returns:
            A list of RankedChoices; one RankedChoice for one str.

        Raises:
            ConfigError: `by` is unknown, or the model is no decoder or encoder-decoder.
        """
        texts = as_list(prompts)
        if all(isinstance(choice, str) for choice in choices):
            lists = [[str(choice) for choice in choices]] * len(texts)
        else:
            lists = [list(continuation_list) for continuation_list in choices]
        marks = Marks(language, target_language, code, mode)
        scores = self.score_choices(texts, lists, marks)
        ranked = [best_of(options, values, by) for options, values in zip(lists, scores, strict=True)]
        return ranked[0] if isinstance(prompts, str) else ranked

    def score_choices(
        self, prompts: Sequence[str], choices: Sequence[Sequence[str]], marks: Marks = UNMARKED
    ) -> list[list[TextScore]]:
        """Compute the likelihood of each choice after its prompt; the prompt is encoded once.

        Prompt and choice are tokenized together, with white space between them as part of the choice. An
        encoder-decoder reads the prompt in its encoder; if it fills gaps, the choice is the gap's content.

        Args:
            prompts: Texts to continue.
            choices: Continuations of each prompt.
            marks: Language, code and mode of the texts.

        Returns:
            A list of scores per prompt, in the order of its choices.

        Raises:
            ConfigError: the model is no decoder or encoder-decoder, or a prompt does not fit.
        """
        if self.kind not in ("decoder", "encoder_decoder"):
            raise ConfigError(f"choices are scored by decoders and encoder-decoders, this is {self.kind}")
        self._require_heads()
        encoded = [self._encode_choices(*pair, marks) for pair in zip(prompts, choices, strict=True)]
        sources, rows, choice_tokens = zip(*encoded, strict=True)
        scored = score_choices(
            self.network,
            self.params["model"],
            rows,
            choice_tokens,
            self.tokenizer.vocab,
            sources=None if self.kind == "decoder" else sources,
            max_length=self.max_length,
        )
        sizes = [self._choice_bytes(*pair) for pair in zip(prompts, choices, strict=True)]
        return [
            [_text_score(choice.log_probs, size) for choice, size in zip(*pair, strict=True)]
            for pair in zip(scored, sizes, strict=True)
        ]

    def _choice_bytes(self, prompt: str, choices: Sequence[str]) -> list[int]:
        """Return the bytes of each choice, with the white space at the prompt's end that a decoder predicts."""
        spaces = prompt[len(prompt.rstrip()) :] if self.kind == "decoder" else ""
        return [self._count_bytes(spaces + choice) for choice in choices]

    def num_tokens(self, prompt: str, choices: Sequence[str]) -> int:
        """Count the tokens of a prompt with its longest choice, in the longer of encoder and decoder."""
        source, row, choice_tokens = self._encode_choices(prompt, choices)
        return max(len(source), len(row) + max(map(len, choice_tokens), default=0))

    def _encode_choices(
        self, prompt: str, choices: Sequence[str], marks: Marks = UNMARKED
    ) -> tuple[list[int], list[int], list[list[int]]]:
        """Return ids of (the encoder's input, empty for a decoder; the decoder's prefix; each choice)."""
        frame = self._frame_of(marks, prompt)
        if self.kind == "encoder_decoder":
            fills = self._appends_gap(prompt, marks) or (self._fills_gaps and self._keeps_special(prompt))
            gap = [self.tokenizer.vocab.sentinel(0)] if fills else []
            choice_tokens = [self._encode(choice) for choice in choices]
            return self._encode_source(prompt, marks), [*frame.prompt, *gap], choice_tokens
        prompt_tokens, choice_tokens = continuations(self._encode, prompt, choices)
        return [], [*frame.prompt, *prompt_tokens, *frame.cue] or list(frame.context), choice_tokens


def _text_score(log_probs: np.ndarray, num_bytes: int) -> TextScore:
    log_likelihood = float(log_probs.sum())
    bits_per_byte = -log_likelihood / math.log(2) / num_bytes if num_bytes else math.nan
    return TextScore(log_likelihood, bits_per_byte, len(log_probs), num_bytes)
