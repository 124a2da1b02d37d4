"""A loaded model as EleutherAI's lm-evaluation-harness knows models, in the same process.

    import lm_eval, tlx
    from tlx.api.harness import HarnessModel
    lm_eval.simple_evaluate(HarnessModel(tlx.load("runs/large")), tasks=["hellaswag"], num_fewshot=5)

or `tlx evaluate RUN --harness=hellaswag --shots=5`. Requests are cut into tokens and into windows as the
harness's own Hugging Face model does it, so that an imported model scores what the original does there; a
model that tlx trained reads the special ids before and behind a text that it was trained with.

Importing this module needs the package lm-eval (the extra "harness").
"""

import collections
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from tlx.api.loaded_model import LoadedModel
from tlx.api.reply import template_of
from tlx.base.errors import ConfigError, one_of
from tlx.decode import stop as stopping
from tlx.decode.beam import beam_search
from tlx.decode.choice import score_choices
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.text.chat import Message, segments_of, text_of

_MAX_TOKENS = 256  # of an answer, where a task does not say
_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_KNOWN = (*_MAX_TOKENS_NAMES, *_SAMPLING, "until", "do_sample", "num_beams", "length_penalty")


class HarnessModel(TemplateLM):
    """A decoder or an encoder-decoder.

    max_length: tokens of the longest text; None: the positions that the model has. prefix_token_id: what
    stands before a text that has nothing before it; None: the tokenizer's bos, or its eos where it has none.
    template: the chat template for apply_chat_template; "" is that of a run tuned on conversations.
    """

    def __init__(
        self,
        lm: LoadedModel,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        template: str = "",
    ):
        super().__init__()
        if lm.kind not in ("decoder", "encoder_decoder"):
            raise ConfigError(f"the harness asks decoders and encoder-decoders, this is {lm.kind}")
        self.lm, self._template, self._talks = lm, template, False
        self.backend = "causal" if lm.kind == "decoder" else "seq2seq"
        self.max_length = max_length or lm.config.model.position.max_length
        vocab = lm.tokenizer.vocab
        own = ([vocab.bos], []) if self.backend == "causal" else ([], [vocab.eos])
        self._frame = getattr(lm.tokenizer, "frame", own)
        # An encoder-decoder's bos is what its decoder begins with; an added one is none of the tokenizer's.
        without = self.backend == "seq2seq" or vocab.bos >= vocab.size - vocab.added
        self._prefix = prefix_token_id or (vocab.eos if without else vocab.bos)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.lm.tokenizer.vocab.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.lm.tokenizer.hash + self._template

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template written out, for the harness's records; None where none is asked for."""
        return json.dumps(dataclasses.asdict(template_of(self.lm, self._template))) if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation's text, special ids by name; without add_generation_prompt the last message is
        the beginning of the answer."""
        self._talks = True
        template = template_of(self.lm, self._template)
        messages = [Message(message["role"], message["content"]) for message in chat_history]
        before = messages if add_generation_prompt else messages[:-1]
        text = text_of(segments_of(before, template, reply=True), self._names())
        if add_generation_prompt:
            return text
        spaces = template.assistant.before[len(template.assistant.before.rstrip(" ")) :]
        return text + spaces + (messages[-1].content.strip() if template.trim else messages[-1].content)

    @property
    def _names_ids(self) -> bool:
        """Whether texts are conversations of one of tlx's own tokenizers."""
        return self._talks and not hasattr(self.lm.tokenizer, "frame")

    def _names(self) -> dict[str, str]:
        """What the special ids of templates are called in a text."""
        tokenizer = self.lm.tokenizer
        return {
            name: tokenizer.piece(getattr(tokenizer.vocab, name)) for name in ("bos", "eos", "sep", "cls")
        }

    def _ids(self, string: str) -> list[int]:
        """Ids of a text; of a conversation's, special ids by name, which tlx's own tokenizers do not know."""
        tokenizer = self.lm.tokenizer
        if not self._names_ids:
            return tokenizer.encode(string)
        ids = {called: getattr(tokenizer.vocab, name) for name, called in self._names().items()}
        pieces = re.split("(" + "|".join(map(re.escape, ids)) + ")", string)
        return [i for piece in pieces for i in ([ids[piece]] if piece in ids else tokenizer.encode(piece))]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **rest: Any) -> list[int]:
        """Ids of a text, with those that the tokenizer puts around it unless told otherwise."""
        del rest
        ids = self._ids(string)
        framed = add_special_tokens is not False and not self._names_ids  # a template has all there is
        before, behind = self._frame if framed else ((), ())
        if before and add_special_tokens is None and ids[: len(before)] == list(before):
            before = ()  # the text begins with it by name
        return [*before, *ids, *behind]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows that do not overlap."""
        asked, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            ids = self.tok_encode(text)
            for window in utils.get_rolling_token_windows(ids, self._prefix, self.max_length, 1):
                asked.append((None, *utils.make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(asked), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **rest: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each continuation; those of one context are scored together."""
        del rest
        together: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            if self.backend == "causal":
                room = self.max_length + 1 - len(continuation)
                together[tuple(context[-room:] if room > 0 else ())].append(number)
            else:
                together[tuple(context[-self.max_length :])].append(number)
        groups = list(together.items())
        choices = [[requests[number][2] for number in numbers] for _, numbers in groups]
        contexts = [list(context) for context, _ in groups]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for (_, numbers), scores in zip(groups, self._scored(contexts, choices), strict=True):
            for number, scored in zip(numbers, scores, strict=True):
                found[number] = float(scored.log_probs.sum()), bool(scored.likeliest.all())
                if requests[number][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], found[number])
        return found

    def _scored(self, contexts: list[list[int]], choices: list[list[list[int]]]) -> Any:
        lm, vocab = self.lm, self.lm.tokenizer.vocab
        given: dict[str, Any] = {"max_length": lm.max_length}
        if self.backend == "seq2seq":
            given["sources"], contexts = contexts, [[vocab.bos]] * len(contexts)
        return score_choices(lm.network, lm.params["model"], contexts, choices, vocab, **given)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to one of its stop strings."""
        together: dict[str, list[int]] = collections.defaultdict(list)
        for number, request in enumerate(requests):
            together[json.dumps(request.args[1], sort_keys=True)].append(number)
        texts = [""] * len(requests)
        for how, numbers in together.items():
            contexts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._continued(contexts, json.loads(how)), strict=True):
                texts[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts

    def _continued(self, contexts: list[str], how: Mapping[str, Any]) -> list[str]:
        """Continuations of contexts that are all to be continued in one way."""
        lm, vocab = self.lm, self.lm.tokenizer.vocab
        for name in how:
            if name not in _KNOWN:
                raise ConfigError(one_of("generation_kwargs", name, _KNOWN))
        until = how.get("until") or []
        until = [text for text in ([until] if isinstance(until, str) else until) if text]
        most = next((int(how[name]) for name in _MAX_TOKENS_NAMES if how.get(name)), _MAX_TOKENS)
        room = self.max_length if self.backend == "seq2seq" else self.max_length - most
        if room < 1:
            raise ConfigError(
                f"max_gen_toks = {most} leaves no room in the {self.max_length} positions of the model"
            )
        rows = [self.tok_encode(context)[-room:] or [self._prefix] for context in contexts]
        given: dict[str, Any] = {"max_tokens": most, "max_length": lm.max_length}
        if self.backend == "seq2seq":
            given["sources"], rows = rows, [[vocab.bos]] * len(rows)
        given["stops_SV"] = lm.automaton(tuple(until), False)
        if how.get("num_beams", 1) > 1 and how.get("repetition_penalty", 1.0) != 1.0:
            raise ConfigError("generation_kwargs: repetition_penalty is for drawing, num_beams searches")
        if how.get("num_beams", 1) > 1:
            given |= {"num_beams": how["num_beams"], "length_penalty": how.get("length_penalty", 1.0)}
            found = beam_search(lm.network, lm.params["model"], rows, vocab, **given)
            drawn = [best.tokens for best, *_ in found]
        else:
            chosen = {name: how[name] for name in _SAMPLING if name in how}
            drawing = how.get("do_sample", chosen.get("temperature", 0) > 0)
            sampling = Sampling(
                **({"temperature": 1.0} | chosen if drawing else chosen | {"temperature": 0.0})
            )
            drawn = generate(lm.network, lm.params["model"], rows, vocab, sampling=sampling, **given)
        return [stopping.cut(lm.tokenizer.decode(ids), until) for ids in drawn]
