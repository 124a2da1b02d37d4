"""Adapter of a loaded model to EleutherAI's lm-evaluation-harness, in the same process.

    import lm_eval, tlx
    from tlx.api.harness import HarnessModel
    lm_eval.simple_evaluate(HarnessModel(tlx.load("runs/large")), tasks=["hellaswag"], num_fewshot=5)

or `tlx evaluate RUN --harness=hellaswag --shots=5`. Requests are tokenized and split into windows as in the
harness's own Hugging Face model, so that an imported model gets the scores that the original gets there; a
model trained by tlx reads the special ids around a text that it was trained with.

Shapes: A states of the automaton of stop strings.

Importing this module needs the package lm-eval (the extra "harness").
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from tlx.api.loaded_model import LoadedModel
from tlx.api.reply import template_of
from tlx.api.text import encode_with_specials
from tlx.base.errors import ConfigError, one_of
from tlx.decode import stop as stopping
from tlx.decode.beam import beam_search
from tlx.decode.choice import ScoredTokens, score_choices
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.text.chat import Message, segments_of, text_of
from tlx.text.model_template import ModelTemplate

# Length of an answer if the task does not give one.
_MAX_TOKENS = 256
_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_KNOWN = (*_MAX_TOKENS_NAMES, *_SAMPLING, "until", "do_sample", "num_beams", "length_penalty")


class HarnessModel(TemplateLM):
    """A decoder or an encoder-decoder as the harness's model class."""

    def __init__(
        self,
        lm: LoadedModel,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        template: str = "",
    ):
        """Wrap a loaded model.

        Args:
            lm: A decoder or an encoder-decoder.
            max_length: Tokens of the longest text; None: the number of positions of the model.
            prefix_token_id: Id before a text that has no context; None: the one of the model's frame, of an
                imported decoder the tokenizer's bos, or its eos if it has no bos.
            template: Name of the chat template for apply_chat_template; "" is that of a run tuned on
                conversations.

        Raises:
            ConfigError: the model is of another kind.
        """
        super().__init__()
        if lm.kind not in ("decoder", "encoder_decoder"):
            raise ConfigError(f"the harness asks decoders and encoder-decoders, this is {lm.kind}")
        self.lm = lm
        self._template = template
        self._uses_template = False
        self.backend = "causal" if lm.kind == "decoder" else "seq2seq"
        self.max_length = max_length or lm.config.model.position.max_length
        self._trained = lm.frame.named()
        before = self._trained.before if self.backend == "seq2seq" else self._trained.prompt
        # An imported decoder's template may put ids after a text too, which the harness's own model keeps.
        ends = self.backend == "seq2seq" or lm.config.frame is not None
        self._frame = (before, self._trained.after if ends else ())
        first = self._trained.first if self.backend == "causal" else (lm.tokenizer.vocab.eos,)
        self._prefix = prefix_token_id or first[-1]

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text."""
        return self.lm.tokenizer.vocab.eos

    @property
    def prefix_token_id(self) -> int:
        """Id before a text that has no context."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Name of tokenizer and template in the harness's cache of requests."""
        return self.lm.tokenizer.hash + self._template

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template (tlx's as JSON) for the harness's records, or None if none is used."""
        if not chat_template:
            return None
        template = template_of(self.lm, self._template)
        if isinstance(template, ModelTemplate):
            return template.source
        return json.dumps(dataclasses.asdict(template))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as text, with special ids by name.

        Without add_generation_prompt the last message is the beginning of the answer.
        """
        self._uses_template = True
        template = template_of(self.lm, self._template)
        messages = [Message(message["role"], message["content"]) for message in chat_history]
        if isinstance(template, ModelTemplate):
            return template.text(messages, reply=add_generation_prompt, continued=not add_generation_prompt)
        history = messages if add_generation_prompt else messages[:-1]
        text = text_of(segments_of(history, template, reply=True), self._special_pieces())
        if add_generation_prompt:
            return text
        spaces = template.assistant.before[len(template.assistant.before.rstrip(" ")) :]
        return text + spaces + (messages[-1].content.strip() if template.trim else messages[-1].content)

    @property
    def _splits_specials(self) -> bool:
        """Whether texts are conversations for one of tlx's own tokenizers."""
        return self._uses_template and not hasattr(self.lm.tokenizer, "frame")

    def _special_pieces(self) -> dict[str, str]:
        """Return {name: piece} of the special ids that templates contain."""
        tokenizer = self.lm.tokenizer
        return {
            name: tokenizer.piece(getattr(tokenizer.vocab, name)) for name in ("bos", "eos", "sep", "cls")
        }

    def _ids(self, string: str) -> list[int]:
        """Encode a text; tlx's own tokenizers do not recognise special ids by name, so these are split off."""
        tokenizer = self.lm.tokenizer
        if not self._splits_specials:
            return tokenizer.encode(string)
        ids = {called: getattr(tokenizer.vocab, name) for name, called in self._special_pieces().items()}
        return encode_with_specials(tokenizer, string, ids)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text, with the tokenizer's special ids around it unless `add_special_tokens` is False."""
        del kwargs
        ids = self._ids(string)
        # A conversation's template contains all special ids already.
        is_framed = add_special_tokens is not False and not self._splits_specials
        prefix, suffix = self._frame if is_framed else ((), ())
        if prefix and add_special_tokens is None and ids[: len(prefix)] == list(prefix):
            # The text itself begins with the special piece.
            prefix = ()
        return [*prefix, *ids, *suffix]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Compute the log-likelihood of whole texts, in windows that do not overlap."""
        windows = []
        owners = []
        for number, request in enumerate(requests):
            (text,) = request.args
            ids = self.tok_encode(text)
            for window in utils.get_rolling_token_windows(ids, self._prefix, self.max_length, 1):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy) of each continuation; equal contexts are encoded once."""
        del kwargs
        by_context: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            if self.backend == "causal":
                max_context = self.max_length + 1 - len(continuation)
                by_context[tuple(context[-max_context:] if max_context > 0 else ())].append(number)
            else:
                by_context[tuple(context[-self.max_length :])].append(number)
        groups = list(by_context.items())
        choices = [[requests[number][2] for number in numbers] for _, numbers in groups]
        contexts = [list(context) for context, _ in groups]
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for (_, numbers), scores in zip(groups, self._score_choices(contexts, choices), strict=True):
            for number, scored in zip(numbers, scores, strict=True):
                results[number] = float(scored.log_probs.sum()), bool(scored.likeliest.all())
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], results[number])
        return results

    def _score_choices(
        self, contexts: list[list[int]], choices: list[list[list[int]]]
    ) -> list[list[ScoredTokens]]:
        prompts, sources = self._decoder_inputs(contexts)
        return score_choices(
            self.lm.network,
            self.lm.params["model"],
            prompts,
            choices,
            self.lm.tokenizer.vocab,
            sources=sources,
            max_length=self.lm.max_length,
        )

    def _decoder_inputs(self, contexts: list[list[int]]) -> tuple[list[list[int]], list[list[int]] | None]:
        """Return the decoder's prompts and the encoder's sources (None for a decoder)."""
        if self.backend == "causal":
            return contexts, None
        return [list(self._trained.prompt)] * len(contexts), contexts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to one of its stop strings."""
        by_kwargs: dict[str, list[int]] = collections.defaultdict(list)
        for number, request in enumerate(requests):
            by_kwargs[json.dumps(request.args[1], sort_keys=True)].append(number)
        texts = [""] * len(requests)
        # Requests of equal generation_kwargs form one batch.
        for kwargs, numbers in by_kwargs.items():
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._continue(contexts, json.loads(kwargs)), strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts

    def _continue(self, contexts: list[str], kwargs: Mapping[str, Any]) -> list[str]:
        """Continue contexts that share their generation_kwargs."""
        lm = self.lm
        for name in kwargs:
            if name not in _KNOWN:
                raise ConfigError(one_of("generation_kwargs", name, _KNOWN))
        until = kwargs.get("until") or []
        until = [text for text in ([until] if isinstance(until, str) else until) if text]
        max_tokens = next((int(kwargs[name]) for name in _MAX_TOKENS_NAMES if kwargs.get(name)), _MAX_TOKENS)
        max_context = self.max_length if self.backend == "seq2seq" else self.max_length - max_tokens
        if max_context < 1:
            raise ConfigError(
                f"max_gen_toks = {max_tokens} leaves no room in the {self.max_length} positions of the model"
            )
        num_beams = kwargs.get("num_beams", 1)
        if num_beams > 1 and kwargs.get("repetition_penalty", 1.0) != 1.0:
            raise ConfigError("generation_kwargs: repetition_penalty is for drawing, num_beams searches")
        # The end of a context that is too long is what the answer depends on.
        rows = [self.tok_encode(context)[-max_context:] or [self._prefix] for context in contexts]
        prompts, sources = self._decoder_inputs(rows)
        stops_AV = lm.automaton(tuple(until), False)
        if num_beams > 1:
            hypotheses = beam_search(
                lm.network,
                lm.params["model"],
                prompts,
                lm.tokenizer.vocab,
                num_beams=num_beams,
                max_tokens=max_tokens,
                length_penalty=kwargs.get("length_penalty", 1.0),
                sources=sources,
                max_length=lm.max_length,
                stops_AV=stops_AV,
                rules=lm.generation_rules,
            )
            outputs = [best.tokens for best, *_ in hypotheses]
        else:
            outputs = generate(
                lm.network,
                lm.params["model"],
                prompts,
                lm.tokenizer.vocab,
                max_tokens=max_tokens,
                sampling=_sampling(kwargs),
                sources=sources,
                max_length=lm.max_length,
                stops_AV=stops_AV,
                rules=lm.generation_rules,
            )
        return [stopping.cut(lm.tokenizer.decode(ids), until) for ids in outputs]


def _sampling(kwargs: Mapping[str, Any]) -> Sampling:
    """Return the Sampling of generation_kwargs; greedy unless do_sample or a temperature is given."""
    values: dict[str, Any] = {name: kwargs[name] for name in _SAMPLING if name in kwargs}
    if kwargs.get("do_sample", values.get("temperature", 0) > 0):
        values = {"temperature": 1.0} | values
    else:
        values = values | {"temperature": 0.0}
    return Sampling(**values)
