"""Pipelines other than plain OCR for our server: run by PaddleX, on our engines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from serving.config.gate import named_gate
from serving.config.options import DEFAULT_OPTIONS, Options
from serving.config.paddlex import PaddleXConfig, ServedConfig, used_modules
from serving.config.pipeline import OWN_KEYS, check_supported, levels
from serving.devices import kind
from serving.engines.base import EngineSpec
from serving.errors import (
    BUILD,
    BadRequest,
    ConfigError,
    EngineError,
    OcrError,
    PlanError,
)
from serving.integrations.paddlex.choice import ModelRequest, planned
from serving.integrations.paddlex.guard import check_installed
from serving.integrations.paddlex.hook import install
from serving.integrations.paddlex.plain import filled_config
from serving.models.conversion import needs_conversion
from serving.models.files import digest
from serving.plan.plan import key
from serving.types import Image, PaddleXResult, Page


def check_served(config: ServedConfig, device: str | None) -> None:
    """Raise ConfigError for what is not served, EngineError where PaddleX is not installed.

    device: that the user named: cpu, gpu, gpu:0,1. PaddleX is not imported.
    """
    if not isinstance(config, PaddleXConfig):
        return check_supported(config)
    source, name = config.source, config.data["pipeline_name"]
    for where, level in levels(config.data):
        if False in (level.get("enable_hpi"), level.get("use_hpip")):
            raise ConfigError(f"{source}: enable_hpi: False: only PaddleX on our engines is served")
        if own := sorted(OWN_KEYS & level.keys()):
            raise ConfigError(
                f"{source}: {where}{own[0]}: PaddleX, which runs this pipeline, does not have this "
                "key; remove it"
            )
    if device is not None and kind(device) != "cpu":
        raise ConfigError(f"{source}: PaddleX runs {name}, here only on the CPU, not on {device}")
    try:
        check_installed()
    except EngineError as error:
        raise EngineError(
            f"{source}: PaddleX runs {name}, which needs the extra paddlex: {error}"
        ) from error


class PaddleXPipeline:
    """A `ServedPipeline` that PaddleX runs, one page at a time."""

    plan: Mapping[str, Any] = {}
    """None of its own: a model takes its engine from all plans that have it."""

    def __init__(self, config: PaddleXConfig, models: Path, workers: int = 1) -> None:
        """workers: processes that share the cores.

        Raises ConfigError, ModelError, PlanError for a model that is not converted, and
        EngineError where PaddleX cannot open the pipeline.
        """
        data = filled_config(config, models)
        self._config, self._modules = config, deepcopy(dict(used_modules(data)))
        for module in self._modules.values():
            if needs_conversion(Path(module["model_dir"]), models / "engines"):
                name = module["model_name"]
                raise PlanError(f"{name} is not converted to ONNX; run: {BUILD} {config.source}")
        self._specs: dict[str, EngineSpec] = {}
        choose = planned(models, named_gate("default"))

        def shared(request: ModelRequest) -> list[EngineSpec]:
            return [spec.shared(workers) for spec in choose(request)]

        install(models.absolute(), shared, width_classes=True, on_open=self._specs.__setitem__)
        import paddlex

        log = logging.getLogger("paddlex")  # to the server's own log, and not in colour
        log.handlers.clear()
        log.propagate = True
        try:
            self._pipeline = paddlex.create_pipeline(config=data, device="cpu")
        except OcrError:
            raise
        except Exception as error:  # of any class: PaddleX checks its YAML as it goes
            raise EngineError(f"{config.source}: PaddleX cannot open it: {error!r}") from error
        self._lock = threading.Lock()  # PaddleX mixes up pages of several threads

    @property
    def identity(self) -> str:
        """Changes with the YAML, the models' files and the engines."""
        files = {where: digest(Path(it["model_dir"])) for where, it in self._modules.items()}
        return key({"yaml": self._config.data, "files": files, "engines": self.to_dict()})

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        """PaddleX's result of one page, (H, W, 3) uint8 BGR. Raises BadRequest for any option."""
        self.check(options)
        start = time.perf_counter()
        with self._lock:
            (result,) = self._pipeline.predict(image)
        spent = (time.perf_counter() - start) * 1e3
        height, width = image.shape[:2]
        content = PaddleXResult(self._config.results, _pruned(result.json["res"]))
        return Page(width, height, timing={"paddlex": spent}, paddlex=content)

    def check(self, options: Options) -> None:
        """Raise BadRequest for any option."""
        if given := options.model_dump(exclude_none=True):
            name = self._config.data["pipeline_name"]
            raise BadRequest(f"{min(given)}: PaddleX runs {name} as its YAML says")

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """None: PaddleX's result has them."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Models and engines, by path in the YAML."""
        return {
            where: {"model": name, "engine": {"name": str(spec), **spec.to_dict()}}
            for where, module in self._modules.items()
            if (spec := self._specs.get(name := module["model_name"])) is not None
        }

    def warm(self) -> None:
        """PaddleX is warm once it has read a page."""

    def close(self) -> None:
        """Free PaddleX's models."""
        del self._pipeline


def _pruned(value: Any) -> Any:
    """A result as PaddleX's serving has it: at no level with a file's path or a page's number."""
    if isinstance(value, Mapping):
        left_out = "input_path", "page_index"
        return {key: _pruned(inner) for key, inner in value.items() if key not in left_out}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value
