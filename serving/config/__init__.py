"""Pipeline YAML, per-request options and a model's own inference.yml, checked and frozen."""

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.config.pipeline import HpiConfig, PipelineConfig, load_config, parse_config

__all__ = [
    "DEFAULT_OPTIONS",
    "HpiConfig",
    "Options",
    "PipelineConfig",
    "load_config",
    "parse_config",
]
