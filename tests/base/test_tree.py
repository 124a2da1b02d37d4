"""Leaves by path, for dicts, tuples, lists and named fields alike."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tlx.base import term, tree
from tlx.base.errors import RETRYABLE, UserError, one_of


class Pair(NamedTuple):
    first: Any
    second: Any


EXAMPLE = {
    "a": Pair(np.zeros((2, 3), np.float32), [np.ones(4, np.int8), None]),
    "b": {"c": np.ones((), np.int32)},
}


def test_paths_and_back():
    flat = tree.flatten(EXAMPLE)
    assert list(flat) == ["a/first", "a/second/0", "b/c"]
    assert tree.unflatten({"a/b": 1, "a/c/d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    named = tree.map_with_path(lambda path, leaf, other: (path, leaf.size + other.size), EXAMPLE, EXAMPLE)
    assert named["a"].second[0] == ("a/second/0", 8)


def test_sizes():
    assert tree.num_params(EXAMPLE) == 11
    assert tree.num_bytes(EXAMPLE) == 24 + 4 + 4


def test_mean_of_a_term_and_of_nothing():
    assert term.mean(term.Term(jnp.float32(6), jnp.float32(4))) == 1.5
    assert term.mean(term.Term(jnp.float32(6), jnp.float32(0))) == 0.0


def test_errors_carry_codes_that_launchers_do_not_retry_but_for_lost_processes_and_stalls():
    codes = {}

    def collect(kind):
        for child in kind.__subclasses__():
            if child.__module__ == UserError.__module__:
                codes[child.__name__] = child.code
            collect(child)

    collect(UserError)
    assert codes.pop("LostProcess") in RETRYABLE
    assert codes.pop("StallError") in RETRYABLE
    assert not set(codes.values()) & set(RETRYABLE)
    assert (codes["StorageError"], codes["CheckpointError"], codes["LeaseError"]) == (73, 74, 75)
    assert one_of("x", "adm", ["adam", "lion"]) == "x = 'adm' is not one of: adam, lion; did you mean 'adam'?"
    assert one_of("x", "zzz", ["adam"]) == "x = 'zzz' is not one of: adam"
