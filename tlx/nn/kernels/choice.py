"""Which attention kernel runs: asked for and possible, or an error; never a slow path in silence."""

import jax

from tlx.base import platform as platforms
from tlx.base.errors import ConfigError
from tlx.nn.config import BlockConfig

_BEST = {"tpu": ("splash", "fused"), "gpu": ("cudnn",), "cuda": ("cudnn",)}
MOST = 1024  # queries or keys of `fused`: what a block of queries needs grows with the keys


def obstacle(name: str, cfg: BlockConfig, platform: str, dtype: str, num_queries: int) -> str | None:
    """Why kernel `name` cannot run this block's training step, or None."""
    if name == "xla":
        return None
    if cfg.attention.dropout:
        return "model.attention.dropout > 0 (set it to 0; the residual dropout stays)"
    if cfg.attention.softcap:
        return f"model.attention.softcap = {cfg.attention.softcap} bends the logits"
    if name == "fused":
        return _fused_obstacle(cfg, platform, num_queries)
    if name == "splash":
        if platform != "tpu":
            return f"it runs on tpu, not on {platform}"
        if cfg.position.kind in ("relative_bias", "relative_sinusoidal", "disentangled"):
            return f"model.position.kind = {cfg.position.kind!r} adds a bias to the logits"
        if cfg.head_dim % 64:
            return f"head_dim = {cfg.head_dim} is not a multiple of 64"
        if num_queries % 128:
            return f"the sequence length {num_queries} is not a multiple of 128"
        return None
    if platform not in ("gpu", "cuda"):
        return f"it runs on NVIDIA GPUs, not on {platform}"
    if dtype not in ("bfloat16", "float16"):
        return f"model.dtype = {dtype} (it computes in bfloat16 and float16)"
    if cfg.head_dim % 8 or cfg.head_dim > 128:
        return f"head_dim = {cfg.head_dim} is not a multiple of 8 up to 128"
    return None


def choose(cfg: BlockConfig, platform: str, dtype: str, num_queries: int) -> tuple[str, str]:
    """(kernel, reason) for the platform; ConfigError when the kernel asked for cannot be used."""
    asked = cfg.execution.attention
    if asked != "auto":
        problem = obstacle(asked, cfg, platform, dtype, num_queries)
        if problem:
            raise ConfigError(
                f"model.execution.attention = {asked!r} cannot be used: {problem}; choose 'xla' or 'auto'"
            )
        return asked, "asked for"
    problems = []
    names = _BEST.get(platform, ())
    if not cfg.causal:  # splash skips what a causal mask hides, `fused` moves less
        names = names[::-1]
    for best in names:
        problem = obstacle(best, cfg, platform, dtype, num_queries)
        if not problem:
            return best, f"the fastest on {platform}"
        problems.append(f"{best} cannot be used: {problem}")
    return "xla", "; ".join(problems) or f"the fastest on {platform}"


def kernel_name(
    cfg: BlockConfig, num_queries: int, has_visible: bool, num_keys: int = 0, own_bias: bool = False
) -> str:
    """The kernel inside a traced step: plain einsums for decoding, and for arbitrary masks where need be.

    `own_bias`: a bias that is another one for each row of the batch.
    """
    if num_queries == 1 or own_bias:
        return "xla"
    platform = platforms.platform()
    name = choose(cfg, platform, cfg.dtype, num_queries)[0]
    if name == "splash" and has_visible and cfg.execution.attention == "auto":
        name = "xla" if _fused_obstacle(cfg, platform, num_queries) else "fused"
    if name == "fused":
        return name if num_keys <= MOST else "xla"
    return "xla" if has_visible else name


def joins_heads(cfg: BlockConfig) -> bool:
    """Whether the block's kernel, at a length that it takes, reads [B, T, N x H]: `fused` does."""
    return choose(cfg, platforms.platform(), cfg.dtype, 128)[0] == "fused"


def _fused_obstacle(cfg: BlockConfig, platform: str, num_queries: int) -> str | None:
    head_dim, num_heads = cfg.head_dim, cfg.attention.num_heads
    if platform != "tpu":
        return f"it runs on tpu, not on {platform}"
    if cfg.position.kind == "disentangled":
        return "model.position.kind = 'disentangled' adds a bias of its own to each row"
    if cfg.num_kv_heads != num_heads:
        return f"{num_heads} query heads share {cfg.num_kv_heads} key heads"
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else mesh.shape.get("tensor", 1)
    if max(head_dim, 128) % min(head_dim, 128) or head_dim * num_heads % (128 * ways):
        each = f"{num_heads} heads of {head_dim}" + (f" over {ways} devices" if ways > 1 else "")
        return f"{each} do not fill registers of 128"
    if num_queries > MOST:
        return f"the sequence length {num_queries} is more than {MOST}"
    return None
