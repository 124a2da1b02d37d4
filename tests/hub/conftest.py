"""Parity is to 1e-5 of the largest logit: of programs compiled as they are for users."""

import os

import jax
import pytest

FLAG = "jax_disable_most_optimizations"


@pytest.fixture(autouse=True)
def optimised():
    """All of the optimisation, most of which tests elsewhere leave out."""
    jax.config.update(FLAG, False)
    yield
    jax.config.update(FLAG, os.environ[FLAG.upper()] == "1")
