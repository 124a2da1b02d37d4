"""cuDNN's kernels in the layer: what they are given, and that the forward one runs once.

There is no GPU: the two kernels are replaced by what they compute. The compiled module is looked at in
tests/plan/test_compilers.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.nn.kernels import cudnn, cudnn_statistics, xla
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.mask import Mask

SIZES = (2, 8, 4, 16)  # B, T, N, H


def logits_of(query, key, bias, settings):
    logits = settings.scale * jnp.einsum("btnh,bsnh->bnts", query, key).astype(jnp.float32)
    if bias is not None:
        logits += bias.astype(jnp.float32)
    if settings.causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -1e30)
    return logits


@jax.jit
def weighted(probabilities, value):
    return jnp.einsum("bnts,bsnh->btnh", probabilities, value)


def forward(query, key, value, bias, settings):
    """The forward kernel: FlashAttention-2's output and log-sum-exp (Dao 2023, section 3.1.1)."""

    def forward_kernel(query, key, value, bias):
        logits = logits_of(query, key, bias, settings)
        statistics = jax.nn.logsumexp(logits, -1)
        output = weighted(jnp.exp(logits - statistics[..., None]), value.astype(jnp.float32))
        return output.astype(query.dtype), statistics

    return jax.jit(forward_kernel)(query, key, value, bias)


def backward(query, key, value, bias, output, statistics, gradient, settings):
    """The backward kernel of the same paper, from the statistics and not from a softmax of its own."""
    query, key, value, output, gradient = (
        x.astype(jnp.float32) for x in (query, key, value, output, gradient)
    )
    probabilities = jnp.exp(logits_of(query, key, bias, settings) - statistics[..., None])
    of_probabilities = jnp.einsum("btnh,bsnh->bnts", gradient, value)
    correction = jnp.einsum("btnh,btnh->bnt", gradient, output)
    of_logits = probabilities * (of_probabilities - correction[..., None])
    gradients = [
        settings.scale * jnp.einsum("bnts,bsnh->btnh", of_logits, key),
        settings.scale * jnp.einsum("bnts,btnh->bsnh", of_logits, query),
        jnp.einsum("bnts,btnh->bsnh", probabilities, gradient),
    ]
    if settings.bias_gradient:
        gradients.append(of_logits.astype(bias.dtype))  # of a bias for each row
    return [*[x.astype(jnp.bfloat16) for x in gradients[:3]], *gradients[3:]]


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setattr(cudnn_statistics, "_forward", forward)
    monkeypatch.setattr(cudnn_statistics, "_backward", backward)
    monkeypatch.setattr(cudnn_statistics, "CHECKED", (jax.__version__,))


def arguments(window=0, bias=False):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, SIZES, jnp.bfloat16) for k in keys[:3])
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8])
    mask = Mask(segments, segments, causal=True, window=window)
    table = jax.random.normal(keys[3], (1, 4, 8, 8), jnp.float32) if bias else None
    return query, key, value, mask, table


def loss_of(attend, mask):
    def loss(query, key, value, table):
        output = attend(AttentionInputs(query, key, value, mask, table, scale=0.25))
        return (
            output.astype(jnp.float32) * jnp.arange(16) * (mask.query_segments > 0)[..., None, None]
        ).sum()

    return loss


@pytest.mark.parametrize(("window", "bias"), [(0, False), (3, True)])
def test_gradients_are_those_of_the_einsums(window, bias):
    query, key, value, mask, table = arguments(window, bias)
    inputs = (0, 1, 2, 3) if bias else (0, 1, 2)
    found, expected = (
        jax.jit(jax.value_and_grad(loss_of(attend, mask), inputs))(query, key, value, table)
        for attend in (cudnn.attend, xla.attend)
    )
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        # bfloat16 keeps 8 bits: sums of products differ by as much.
        np.testing.assert_allclose(x, y, atol=0.03 * np.abs(y).max())


@pytest.mark.parametrize(("names", "runs"), [(("attention",), 1), (("query",), 2)])
def test_the_forward_kernel_runs_once_where_its_output_is_kept(names, runs):
    query, key, value, mask, _ = arguments()
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    loss = jax.checkpoint(loss_of(cudnn.attend, mask), policy=policy)
    jaxpr = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(query, key, value, None))
    assert jaxpr.count("name=forward_kernel") == runs


def test_the_kernel_is_told_that_attention_is_causal(monkeypatch):
    settings = []
    monkeypatch.setattr(
        cudnn_statistics, "_forward", lambda *given: settings.append(given[-1]) or forward(*given)
    )
    query, key, value, mask, _ = arguments()
    for start, prefix in ((0, None), (0, jnp.ones((2, 8), jnp.int32)), (jnp.int32(0), None)):
        given = mask._replace(query_start=start, prefix=prefix)
        found = cudnn.attend(AttentionInputs(query, key, value, given, scale=0.25))
        expected = xla.attend(AttentionInputs(query, key, value, given, scale=0.25))
        np.testing.assert_allclose(found, expected, atol=0.03)
    assert [setting.causal for setting in settings] == [True, False, False]
    assert not any(setting.bias_gradient for setting in settings)
