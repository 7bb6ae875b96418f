"""A pipeline YAML run by PaddleX: on our engines, or plain (`enable_hpi: False`) to compare."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import threading
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from serving.config.options import DEFAULT_OPTIONS, Options, first_set
from serving.config.paddlex import (
    PaddleXConfig,
    ServedConfig,
    load_served,
    model_dir,
    used_modules,
)
from serving.config.pipeline import (
    DOC_SECTIONS,
    OWN_KEYS,
    DocPreprocessor,
    Module,
    PipelineConfig,
    levels,
    read_document,
)
from serving.errors import BadRequest, ConfigError, EngineError, ModelError
from serving.integrations.paddlex.guard import check_paddlex
from serving.models.conversion import onnx_graph
from serving.models.pipeline_models import pipeline_models
from serving.models.store import Store
from serving.ocr.detect import as_quad
from serving.ocr.document import on_sent_page
from serving.ocr.order import by_columns
from serving.types import Image, Line, Page

_LOG = logging.getLogger(__name__)
_OWN_OPTIONS = "text_det_tiling", "text_det_deskew"
"""Options of a request that change how text is detected, and that PaddleX does not have."""


def paddlex_config(yaml: str | Path, *, models: str | Path = "models") -> dict[str, Any]:
    """A pipeline YAML as `paddlex.create_pipeline(config=...)` takes it.

    Model folders are filled in from the store, `enable_hpi` has PaddleX's spelling, and means
    True where it is absent. Raises ModelMissing, ModelInvalid, and ConfigError, also for a model
    that PaddleX, where it is installed, does not know.
    """
    return filled_config(load_served(yaml), Path(models))


def filled_config(config: ServedConfig, models: Path) -> dict[str, Any]:
    """The same of a YAML that has been read."""
    data = deepcopy(config.data) if isinstance(config, PaddleXConfig) else _read(config, models)
    store = Store(models)
    for where, module in used_modules(data):
        try:
            module["model_dir"] = str(store.folder(module["model_name"], model_dir(module)))
        except ModelError as error:
            raise type(error)(f"{config.source}: {where}: {error}") from error
    if importlib.util.find_spec("paddlex") is not None:
        _check_known(config.source, data)
    for _, level in levels(data):
        for key in OWN_KEYS:
            level.pop(key, None)
        if "enable_hpi" in level:
            level["use_hpip"] = level.pop("enable_hpi")
    return {"use_hpip": True, **data}


def plain_pipeline(yaml: str | Path, *, models: str | Path = "models", device: str = "cpu") -> Any:
    """The YAML's pipeline by PaddleX's own engine, whatever its `enable_hpi` says.

    The engine is the YAML's `engine`, else Paddle where it is installed, else ONNX Runtime, which
    is logged as a warning. Raises ConfigError, ModelError and EngineError.
    """
    check_paddlex()
    import paddlex

    config = paddlex_config(yaml, models=models)
    for _, level in levels(config):
        for key in ("use_hpip", "hpi_config"):
            level.pop(key, None)
    if config.get("engine") is None and importlib.util.find_spec("paddle") is None:
        _LOG.warning("paddlepaddle is not installed: plain PaddleX runs %s on ONNX Runtime", yaml)
        config["engine"] = "onnxruntime"
    with tempfile.TemporaryDirectory() as scratch:  # PaddleX reads its models when it opens them
        if config.get("engine") == "onnxruntime":
            _as_onnx(config, Path(models) / "engines", Path(scratch))
        return paddlex.create_pipeline(config=config, device=device)


def _read(config: PipelineConfig, models: Path) -> dict[str, Any]:
    """The document of a validated YAML, whose models are there."""
    data: dict[str, Any] = read_document(config.source)
    if config.doc_preprocessor.doubtful_pages_only:
        _LOG.warning(
            "%s: doubtful_pages_only: PaddleX would turn every page; its document preprocessor is "
            "off here",
            config.source,
        )
        data["use_doc_preprocessor"] = False
        config = config.model_copy(update={"use_doc_preprocessor": False})
    list(pipeline_models(config, models))  # raises, naming the key
    return data


def _check_known(source: str, data: dict[str, Any]) -> None:
    from paddlex.inference.models.bindings import try_get_supported_engines

    for where, module in used_modules(data):
        if try_get_supported_engines(module["model_name"]) is None:
            off = where.endswith("SubModules.TextLineOrientation")
            raise ConfigError(
                f"{source}: {where}.model_name: PaddleX does not know {module['model_name']}; name "
                "one of PaddleX's models"
                + (", or set use_textline_orientation: False" if off else "")
            )


def _as_onnx(config: dict[str, Any], engines: Path, scratch: Path) -> None:
    """Give PaddleX's ONNX Runtime engine folders that have the graph as ONNX."""
    for _, module in used_modules(config):
        folder = Path(module["model_dir"])
        if not (folder / "inference.onnx").is_file():
            target = scratch / module["model_name"]
            target.mkdir()
            graph = onnx_graph(folder, engines)
            (target / "inference.onnx").symlink_to(graph.resolve())
            (target / "inference.yml").symlink_to((folder / "inference.yml").resolve())
            module["model_dir"] = str(target)


def is_plain(config: PipelineConfig) -> bool:
    """Whether the YAML says `enable_hpi: False`. Raises ConfigError where one model differs."""
    inner: list[Module | DocPreprocessor] = [*config.modules, config.doc_preprocessor]
    own = {part.enable_hpi for part in inner} - {None, config.enable_hpi}
    if own and not config.enable_hpi:
        raise ConfigError(
            f"{config.source}: enable_hpi: False at the top and True in a model: only PaddleX "
            "itself mixes both; in Python: serving.integrations.paddlex.enable(), then "
            "paddlex.create_pipeline(config=serving.integrations.paddlex.paddlex_config(yaml))"
        )
    return not config.enable_hpi


class PlainPipeline:
    """PaddleX's own pipeline on its own engine, one page at a time."""

    def __init__(self, config: PipelineConfig, models: Path) -> None:
        """Raises ConfigError, ModelError, and EngineError where PaddleX is not installed."""
        self._config = config
        try:
            self._pipeline = plain_pipeline(config.source, models=models)
        except EngineError as error:
            raise EngineError(
                f"{config.source}: enable_hpi: False means plain PaddleX: {error}. Or set "
                "enable_hpi: True"
            ) from error
        self._lock = threading.Lock()  # PaddleX mixes up pages of several threads

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one upright page, (H, W, 3) uint8 BGR. Lines are PaddleX's, including empty ones."""
        self.check(options)
        start = time.perf_counter()
        with self._lock:
            own = options.model_dump(exclude_none=True, exclude={"order", *_OWN_OPTIONS})
            (result,) = self._pipeline.predict(image, **own)
        read = zip(result["rec_texts"], result["rec_scores"], result["rec_polys"], strict=True)
        lines = tuple(
            Line(text=str(text), score=float(score), quad=as_quad(np.asarray(quad)))
            for text, score, quad in read
        )
        if first_set(options.order, self._config.order) == "columns":
            lines = by_columns(lines)
        spent = (time.perf_counter() - start) * 1e3
        height, width = image.shape[:2]
        angle = max(0, (result.get("doc_preprocessor_res") or {}).get("angle", 0))
        sizes = (height, width) if angle % 180 else (width, height)
        page = Page(*sizes, lines, timing={"paddlex": spent})
        return on_sent_page(page, width, height, angle)

    def check(self, options: Options) -> None:
        """Raise BadRequest for an option that plain PaddleX does not have."""
        for key in _OWN_OPTIONS:
            if getattr(options, key):
                raise BadRequest(f"{key}: plain PaddleX (enable_hpi: False) does not have it")

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """The effective settings of a request, under PaddleX's names."""
        return settings_in_force(self._config, options)

    def close(self) -> None:
        """Free PaddleX's models."""
        del self._pipeline


def settings_in_force(config: PipelineConfig, options: Options) -> dict[str, Any]:
    """The options, else the YAML's values; where both are None, inference.yml decides."""
    detection, recognition = config.sub_modules.detection, config.sub_modules.recognition
    keys = ("limit_side_len", "limit_type", "max_side_limit", "thresh", "box_thresh")
    requested = options.model_dump()
    return {
        "doc_preprocessor": {
            key: first_set(requested[key], getattr(config.doc_preprocessor, key))
            for key in DOC_SECTIONS.values()
        },
        "model_settings": {
            "use_doc_preprocessor": config.use_doc_preprocessor,
            "use_textline_orientation": first_set(
                options.use_textline_orientation, config.use_textline_orientation
            ),
        },
        "text_det_params": {
            key: first_set(requested[f"text_det_{key}"], getattr(detection, key))
            for key in (*keys, "unclip_ratio")
            if requested[f"text_det_{key}"] is not None or getattr(detection, key) is not None
        },
        "text_type": config.text_type,
        "text_rec_score_thresh": first_set(options.text_rec_score_thresh, recognition.score_thresh),
        "return_word_box": first_set(options.return_word_box, recognition.return_word_box),
    }
