"""Selects the attention kernel; raises instead of silently falling back to a slow one."""

import jax

from tlx.base import platform as platforms
from tlx.base.errors import ConfigError
from tlx.nn.config import BlockConfig

# Kernels that are tried on a platform, the best of causal attention first.
_BEST = {"tpu": ("splash", "fused"), "gpu": ("cudnn",), "cuda": ("cudnn",)}

MOST = 1024
"""Most queries or keys of kernel "fused", whose blocks of queries need on-chip memory in proportion to the
keys."""


def obstacle(name: str, cfg: BlockConfig, platform: str, dtype: str, num_queries: int) -> str | None:
    """Say why a kernel cannot run a layer's training step.

    Args:
        name: a kernel of the table KERNELS.
        cfg: the layer.
        platform: "cpu", "tpu", "gpu" or "cuda".
        dtype: of queries, keys and values.
        num_queries: query length T.

    Returns:
        The reason, as the end of a message to the user; None where the kernel can run.
    """
    if name == "xla":
        return None
    if cfg.attention.dropout:
        return "model.attention.dropout > 0 (set it to 0; the residual dropout stays)"
    if cfg.attention.softcap:
        return f"model.attention.softcap = {cfg.attention.softcap} bends the logits"
    if name == "fused":
        return _fused_obstacle(cfg, platform, num_queries)
    if name == "splash":
        return _splash_obstacle(cfg, platform, num_queries)
    return _cudnn_obstacle(cfg, platform, dtype)


def choose(cfg: BlockConfig, platform: str, dtype: str, num_queries: int) -> tuple[str, str]:
    """Choose the kernel of a layer's training step.

    Args:
        cfg: the layer; its execution.attention names a kernel or is "auto".
        platform: "cpu", "tpu", "gpu" or "cuda".
        dtype: of queries, keys and values.
        num_queries: query length T.

    Returns:
        (kernel, reason of the choice).

    Raises:
        ConfigError: if the config names a kernel that cannot run.
    """
    requested = cfg.execution.attention
    if requested != "auto":
        problem = obstacle(requested, cfg, platform, dtype, num_queries)
        if problem:
            raise ConfigError(
                f"model.execution.attention = {requested!r} cannot be used: {problem}; choose 'xla' or 'auto'"
            )
        return requested, "asked for"
    problems = []
    candidates = _BEST.get(platform, ())
    if not cfg.causal:
        # Splash is the faster one where it skips what a causal mask hides; "fused" moves less memory.
        candidates = candidates[::-1]
    for name in candidates:
        problem = obstacle(name, cfg, platform, dtype, num_queries)
        if not problem:
            return name, f"the fastest on {platform}"
        problems.append(f"{name} cannot be used: {problem}")
    return "xla", "; ".join(problems) or f"the fastest on {platform}"


def kernel_name(
    cfg: BlockConfig, num_queries: int, has_visible: bool, num_keys: int = 0, per_row_bias: bool = False
) -> str:
    """Choose the kernel inside a traced step: einsums for decoding and for masks that no other takes.

    Args:
        cfg: the layer.
        num_queries: query length T; 1 while decoding.
        has_visible: whether the mask is arbitrary (permutations, prefix LM).
        num_keys: key length S.
        per_row_bias: whether the bias differs between rows of the batch.

    Returns:
        A name of the table KERNELS.

    Raises:
        ConfigError: if the config names a kernel that cannot run.
    """
    if num_queries == 1 or per_row_bias:
        return "xla"
    platform = platforms.platform()
    name = choose(cfg, platform, cfg.dtype, num_queries)[0]
    if name == "splash" and has_visible and cfg.execution.attention == "auto":
        # Splash takes no arbitrary mask; the fused kernel does.
        name = "xla" if _fused_obstacle(cfg, platform, num_queries) else "fused"
    if name == "fused":
        return name if num_keys <= MOST else "xla"
    return "xla" if has_visible else name


def joins_heads(cfg: BlockConfig) -> bool:
    """Whether the layer's kernel, at a length that it takes, reads [B, T, N x H]: only "fused" does."""
    # At a length of 128, which all kernels take: the layout must not depend on the batch.
    return choose(cfg, platforms.platform(), cfg.dtype, 128)[0] == "fused"


def _splash_obstacle(cfg: BlockConfig, platform: str, num_queries: int) -> str | None:
    if platform != "tpu":
        return f"it runs on tpu, not on {platform}"
    if cfg.position.kind in ("relative_bias", "relative_sinusoidal", "disentangled", "alibi"):
        return f"model.position.kind = {cfg.position.kind!r} adds a bias to the logits"
    if cfg.head_dim % 64:
        return f"head_dim = {cfg.head_dim} is not a multiple of 64"
    if num_queries % 128:
        return f"the sequence length {num_queries} is not a multiple of 128"
    return None


def _cudnn_obstacle(cfg: BlockConfig, platform: str, dtype: str) -> str | None:
    if platform not in ("gpu", "cuda"):
        return f"it runs on NVIDIA GPUs, not on {platform}"
    if dtype not in ("bfloat16", "float16"):
        return f"model.dtype = {dtype} (it computes in bfloat16 and float16)"
    if cfg.head_dim % 8 or cfg.head_dim > 128:
        return f"head_dim = {cfg.head_dim} is not a multiple of 8 up to 128"
    return None


def _fused_obstacle(cfg: BlockConfig, platform: str, num_queries: int) -> str | None:
    head_dim = cfg.head_dim
    num_heads = cfg.attention.num_heads
    if platform != "tpu":
        return f"it runs on tpu, not on {platform}"
    if cfg.position.kind == "disentangled":
        return "model.position.kind = 'disentangled' adds a bias of its own to each row"
    if cfg.num_kv_heads != num_heads:
        return f"{num_heads} query heads share {cfg.num_kv_heads} key heads"
    mesh = jax.sharding.get_abstract_mesh()
    tensor_shards = 1 if mesh.empty else mesh.shape.get("tensor", 1)
    # Blocks of 128 lanes hold whole heads, and each device whole blocks.
    if max(head_dim, 128) % min(head_dim, 128) or head_dim * num_heads % (128 * tensor_shards):
        heads = f"{num_heads} heads of {head_dim}"
        if tensor_shards > 1:
            heads += f" over {tensor_shards} devices"
        return f"{heads} do not fill registers of 128"
    if num_queries > MOST:
        return f"the sequence length {num_queries} is more than {MOST}"
    return None
