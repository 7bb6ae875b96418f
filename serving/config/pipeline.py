"""PaddleX's OCR pipeline YAML as frozen models. The only home of its defaults.

What a key means, and what its absence means, is PaddleX 3.7's: an absent key takes the pipeline's
default below, an explicit `null` leaves the value to the model's own inference.yml.

Every key is obeyed, refused by name (`check_supported`) or, where it has no effect here, reported
in the log once (`_without_effect`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict

from serving.config.errors import config_error, shortened
from serving.config.gate import Gate, GateSetting
from serving.config.yaml_file import read_yaml
from serving.errors import ConfigError, printable

_log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 1024
"""Of a pipeline YAML; the longest of PaddleX's has 3 KiB."""

T = TypeVar("T")
Ratio = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1, le=65535)]
Shape = Annotated[tuple[Literal[3], Side, Side], Field(strict=False)]
LimitType = Literal["min", "max", "resize_long"]
Backend = Literal["paddle", "openvino", "onnxruntime", "tensorrt"]
Order = Literal["paddlex", "columns"]
Precision = Literal["float32", "tf32", "bfloat16", "float16", "int8"]
Refused = Annotated[T | None, Field(exclude=True)]
"""PaddleX's key for what is done otherwise here: see `_unsupported`."""
Count = Annotated[int, Field(strict=True, ge=1, le=1024)]


def _expand_user(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # ~NAME of an unknown user
        raise ValueError(str(error)) from None


ModelDir = Annotated[Path, Field(strict=False), AfterValidator(_expand_user)]
"""A folder; a relative one is relative to the working directory, as in PaddleX."""


MODULE_NAMES = {
    "DocOrientationClassify": "doc_text_orientation",
    "DocUnwarping": "image_unwarping",
    "TextDetection": "text_detection",
    "TextLineOrientation": "textline_orientation",
    "TextRecognition": "text_recognition",
}
"""Section of the YAML -> PaddleX's name for that kind of model, in the order of use."""
OWN_KEYS = {
    "gate",
    "order",
    "doubtful_pages_only",
    "tiling",
    "deskew",
    "restore_spaces",
    "ascii_punctuation",
}
"""Keys of our YAML that PaddleX does not have, in a pipeline or a model."""
DOC_SECTIONS = {
    "DocOrientationClassify": "use_doc_orientation_classify",
    "DocUnwarping": "use_doc_unwarping",
}
"""Those of the document preprocessor -> the key that turns it on."""


class Section(BaseModel):
    """A mapping of the YAML: frozen; unknown keys and values of another type are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class BackendConfig(TypedDict, total=False):
    """`backend_config`, for every backend."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    precision: Precision
    streams: Count
    batch: Annotated[int, Field(strict=True, ge=1, le=32)]
    cpu_num_threads: Count
    use_dynamic_shapes: bool
    dynamic_shapes: dict[str, Any] | None


class HpiConfig(Section):
    """`hpi_config`: narrows or fixes what the engine plan may choose from."""

    auto_config: bool = True
    backend: Backend | None = None
    backend_config: BackendConfig | None = None
    auto_paddle2onnx: bool = True

    @model_validator(mode="before")
    @classmethod
    def _paddlex_precision(cls, data: Any) -> Any:
        """PaddleX calls the precisions of TensorRT fp32 and fp16."""
        if isinstance(data, dict) and data.get("backend") == "tensorrt":
            settings = data.get("backend_config")
            names = {"fp32": "float32", "fp16": "float16"}
            if isinstance(settings, dict) and settings.get("precision") in [*names]:
                return {
                    **data,
                    "backend_config": {**settings, "precision": names[settings["precision"]]},
                }
        return data


class Module(Section):
    """The keys that every model of a pipeline has."""

    module_name: str | None = None
    model_name: str
    model_dir: ModelDir | None = None
    batch_size: int = Field(default=1, ge=1)
    enable_hpi: bool | None = Field(
        default=None, validation_alias=AliasChoices("enable_hpi", "use_hpip")
    )
    hpi_config: HpiConfig | None = None
    engine: Refused[str] = None
    engine_config: Refused[dict[str, Any]] = None
    genai_config: Refused[dict[str, Any]] = None


class TextDetection(Module):
    """DB text detection."""

    limit_side_len: Side | None = 960
    limit_type: LimitType | None = "max"
    max_side_limit: Side = 4000
    thresh: Ratio | None = 0.3
    box_thresh: Ratio | None = 0.6
    unclip_ratio: float | None = Field(default=2.0, gt=0, le=10)
    tiling: bool = False
    deskew: bool = False
    input_shape: Shape | None = None


class TextLineOrientation(Module):
    """Classifies upside-down lines."""


_MIN_SPACE = 0.03
"""Of PP-OCRv4 mobile, fitted on rendered lines; the shipped pipelines have other models' values. On
other data it restores 94 % of the spaces that it drops, and 98.6 % of those restored are right."""


def _probability(value: Any) -> bool | float:
    if isinstance(value, bool) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError("Input should be True, False or a probability between 0 and 1")


class TextRecognition(Module):
    """CTC text recognition."""

    score_thresh: Ratio = 0.0
    return_word_box: bool = False
    restore_spaces: Annotated[bool | float, BeforeValidator(_probability)] = False
    ascii_punctuation: bool = False
    input_shape: Shape | None = None

    @property
    def min_space(self) -> float | None:
        """The minimum probability of a space to restore; None: restore none."""
        if isinstance(self.restore_spaces, bool):
            return _MIN_SPACE if self.restore_spaces else None
        return self.restore_spaces


class DocModules(Section):
    """The models of a document preprocessor."""

    orientation: Module | None = Field(default=None, alias="DocOrientationClassify")
    unwarping: Module | None = Field(default=None, alias="DocUnwarping")


class DocPreprocessor(Section):
    """Turns a page upright and flattens it, before it is read."""

    pipeline_name: Literal["doc_preprocessor"] = "doc_preprocessor"
    batch_size: int = Field(default=1, ge=1)
    use_doc_orientation_classify: bool = True
    use_doc_unwarping: bool = True
    doubtful_pages_only: bool = False
    enable_hpi: bool | None = Field(
        default=None, validation_alias=AliasChoices("enable_hpi", "use_hpip")
    )
    hpi_config: HpiConfig | None = None
    engine: Refused[str] = None
    sub_modules: DocModules = Field(default_factory=DocModules, alias="SubModules")


class SubPipelines(Section):
    """The pipelines within an OCR pipeline."""

    doc_preprocessor: DocPreprocessor | None = Field(default=None, alias="DocPreprocessor")


class SubModules(Section):
    """The models of an OCR pipeline."""

    detection: TextDetection = Field(alias="TextDetection")
    orientation: TextLineOrientation | None = Field(default=None, alias="TextLineOrientation")
    recognition: TextRecognition = Field(alias="TextRecognition")


def _or_default(default: Callable[[], Any]) -> BeforeValidator:
    """PaddleX takes a `null` of this key as absent."""
    return BeforeValidator(lambda value: default() if value is None else value)


class PipelineConfig(Section):
    """One OCR pipeline."""

    _source: str = PrivateAttr("pipeline")
    pipeline_name: Literal["OCR"] = "OCR"
    text_type: Literal["general", "seal"] = "general"
    """seal is run by PaddleX: see `is_of_paddlex`."""
    batch_size: int = Field(default=1, ge=1)
    use_doc_preprocessor: bool = True
    use_textline_orientation: bool = True
    enable_hpi: bool = Field(default=True, validation_alias=AliasChoices("enable_hpi", "use_hpip"))
    hpi_config: Annotated[HpiConfig, _or_default(HpiConfig)] = HpiConfig()
    gate: GateSetting = Gate()
    order: Order = "paddlex"
    engine: Refused[str] = None
    engine_config: Refused[dict[str, Any]] = None
    serving: dict[str, Any] | None = Field(default=None, alias="Serving")
    sub_pipelines: Annotated[SubPipelines, _or_default(SubPipelines)] = Field(
        default_factory=SubPipelines, alias="SubPipelines"
    )
    sub_modules: SubModules = Field(alias="SubModules")

    @property
    def source(self) -> str:
        """Names its file in errors."""
        return self._source

    @classmethod
    def checked(cls, data: Mapping[str, Any], source: str) -> PipelineConfig:
        """A config from the keys of a YAML. Raises pydantic.ValidationError."""
        config = cls.model_validate(data)
        config._source = source
        return config

    def sections(self) -> list[tuple[str, Module]]:
        """(section, module) of the models in use, in the order in which a page passes them."""
        modules, document = self.sub_modules, self.doc_preprocessor
        order = (
            document.sub_modules.orientation if document.use_doc_orientation_classify else None,
            document.sub_modules.unwarping if document.use_doc_unwarping else None,
            modules.detection,
            modules.orientation if self.use_textline_orientation else None,
            modules.recognition,
        )
        pairs = zip(MODULE_NAMES, order, strict=True)
        return [(section, module) for section, module in pairs if module is not None]

    @property
    def doc_preprocessor(self) -> DocPreprocessor:
        """The document preprocessor in use; without one, one that does nothing."""
        if self.use_doc_preprocessor and self.sub_pipelines.doc_preprocessor is not None:
            return self.sub_pipelines.doc_preprocessor
        return DocPreprocessor(use_doc_orientation_classify=False, use_doc_unwarping=False)

    @property
    def modules(self) -> list[Module]:
        """The modules of `sections`."""
        return [module for _, module in self.sections()]

    def models(self) -> list[tuple[str, Path | None]]:
        """(model_name, model_dir) of each model in use."""
        return [(module.model_name, module.model_dir) for module in self.modules]

    @model_validator(mode="before")
    @classmethod
    def _inherit_hpi(cls, data: Any) -> Any:
        return _inherit_hpi(data, data.get("hpi_config"))

    def hpi(self, module: Module) -> HpiConfig:
        """The module's `hpi_config`, else the pipeline's."""
        return module.hpi_config if module.hpi_config is not None else self.hpi_config


def levels(data: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings of a raw document that may set an engine: each pipeline, and each model.

    Each behind its path, which ends with a dot; that of the document itself is empty.
    """
    if not isinstance(data, dict):
        return
    yield where, data
    for key in ("SubModules", "SubPipelines"):
        if isinstance(data.get(key), dict):
            for name, inner in data[key].items():
                yield from levels(inner, f"{where}{key}.{name}.")


def _inherit_hpi(data: Mapping[str, Any], shared: Any) -> dict[str, Any]:
    """What the `hpi_config` of an inner pipeline or module leaves out is that of the outer one.

    shared: `hpi_config` of the pipeline `data`, which is a raw document of any form.
    """
    result = dict(data)
    for key in ("SubPipelines", "SubModules"):
        if not isinstance(data.get(key), dict):
            continue
        result[key] = dict(data[key])
        for name, inner in data[key].items():
            own = inner.get("hpi_config") if isinstance(inner, dict) else None
            if isinstance(inner, dict) and (own is None or isinstance(own, dict)):
                merged = {**(shared if isinstance(shared, dict) else {}), **(own or {})}
                result[key][name] = _inherit_hpi(inner, merged)
                if merged:
                    result[key][name]["hpi_config"] = merged
    return result


SHIPPED = Path(__file__).resolve().parents[1] / "data" / "configs"
"""The folder of the shipped pipelines."""


def shipped(path: Path) -> Path | None:
    """The package's own file for `configs/NAME`, where the working folder has none."""
    own = SHIPPED / path.name
    missing = path == Path("configs", path.name) and not path.exists()
    return own if missing and own.is_file() else None


def load_config(path: str | Path) -> PipelineConfig:
    """Read a pipeline YAML; `configs/NAME` is the package's where the working folder has none.

    Raises ConfigError, naming the file, the key and what is allowed.
    """
    return parse_config(read_document(path), source=printable(str(path)))


def read_document(path: str | Path) -> Any:
    """A pipeline YAML as plain values. Raises ConfigError."""
    try:
        return read_yaml(shipped(Path(path)) or Path(path), max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        names = ", ".join(f"configs/{own.name}" for own in sorted(SHIPPED.glob("*.yaml")))
        raise ConfigError(f"{path}: no such file; the shipped pipelines are {names}") from None


def is_of_paddlex(data: Mapping[str, Any]) -> bool:
    """Whether PaddleX itself runs the pipeline of a raw document: all that is not plain OCR."""
    return data.get("pipeline_name", "OCR") != "OCR" or data.get("text_type") == "seal"


def check_name(data: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError for a slip in the name of the plain pipeline."""
    name = data.get("pipeline_name")
    if isinstance(name, str) and name != "OCR" and name.strip().upper() == "OCR":
        raise ConfigError(f"{source}: pipeline_name: {name!r}: did you mean OCR?")


_BY_PADDLEX = (
    "PaddleX itself runs it on these engines, in an environment with the extra paddlex: "
    "`ocr-hpi serve`, or in Python serving.integrations.paddlex.enable() and "
    "paddlex.create_pipeline(config=serving.integrations.paddlex.paddlex_config(yaml))"
)


def parse_config(data: Any, *, source: str) -> PipelineConfig:
    """Check a parsed YAML document. `source` names it in errors."""
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: a pipeline is a mapping of keys, not {type(data).__name__}")
    if isinstance(data.get("Pipeline"), dict):
        raise ConfigError(
            f"{source}: this is PaddleX's old beta form. In today's form it is:\n"
            f"{_translate_beta(data['Pipeline'])}"
        )
    check_name(data, source)
    if is_of_paddlex(data):
        key = "text_type" if data.get("pipeline_name", "OCR") == "OCR" else "pipeline_name"
        raise ConfigError(
            f"{source}: {key}: {shortened(data[key])} is not plain OCR: {_BY_PADDLEX}"
        )
    for _, keys in levels(data):
        if "enable_hpi" in keys and "use_hpip" in keys:
            raise ConfigError(f"{source}: enable_hpi and use_hpip are the same key; keep one")
    try:
        config = PipelineConfig.checked(data, source)
    except ValidationError as error:
        raise config_error(error, where=source, schema=PipelineConfig, document=data) from None
    missing = [
        f"{source}: {key} is True (absent means True), but {section} is missing; add it, or set "
        f"{key}: False"
        for key, section in _missing_sections(config)
    ]
    if missing:
        raise ConfigError("; ".join(missing))
    for level, path, reason in _without_effect(config):
        _log_once(level, f"{source}: {path} has no effect here: {reason}")
    return config


def _missing_sections(config: PipelineConfig) -> Iterator[tuple[str, str]]:
    """(key that is True, section of the YAML that it needs)."""
    document = config.doc_preprocessor
    if config.use_textline_orientation and config.sub_modules.orientation is None:
        yield "use_textline_orientation", "SubModules.TextLineOrientation"
    if config.use_doc_preprocessor and config.sub_pipelines.doc_preprocessor is None:
        yield "use_doc_preprocessor", "SubPipelines.DocPreprocessor"
    if document.use_doc_orientation_classify and document.sub_modules.orientation is None:
        yield "use_doc_orientation_classify", key_path("DocOrientationClassify")
    if document.use_doc_unwarping and document.sub_modules.unwarping is None:
        yield "use_doc_unwarping", key_path("DocUnwarping")


def _without_effect(config: PipelineConfig) -> Iterator[tuple[int, str, str]]:
    """(log level, key, why) of the keys in the YAML that change nothing here.

    INFO for `batch_size`: it changes no result, and PaddleX's own YAMLs all have it.
    """
    if config.batch_size != 1:
        yield logging.INFO, "batch_size", "pages of all requests share the engines as they come"
    if config.serving is not None:
        yield logging.WARNING, "Serving", "the server's settings are options of `ocr-hpi serve`"
    for section, module in config.sections():
        key = key_path(section)
        if module.batch_size != 1:
            why = "the engine plan sets how many lines go into one call"
            yield logging.INFO, f"{key}.batch_size", why
        if module.module_name not in (None, MODULE_NAMES[section]):
            why = f"a model of {section} is a {MODULE_NAMES[section]} model"
            yield logging.WARNING, f"{key}.module_name: {module.module_name}", why


def key_path(section: str) -> str:
    """Where a model's section stands in the YAML."""
    within = "SubPipelines.DocPreprocessor." if section in DOC_SECTIONS else ""
    return f"{within}SubModules.{section}"


@cache
def _log_once(level: int, message: str) -> None:
    _log.log(level, message)


def check_supported(config: PipelineConfig) -> None:
    """Raise ConfigError for a valid key that is not supported, with how to fix it."""
    if problems := [*_unsupported(config)]:
        raise ConfigError("; ".join(f"{config.source}: {problem}" for problem in problems))
    for module in config.modules:
        check_hpi(config.hpi(module), config.source)


def _unsupported(config: PipelineConfig) -> Iterator[str]:
    inner: list[Module | DocPreprocessor] = [*config.modules, config.doc_preprocessor]
    if config.sub_modules.recognition.input_shape is not None:
        yield (
            "SubModules.TextRecognition.input_shape: a line is read at its own width here; remove "
            "input_shape"
        )
    if not config.enable_hpi or any(section.enable_hpi is False for section in inner):
        yield (
            "enable_hpi: False: that is plain PaddleX, which has no engine plan and is not served; "
            "`ocr-hpi predict`, `evaluate` and load_pipeline() run it; set enable_hpi: True"
        )
    for key, instead in (
        ("engine", "hpi_config.backend chooses the engine here"),
        ("engine_config", "an engine's settings are hpi_config.backend_config here"),
        ("genai_config", "it is for vision-language models, which are not served here"),
    ):
        if any(getattr(section, key, None) is not None for section in (config, *inner)):
            yield f"{key}: {instead}; remove {key}"


def check_hpi(hpi: HpiConfig, where: str) -> None:
    """Raise ConfigError for a valid key of `hpi_config` that is not supported. where: for it."""
    for key in ("use_dynamic_shapes", "dynamic_shapes"):
        if key in (hpi.backend_config or {}):
            raise ConfigError(
                f"{where}: hpi_config.backend_config.{key}: TensorRT's shapes are those of the "
                f"engine plan; remove {key}"
            )


# Key of the beta form -> section, and key of today's form.
_BETA_KEYS = {
    "det_model": ("TextDetection", "model"),
    "text_det_model": ("TextDetection", "model"),
    "rec_model": ("TextRecognition", "model"),
    "text_rec_model": ("TextRecognition", "model"),
    "rec_batch_size": ("TextRecognition", "batch_size"),
    "text_rec_batch_size": ("TextRecognition", "batch_size"),
}


def _translate_beta(beta: dict[str, Any]) -> str:
    """Today's YAML for the mapping `Pipeline` of PaddleX's 3.0 betas, to show in an error."""
    modules: dict[str, dict[str, Any]] = {
        section: {
            "module_name": MODULE_NAMES[section],
            "model_name": f"PP-OCRv4_mobile_{short}",
            "model_dir": None,
        }
        for section, short in (("TextDetection", "det"), ("TextRecognition", "rec"))
    }
    for beta_key, (section, key) in _BETA_KEYS.items():
        if beta_key in beta:
            value = beta[beta_key]
            if key == "model":
                key = "model_dir" if "/" in str(value) else "model_name"
            modules[section][key] = value
    today = {
        "pipeline_name": "OCR",
        "text_type": "general",
        "use_doc_preprocessor": False,
        "use_textline_orientation": False,
        "enable_hpi": True,
        "SubModules": modules,
    }
    return yaml.safe_dump(today, sort_keys=False, allow_unicode=True)
