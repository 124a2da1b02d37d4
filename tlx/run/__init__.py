"""A run: ConfigDict -> frozen RunConfig -> everything that training needs, put together."""

from tlx.run.config import RunConfig, base_config, finetune_config

__all__ = ["RunConfig", "base_config", "finetune_config"]
