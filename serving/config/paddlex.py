"""A pipeline YAML that PaddleX itself runs, on our engines: seal text, tables, layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.config.errors import config_error, shortened
from serving.config.pipeline import (
    ModelDir,
    PipelineConfig,
    check_name,
    is_of_paddlex,
    parse_config,
    read_document,
)
from serving.errors import ConfigError, printable

_RESULTS = {
    "OCR": "ocrResults",
    "seal_recognition": "sealRecResults",
    "table_recognition": "tableRecResults",
    "table_recognition_v2": "tableRecResults",
    "formula_recognition": "formulaRecResults",
    "layout_parsing": "layoutParsingResults",
    "PP-StructureV3": "layoutParsingResults",
}
"""By pipeline_name: what PaddleX's serving calls the list of a document's pages."""


@dataclass(frozen=True, slots=True)
class PaddleXConfig:
    """A checked YAML of PaddleX's. What its keys mean is left to PaddleX."""

    source: str
    """Names its file in errors."""
    data: dict[str, Any]
    """The document as it is in the file."""

    @property
    def results(self) -> str:
        """What PaddleX's serving calls the list of a document's pages, as sealRecResults."""
        return _RESULTS[self.data["pipeline_name"]]

    def models(self) -> list[tuple[str, Path | None]]:
        """(model_name, model_dir) of each model in use."""
        return [(module["model_name"], model_dir(module)) for _, module in used_modules(self.data)]


class _Model(BaseModel):
    """What is checked of a model; the rest is PaddleX's."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_dir: ModelDir | None = None


def model_dir(module: dict[str, Any]) -> Path | None:
    """The user's folder of a checked module; None: the store's."""
    return Path(module["model_dir"]).expanduser() if module.get("model_dir") else None


ServedConfig = PipelineConfig | PaddleXConfig
"""What `ocr-hpi serve` takes."""


def load_served(path: str | Path) -> ServedConfig:
    """Read a pipeline YAML, and decide who runs it: PaddleX what is not plain OCR.

    Raises ConfigError, naming the file, the key and what is allowed.
    """
    data, source = read_document(path), printable(str(path))
    if not isinstance(data, dict) or not is_of_paddlex(data):
        return parse_config(data, source=source)
    check_name(data, source)
    name = data.get("pipeline_name", "OCR")
    if name not in [*_RESULTS]:
        raise ConfigError(
            f"{source}: pipeline_name: {shortened(name)} is not served; served are "
            f"{', '.join(_RESULTS)}. In Python, PaddleX runs it on these engines: "
            "serving.integrations.paddlex.enable(), then "
            f"paddlex.create_pipeline({source!r}, use_hpip=True)"
        )
    for where, module in used_modules(data):
        try:
            _Model.model_validate(module)
        except ValidationError as error:
            raise config_error(error, where=f"{source}: {where}", schema=_Model) from None
    return PaddleXConfig(source, {**data, "pipeline_name": name})


def used_modules(data: dict[str, Any], within: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, module) of the models that a raw document uses.

    In PaddleX's YAMLs the key that turns a section off has its name: use_layout_detection: False
    turns off LayoutDetection.
    """
    off = [str(key).replace("_", "") for key, value in data.items() if value is False]
    for kind in ("SubPipelines", "SubModules"):
        sections = data.get(kind)
        for name, inner in sections.items() if isinstance(sections, dict) else ():
            if not isinstance(inner, dict) or f"use{name}".lower() in off:
                continue
            path = f"{within}{kind}.{name}"
            if kind == "SubModules":
                yield path, inner
            else:
                yield from used_modules(inner, f"{path}.")
