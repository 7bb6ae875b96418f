"""Our engines behind PaddleX's engine `hpi`.

Only four of PaddleX's functions are replaced: the check for its plugin, the one that builds the
runner of a model, the one that selects the caller's settings for the engine, and the one that finds
a model's folder.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from serving.config.errors import config_error
from serving.config.pipeline import HpiConfig, check_hpi
from serving.engines.base import Array, Engine, EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError, ModelMissing
from serving.imaging.crop import MAX_LINE_WIDTH
from serving.integrations.paddlex.choice import Choose, ModelRequest
from serving.integrations.paddlex.guard import check_paddlex
from serving.models.conversion import onnx_graph
from serving.models.files import paddle_graph
from serving.models.probe import model_kind
from serving.models.store import Store
from serving.ocr.recognise import Steps, next_step
from serving.ocr.scheduler import Scheduler
from serving.plan.graphs import Graphs

_STEPS: Steps = ((320, 16), (640, 32), (1280, 64), (MAX_LINE_WIDTH, 128))
"""Finer than our own recogniser's in OpenVINO: PaddleX has padded a batch already, and more
costs it spaces."""


class EngineRunner:
    """An engine as PaddleX calls a model: with a list of arrays, by sorted input name.

    lines: the model reads lines, (N, 3, H, W). The rows of a batch are independent, so they may
    run in parallel on the engine's streams.
    width_classes: PaddleX pads each batch to its widest line, so that nearly every batch has a
    new shape, whose first run costs an engine more than reading it. Here the batch is padded
    further, the way PaddleX pads. Like any padding of lines, that changes some texts.
    """

    def __init__(self, engine: Engine, *, lines: bool, width_classes: bool) -> None:
        self._engine = engine
        self._lines = lines and len(engine.inputs) == 1
        self._width_classes = width_classes
        several = self._lines and engine.spec.streams > 1
        self._pool = Scheduler(engine.spec.streams, name="row") if several else None

    def __call__(self, x: Array | Sequence[Array], **_: Any) -> list[Array]:
        """The graph's outputs, in its order. Raises EngineError."""
        inputs = [x] if isinstance(x, np.ndarray) else x
        names = self._engine.inputs
        if len(inputs) != len(names):
            raise EngineError(
                f"PaddleX gives {len(inputs)} arrays, and the model takes {len(names)}: "
                f"{', '.join(names)}"
            )
        named = dict(zip(sorted(names), map(np.ascontiguousarray, inputs), strict=True))
        first, *more = (named[name] for name in names)
        if not self._lines:
            return list(self._engine.run(first, *more))
        padded = _padded(first) if self._width_classes else first
        # The steps of the added padding are cut off again.
        share = first.shape[-1] / padded.shape[-1]
        return [out[:, : ceil(out.shape[1] * share)] for out in self._read(padded)]

    def _read(self, batch: Array) -> Sequence[Array]:
        if self._pool is None or len(batch) < 2:
            return self._engine.run(batch)
        rows = self._pool.map(self._engine.run, np.split(batch, len(batch)))
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def close(self) -> None:
        """Free the engine and the threads."""
        if self._pool is not None:
            self._pool.close()
        self._engine.close()


def _padded(batch: Array) -> Array:
    """Pad with zeros on the right, as PaddleX does, up to the class of its width."""
    width = batch.shape[-1]
    if width > MAX_LINE_WIDTH:
        return batch
    return np.pad(batch, ((0, 0), (0, 0), (0, 0), (0, next_step(width, _STEPS) - width)))


_LOG = logging.getLogger(__name__)


def install(
    models: Path,
    choose: Choose,
    *,
    width_classes: bool,
    on_open: Callable[[str, EngineSpec], None] = lambda *_: None,
) -> None:
    """Replace the four functions. Raises EngineError where PaddleX is not as expected.

    on_open: called with each model's name and engine.
    """
    check_paddlex()
    from paddlex.inference import models as paddlex_models
    from paddlex.inference.models.engines.hpi import HPIEngine
    from paddlex.inference.models.runners.inference_runner import InferenceRunner

    class Runner(EngineRunner, InferenceRunner):  # type: ignore[misc]
        __call__ = EngineRunner.__call__  # PaddleX's benchmark times what a subclass has here

    def ensure_environment(self: Any) -> None:
        """Nothing to check: a missing backend is reported when the model is opened."""

    def build_runner(
        self: Any,
        *,
        model_name: str,
        model_dir: Path | None,
        model_config: Mapping[str, Any] | None,
        engine_config: Mapping[str, Any],
        binding: Any = None,
    ) -> Any:
        request = _request(model_name, model_dir, engine_config)
        engine = _open(request, models, choose(request))
        on_open(request.name, engine.spec)
        post = (model_config or {}).get("PostProcess") or {}
        lines = post.get("name") == "CTCLabelDecode"
        return Runner(engine, lines=lines, width_classes=width_classes)

    HPIEngine.ensure_environment = ensure_environment
    HPIEngine.build_runner = build_runner
    select = inspect.unwrap(paddlex_models._select_engine_config_source)
    paddlex_models._select_engine_config_source = _with_hpi_config(select)
    find = inspect.unwrap(paddlex_models._resolve_local_model_dir)
    paddlex_models._resolve_local_model_dir = _from_store(find, HPIEngine, Store(models))


def _open(request: ModelRequest, models: Path, specs: Sequence[EngineSpec]) -> Engine:
    """The model on the first engine that loads it. Raises the last one's EngineError."""
    for spec, following in pairwise(specs):
        try:
            return _open_on(request, models, spec)
        except EngineError as error:
            _LOG.warning("%s: %s follows %s: %s", request.name, following, spec, error)
    return _open_on(request, models, specs[-1])


def _open_on(request: ModelRequest, models: Path, spec: EngineSpec) -> Engine:
    if spec.backend == "paddle":
        graph = paddle_graph(request.folder)
    else:
        graph = made_graph(request.folder, models, convert=request.hpi.auto_paddle2onnx)
    return open_engine(graph, spec)


def made_graph(folder: Path, models: Path, *, convert: bool = True) -> Path:
    """A model's graph, converted if need be; a detector's optimized where it can be written.

    Raises what `onnx_graph` does.
    """
    graph = onnx_graph(folder, models / "engines", convert=convert)
    if model_kind(folder) != "text_detection":
        return graph
    try:
        return Graphs(models).build_optimized(folder, graph)
    except OSError as error:
        _LOG.warning("%s: opened without optimization, which is slower: %s", folder.name, error)
        return graph


_OF_THE_MODEL = ("model_name", "device_type", "device_id")
"""What PaddleX itself adds to `hpi_config`; of the rest it adds no key that the user left out."""


def _request(name: str, folder: Path | None, settings: Mapping[str, Any]) -> ModelRequest:
    """The request, from the `hpi_config` that PaddleX has validated. Raises ConfigError."""
    assert folder is not None  # the engine hpi runs only local models
    values = {key: settings[key] for key in settings if key not in _OF_THE_MODEL}
    try:
        hpi = HpiConfig.model_validate(values)
    except ValidationError as error:
        where = f"{name}: hpi_config"
        raise config_error(error, where=where, schema=HpiConfig) from None
    check_hpi(hpi, name)
    return ModelRequest(name=name, folder=Path(folder), device=settings["device_type"], hpi=hpi)


def _from_store(find: Callable[..., Any], hpi: type, store: Store) -> Callable[..., Any]:
    """Let a model without `model_dir` be found in the store, before PaddleX would download it."""

    @functools.wraps(find)
    def found(**request: Any) -> Any:
        if isinstance(request["inference_engine"], hpi) and request["model_dir"] is None:
            with suppress(ModelMissing):  # PaddleX's own download
                request["model_dir"] = str(store.folder(request["model_name"]))
        return find(**request)

    return found


def _with_hpi_config(select: Callable[..., Any]) -> Callable[..., Any]:
    """Let `hpi_config` through where PaddleOCR would lose it.

    PaddleOCR always passes an `engine_config` by engine, with settings for Paddle only; PaddleX
    then ignores `hpi_config`, and the engine hpi gets no settings.
    """
    from paddlex.inference.models.engines import InferenceEngine

    @functools.wraps(select)
    def selected(**sources: Any) -> Any:
        config = sources["engine_config"]
        of_others = isinstance(config, dict) and bool(config) and "hpi" not in config
        if (
            sources["engine"] == "hpi"
            and of_others
            and config.keys() <= InferenceEngine.all().keys()
        ):
            return sources["hpi_config"]
        return select(**sources)

    return selected
