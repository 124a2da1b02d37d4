"""From documents to batches: sources, token caches, packing, mixtures and the pipeline."""

from tlx.data.cache import TokenCache
from tlx.data.config import DataConfig, SourceConfig, TextConfig, TfdsConfig, WeightedSource
from tlx.data.pipeline import Pipeline, build_pipeline
from tlx.data.prepare import open_caches, prepare_tokenizer

__all__ = [
    "DataConfig",
    "Pipeline",
    "SourceConfig",
    "TextConfig",
    "TfdsConfig",
    "TokenCache",
    "WeightedSource",
    "build_pipeline",
    "open_caches",
    "prepare_tokenizer",
]
