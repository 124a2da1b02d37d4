"""The arguments of every attention kernel."""

from typing import NamedTuple

import jax

from tlx.nn.mask import Mask
from tlx.nn.relative import RelativeTerms


class AttentionInputs(NamedTuple):
    """Queries, keys and values of one attention layer, and how they are combined.

    Every kernel of the table KERNELS maps one of these to float[B, T, N, H]. N is a multiple of G: query
    head n attends with key/value head n // (N / G).
    """

    query_BTNH: jax.Array
    """float[B, T, N, H]."""

    key_BSGH: jax.Array
    """float[B, S, G, H]."""

    value_BSGH: jax.Array
    """float[B, S, G, H]."""

    mask: Mask
    """Which keys each query may attend to."""

    bias: jax.Array | RelativeTerms | None = None
    """Added to the logits before scaling: float[B or 1, N, T, S], [devices, N, T, S] with one bias for all
    rows of a device (kernels "cudnn" and "fused"), or relative terms not yet laid out over the keys
    ("fused")."""

    scale: float = 1.0
    """Multiplies the logits, bias included."""

    dropout_rate: float = 0.0
    """Dropout rate of the attention probabilities, in [0, 1) (kernel "xla")."""

    keys_B: jax.Array | None = None
    """One PRNG key for each row of the batch; None: no dropout."""

    site: int = 0
    """Number of the dropout site inside the layer, see nn/dropout.py."""

    softcap: float = 0.0
    """c of c tanh(logits / c), applied after scaling; 0: no cap (kernel "xla")."""
