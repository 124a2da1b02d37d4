"""Which attention kernel runs: asked for and possible, or an error; never a slow path in silence."""

from tlx.base import platform as platforms
from tlx.base.errors import ConfigError
from tlx.nn.config import BlockConfig


def obstacle(name: str, cfg: BlockConfig, platform: str, dtype: str, num_queries: int) -> str | None:
    """Why kernel `name` cannot run this block's training step, or None."""
    if name == "xla":
        return None
    if cfg.attention.dropout:
        return "model.attention.dropout > 0 (set it to 0; the residual dropout stays)"
    if cfg.attention.softcap:
        return f"model.attention.softcap = {cfg.attention.softcap} bends the logits"
    if name == "splash":
        if platform != "tpu":
            return f"it runs on tpu, not on {platform}"
        if cfg.position.kind in ("bucketed", "relative", "disentangled"):
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
    best = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(platform, "xla")
    problem = obstacle(best, cfg, platform, dtype, num_queries)
    return ("xla", f"{best} cannot be used: {problem}") if problem else (best, f"the fastest on {platform}")


def kernel_name(cfg: BlockConfig, num_queries: int, has_visible: bool) -> str:
    """The kernel inside a traced step: plain einsums for decoding and for arbitrary masks."""
    if has_visible or num_queries == 1:
        return "xla"
    return choose(cfg, platforms.platform(), cfg.dtype, num_queries)[0]
