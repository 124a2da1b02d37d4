"""Floor 8: from a ConfigDict to a frozen RunConfig to an assembled run."""

from tlx.run.config import RunConfig, base_config, finetune_config

__all__ = ["RunConfig", "base_config", "finetune_config"]
