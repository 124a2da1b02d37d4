"""A small model's parameters, its layers stacked or apart, plain and boxed."""

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree
from tlx.parallel import Logical

LAYERS = 4


def layer_shapes(width, heads):
    """{path in a layer: (shape, names)}"""
    head, names = (heads, width // heads), ("heads", "head_dim")
    return {
        "attention/query/kernel": ((width, *head), ("embed", *names)),
        "attention/query/bias": (head, names),
        "attention/out/kernel": ((*head, width), (*names, "embed")),
        "feedforward/in/kernel": ((width, 2, 2 * width), ("embed", None, "mlp")),
        "feedforward/out/kernel": ((2 * width, width), ("mlp", "embed")),
        "norm/scale": ((width,), ("norm",)),
    }


def abstract(width=16, heads=2, stacked=True):
    """Boxed abstract parameters."""
    flat = {
        "model/embed/embedding": ((4 * width, width), ("vocab", "embed")),
        "model/position": ((2 * width, width), (None, "embed")),
        "heads/clm/kernel": ((width, width), ("embed", "embed")),
    }
    for path, (shape, names) in layer_shapes(width, heads).items():
        if stacked:
            flat[f"model/blocks/{path}"] = ((LAYERS, *shape), ("layers", *names))
        else:
            flat |= {f"model/layer_{i}/{path}": (shape, names) for i in range(LAYERS)}
    return tree.unflatten(
        {
            path: Logical(jax.ShapeDtypeStruct(shape, jnp.float32), names)
            for path, (shape, names) in flat.items()
        }
    )


def values(abstract_params, seed, scale=1.0):
    """Plain arrays, a function of (seed, path) alone; stacked layers get what they get apart."""
    return tree.map_with_path(
        lambda path, leaf: jnp.asarray(_value(path, leaf.shape, seed, scale)), _plain(abstract_params)
    )


def apart(params):
    """The same parameters with the layers of the stack as subtrees of their own."""
    flat = {}
    for path, leaf in tree.flatten(params).items():
        if "/blocks/" in path:
            flat |= {path.replace("blocks", f"layer_{i}"): leaf[i] for i in range(LAYERS)}
        else:
            flat[path] = leaf
    return tree.unflatten(flat)


def _plain(boxed):
    return jax.tree.map(lambda leaf: leaf.value, boxed, is_leaf=lambda leaf: isinstance(leaf, Logical))


def _value(path, shape, seed, scale):
    rng = np.random.default_rng([seed, *path.encode()])
    return (scale * rng.standard_normal(shape)).astype(np.float32)
