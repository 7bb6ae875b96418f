"""What a valid YAML may ask for and this package does not do, refused with the way out."""

from __future__ import annotations

from serving.config.pipeline import PipelineConfig
from serving.errors import ConfigError


def check_supported(config: PipelineConfig) -> None:
    """Raise ConfigError naming the key, what is missing and the way out. Never silence."""
    for asked, key, mend in (
        (
            config.use_doc_preprocessor,
            "use_doc_preprocessor: True (absent means True): its models are not served here yet",
            "set use_doc_preprocessor: False",
        ),
        (
            config.text_type != "general",
            f"text_type: {config.text_type}: curved seal text is not served here yet",
            "set text_type: general",
        ),
        (
            config.sub_modules.recognition.input_shape is not None,
            "SubModules.TextRecognition.input_shape: a line is read at its own width here",
            "remove input_shape",
        ),
        (
            not all((config.enable_hpi, *(m.enable_hpi is not False for m in config.modules))),
            "enable_hpi: False: that is plain PaddleX, which has no engine plan and is not served; "
            "`ocr-hpi predict`, `evaluate` and load_pipeline() run it",
            "set enable_hpi: True",
        ),
        (
            config.engine is not None or any(m.engine is not None for m in config.modules),
            "engine: PaddleX's own choice of engine; here hpi_config.backend narrows it",
            "remove engine",
        ),
    ):
        if asked:
            raise ConfigError(f"{config.source}: {key}; {mend}")
    for module in config.modules:
        if config.hpi(module).backend in ("paddle", "tensorrt"):
            raise ConfigError(
                f"{config.source}: hpi_config.backend: {config.hpi(module).backend} is not built "
                "in yet; use openvino or onnxruntime"
            )
