"""What a valid YAML may ask for and this package does not do, refused with the way out.

PaddleX's pipeline YAML of the 3.0 betas, translated so that an error can show the fix.

PaddleX's OCR pipeline YAML as frozen models. The only home of its defaults.

What a key means, and what its absence means, is PaddleX 3.7's: an absent key takes the
pipeline's default below, an explicit `null` leaves the value to the model's own inference.yml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from serving.config.errors import config_error
from serving.config.gate import Gate, GateSetting
from serving.errors import ConfigError

# key of the beta form -> section and key of today's form
_MOVED = {
    "det_model": ("TextDetection", "model"),
    "text_det_model": ("TextDetection", "model"),
    "rec_model": ("TextRecognition", "model"),
    "text_rec_model": ("TextRecognition", "model"),
    "rec_batch_size": ("TextRecognition", "batch_size"),
    "text_rec_batch_size": ("TextRecognition", "batch_size"),
}
_MODULE_NAMES = {"TextDetection": "text_detection", "TextRecognition": "text_recognition"}


def translated_beta(data: dict[str, Any]) -> str | None:
    """Today's YAML for a document in the beta form; None for any other document."""
    old = data.get("Pipeline")
    if not isinstance(old, dict):
        return None
    modules: dict[str, dict[str, Any]] = {}
    for section, module_name in _MODULE_NAMES.items():
        modules[section] = {
            "module_name": module_name,
            "model_name": f"PP-OCRv4_mobile_{module_name[5:8]}",
        }
        modules[section]["model_dir"] = None
    for key, (section, what) in _MOVED.items():
        if key not in old:
            continue
        value = old[key]
        if what == "model" and "/" in str(value):
            modules[section]["model_dir"] = value
        else:
            modules[section]["model_name" if what == "model" else what] = value
    today = {
        "pipeline_name": "OCR",
        "text_type": "general",
        "use_doc_preprocessor": False,
        "use_textline_orientation": False,
        "enable_hpi": True,
        "SubModules": modules,
    }
    return yaml.safe_dump(today, sort_keys=False, allow_unicode=True)


Ratio = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1, le=65535)]
Shape = tuple[Literal[3], Side, Side]
LimitType = Literal["min", "max", "resize_long"]
Backend = Literal["paddle", "openvino", "onnxruntime", "tensorrt"]


class Section(BaseModel):
    """A mapping of the YAML: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True
    )


class HpiConfig(Section):
    """`hpi_config`: narrows or fixes what the engine plan may choose from."""

    auto_config: bool = True
    backend: Backend | None = None
    backend_config: dict[str, Any] | None = None
    auto_paddle2onnx: bool = True


class Module(Section):
    """What every model of a pipeline may say."""

    module_name: str | None = None
    model_name: str
    model_dir: Path | None = None
    batch_size: int = Field(default=1, ge=1)
    enable_hpi: bool | None = Field(
        default=None, validation_alias=AliasChoices("enable_hpi", "use_hpip")
    )
    hpi_config: HpiConfig | None = None
    engine: str | None = None
    engine_config: dict[str, Any] | None = None
    genai_config: dict[str, Any] | None = None


class TextDetection(Module):
    """DB text detection."""

    limit_side_len: Side | None = 960
    limit_type: LimitType | None = "max"
    max_side_limit: Side = 4000
    thresh: Ratio | None = 0.3
    box_thresh: Ratio | None = 0.6
    unclip_ratio: float | None = Field(default=2.0, gt=0, le=10)
    input_shape: Shape | None = None


class TextLineOrientation(Module):
    """Which lines stand on their head."""


class TextRecognition(Module):
    """CTC text recognition."""

    score_thresh: Ratio = 0.0
    return_word_box: bool = False
    restore_spaces: bool = True
    input_shape: Shape | None = None


class SubModules(Section):
    """The models of an OCR pipeline."""

    detection: TextDetection = Field(alias="TextDetection")
    orientation: TextLineOrientation | None = Field(default=None, alias="TextLineOrientation")
    recognition: TextRecognition = Field(alias="TextRecognition")


class PipelineConfig(Section):
    """One OCR pipeline, as its YAML says. `source` names the file in errors."""

    source: str = Field(default="pipeline", exclude=True)
    pipeline_name: Literal["OCR"] = "OCR"
    text_type: Literal["general", "seal"] = "general"
    batch_size: int = Field(default=1, ge=1)
    use_doc_preprocessor: bool = True
    use_textline_orientation: bool = True
    enable_hpi: bool = Field(default=True, validation_alias=AliasChoices("enable_hpi", "use_hpip"))
    hpi_config: HpiConfig = HpiConfig()
    gate: GateSetting = Gate()
    engine: str | None = None
    engine_config: dict[str, Any] | None = None
    serving: dict[str, Any] | None = Field(default=None, alias="Serving")
    sub_pipelines: dict[str, Any] = Field(default_factory=dict, alias="SubPipelines")
    sub_modules: SubModules = Field(alias="SubModules")

    @property
    def modules(self) -> tuple[Module, ...]:
        """The models in use, in the order in which a page meets them."""
        found = self.sub_modules
        orientation = (found.orientation,) if found.orientation is not None else ()
        if not self.use_textline_orientation:
            orientation = ()
        return (found.detection, *orientation, found.recognition)

    def models(self) -> list[tuple[str, Path | None]]:
        """(model_name, model_dir) of each model in use."""
        return [(module.model_name, module.model_dir) for module in self.modules]

    def hpi(self, module: Module) -> HpiConfig:
        """The module's own `hpi_config`, else the pipeline's."""
        return module.hpi_config if module.hpi_config is not None else self.hpi_config


def load_config(path: str | Path) -> PipelineConfig:
    """Read a pipeline YAML.

    Raises ConfigError, naming the file, the key and what is allowed.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; the shipped pipelines are in configs/") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse_config(data, source=str(path))


def parse_config(data: Any, *, source: str) -> PipelineConfig:
    """Check a parsed YAML document. `source` names it in errors."""
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: a pipeline is a mapping of keys, not {type(data).__name__}")
    beta = translated_beta(data)
    if beta is not None:
        raise ConfigError(
            f"{source}: this is PaddleX's old beta form. In today's form it is:\n{beta}"
        )
    if data.get("pipeline_name", "OCR") != "OCR":
        raise ConfigError(
            f"{source}: pipeline_name: {data['pipeline_name']!r} is not plain OCR, and only OCR is "
            "served here. PaddleX itself runs it on these engines, in an environment with the "
            "extra paddlex: serving.integrations.paddlex.enable(), then "
            f"paddlex.create_pipeline({source!r}, use_hpip=True)"
        )
    for alias in (data, *_mappings(data.get("SubModules"))):
        if "enable_hpi" in alias and "use_hpip" in alias:
            raise ConfigError(f"{source}: enable_hpi and use_hpip are the same key; keep one")
    try:
        config = PipelineConfig.model_validate({**data, "source": source})
    except ValidationError as error:
        raise config_error(error, where=source, schema=PipelineConfig) from None
    _check_consistent(config)
    return config


def _mappings(value: Any) -> list[dict[str, Any]]:
    return (
        [item for item in value.values() if isinstance(item, dict)]
        if isinstance(value, dict)
        else []
    )


def _check_consistent(config: PipelineConfig) -> None:
    if config.use_textline_orientation and config.sub_modules.orientation is None:
        raise ConfigError(
            f"{config.source}: use_textline_orientation is True (absent means True), but "
            "SubModules.TextLineOrientation is missing; add it, or set "
            "use_textline_orientation: False"
        )


def check_supported(config: PipelineConfig) -> None:
    """Raise ConfigError naming the key, what is missing and the way out. Never silence."""
    for asked, key, fix in (
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
            raise ConfigError(f"{config.source}: {key}; {fix}")
    for module in config.modules:
        if config.hpi(module).backend in ("paddle", "tensorrt"):
            raise ConfigError(
                f"{config.source}: hpi_config.backend: {config.hpi(module).backend} is not built "
                "in yet; use openvino or onnxruntime"
            )
