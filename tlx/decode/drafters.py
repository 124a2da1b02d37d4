"""Drafters of speculative decoding: a small model, or heads of the model itself.

A drafter proposes K tokens after the last one, which the model has not read yet, and the distribution q that each is
drawn from. It may use the text and hidden states of what was read, never its own accepted or rejected draws: then the
text has the model's distribution, whatever q is (speculative.py).

- `SmallModel` reads the last token and its own drafts one by one: q of draft k depends on the drafts before it.
- `OwnHeads` (objectives/multi_token.py) reads the hidden state from which the last token was drawn: head k predicts
  the token k further, without the tokens between. It costs one product with the vocabulary a draft, and no pass.
"""

from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.decode.padding import Padded
from tlx.nn.cache import KVCache

# Tokens that a small model drafts before the large one reads them.
NUM_DRAFTS = 4


class Draw(Protocol):
    """Draws a token of each row of logits."""

    def __call__(self, logits_1V: jax.Array, index: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """Return (token [1], the distribution that it is drawn from [1, V]) of draft number `index`."""
        ...


class Read(NamedTuple):
    """One pass of the model, and how many of the drafts that it read are kept."""

    hidden_1TD: jax.Array
    """Hidden states of the last token and the drafts, T = K + 1."""
    num_kept: jax.Array
    """Number of drafts that are kept, int32 []."""


class Drafter(flax.struct.PyTreeNode):
    """A source of drafts: a pytree whose modules are static, so that it is an argument of a jitted function."""

    @property
    def num_drafts(self) -> int:
        """Number K of tokens that are drafted before the model reads them."""
        raise NotImplementedError

    def begin(self, prompt: Padded, hidden_1TD: jax.Array, capacity: int) -> Any:
        """Return the state before the first draft.

        Args:
            prompt: The prompt, padded on the left.
            hidden_1TD: The model's hidden states of it.
            capacity: Number of tokens that a cache has to hold.
        """
        raise NotImplementedError

    def draft(
        self, state: Any, last_1: jax.Array, positions_T: jax.Array, draw: Draw
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Return the drafts [K], their distributions [K, V], and the state for `keep`.

        Args:
            state: The state.
            last_1: The last token, which nobody has read.
            positions_T: Positions of the last token and of the drafts, T = K + 1.
            draw: Draws a token.
        """
        raise NotImplementedError

    def keep(self, state: Any, read: Read) -> Any:
        """Return the state before the next drafts, given what the model has read and how many drafts are kept."""
        raise NotImplementedError


class SmallModel(Drafter):
    """A small decoder with the same vocabulary; its state is its cache."""

    lm: nn.Module = flax.struct.field(pytree_node=False)
    """The decoder."""
    params: Any
    """Its parameters."""

    @property
    @override
    def num_drafts(self) -> int:
        """Number of tokens that are drafted."""
        return NUM_DRAFTS

    @override
    def begin(self, prompt: Padded, hidden_1TD: jax.Array, capacity: int) -> KVCache:
        """Return the cache, with the prompt in it."""
        del hidden_1TD
        cache = self._call(1, capacity, method="init_cache")
        return self._call(prompt.tokens, prompt.positions, prompt.segments, cache, method="decode")[1]

    @override
    def draft(
        self, state: KVCache, last_1: jax.Array, positions_T: jax.Array, draw: Draw
    ) -> tuple[jax.Array, jax.Array, KVCache]:
        """Return the drafts, their distributions, and the cache, in which all of them are."""

        def step(carry: tuple[jax.Array, KVCache], index_and_position: tuple[jax.Array, jax.Array]) -> Any:
            token_1, cache = carry
            index, position = index_and_position
            positions_11 = position[None, None]
            hidden_11D, cache = self._call(
                token_1[None], positions_11, jnp.ones_like(positions_11), cache, method="decode"
            )
            token_1, q_1V = draw(self._call(hidden_11D, method="logits")[:, 0], index)
            return (token_1, cache), (token_1[0], q_1V[0])

        # Once more than there are drafts, so that the last draft is read too.
        steps = (jnp.arange(NUM_DRAFTS + 1), positions_T)
        (_, cache), (drafts, q) = jax.lax.scan(step, (last_1, state), steps)
        return drafts[:-1], q[:-1], cache

    @override
    def keep(self, state: KVCache, read: Read) -> KVCache:
        """Return the cache of the last token and the drafts that are kept."""
        # The next drafts overwrite the entries of the others.
        return state._replace(num_filled=state.num_filled - NUM_DRAFTS + read.num_kept)

    def _call(self, *args: Any, method: str) -> Any:
        return self.lm.apply({"params": self.params}, *args, method=method)


class OwnHeads(Drafter):
    """Heads of the model; its state is the hidden state of the last token that was read, [1, D]."""

    module: nn.Module = flax.struct.field(pytree_node=False)
    """The module of the objective, with `future_logits`."""
    params: Any
    """Its parameters: {"model": ..., "heads": ...}."""

    @property
    @override
    def num_drafts(self) -> int:
        """Number of heads."""
        return cast(Any, self.module).config.num_heads

    @override
    def begin(self, prompt: Padded, hidden_1TD: jax.Array, capacity: int) -> jax.Array:
        """Return the hidden state of the prompt's last token."""
        del prompt, capacity
        return hidden_1TD[:, -1]

    @override
    def draft(
        self, state: jax.Array, last_1: jax.Array, positions_T: jax.Array, draw: Draw
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the drafts, their distributions, and the state as it was."""
        del last_1, positions_T
        logits_1KV = cast(
            jax.Array, self.module.apply({"params": self.params}, state, method="future_logits")
        )
        drawn = [draw(logits_1KV[:, index], index) for index in range(self.num_drafts)]
        drafts, distributions = zip(*drawn, strict=True)
        return jnp.concatenate(drafts), jnp.concatenate(distributions), state

    @override
    def keep(self, state: jax.Array, read: Read) -> jax.Array:
        """Return the hidden state from which the next token was drawn."""
        del state
        return read.hidden_1TD[:, read.num_kept]
