"""Our engines behind PaddleX's engine `hpi`.

Three of PaddleX's functions are replaced, no more: the check for its plugin, what builds the
runner of a model, and which of the caller's settings that engine gets.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.config.errors import config_error
from serving.config.pipeline import HpiConfig
from serving.convert import onnx_graph
from serving.engines.base import Engine
from serving.engines.factory import open_engine
from serving.paddlex.choice import Choose, ModelRequest
from serving.paddlex.guard import check_paddlex
from serving.paddlex.runner import EngineRunner
from serving.plan.graphs import Graphs
from serving.probe import model_kind
from serving.store.files import paddle_graph

_LOG = logging.getLogger(__name__)


def install(models: Path, choose: Choose, *, width_classes: bool) -> None:
    """Replace the three functions. Raises EngineError where PaddleX is not as expected."""
    check_paddlex()
    from paddlex.inference import models as paddlex_models
    from paddlex.inference.models.engines.hpi import HPIEngine

    runner_class = _runner_class()

    def ensure_environment(self: Any) -> None:
        """Nothing to check: a missing backend is told when the model is opened."""

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
        engine = _open(request, models, choose)
        post = (model_config or {}).get("PostProcess") or {}
        lines = post.get("name") == "CTCLabelDecode"
        return runner_class(EngineRunner(engine, lines=lines, width_classes=width_classes))

    HPIEngine.ensure_environment = ensure_environment
    HPIEngine.build_runner = build_runner
    select = inspect.unwrap(paddlex_models._select_engine_config_source)
    paddlex_models._select_engine_config_source = _with_hpi_config(select)


def _open(request: ModelRequest, models: Path, choose: Choose) -> Engine:
    """The model on the engine chosen."""
    spec = choose(request)
    if spec.backend == "paddle":
        graph = paddle_graph(request.folder)
    else:
        convert = request.hpi.auto_paddle2onnx
        graph = onnx_graph(request.folder, models / "engines", convert=convert)
        if model_kind(request.folder) == "text_detection":
            graph = _lighter(request, models, graph)
    engine = open_engine(graph, spec)
    _LOG.info("%s runs on %s", request.name, spec)
    return engine


def _lighter(request: ModelRequest, models: Path, graph: Path) -> Path:
    """A detector's graph in the form that takes less time, where that can be written."""
    try:
        return Graphs(models).lighter(request.folder, graph)
    except OSError as error:
        _LOG.warning("%s: opened as it is, which is slower: %s", request.name, error)
        return graph


def _request(name: str, folder: Path | None, settings: Mapping[str, Any]) -> ModelRequest:
    """What PaddleX asks for, from its own checked form of `hpi_config`."""
    assert folder is not None  # the engine hpi is one of local models
    said = {key: settings[key] for key in HpiConfig.model_fields if key in settings}
    try:
        hpi = HpiConfig.model_validate(said)
    except ValidationError as error:
        where = f"{name}: hpi_config"
        raise config_error(error, where=where, schema=HpiConfig) from None
    return ModelRequest(name=name, folder=Path(folder), device=settings["device_type"], hpi=hpi)


def _runner_class() -> type:
    """A class of PaddleX's own kind, so that its benchmark times the calls."""
    from paddlex.inference.models.runners.inference_runner import InferenceRunner

    class Runner(InferenceRunner):  # type: ignore[misc]
        def __init__(self, runner: EngineRunner) -> None:
            self._runner = runner

        def __call__(self, x: Any = None, **kwargs: Any) -> Any:
            return self._runner(x)

        def close(self) -> None:
            self._runner.close()

    return Runner


def _with_hpi_config(select: Callable[..., Any]) -> Callable[..., Any]:
    """Let `hpi_config` through where PaddleOCR would lose it.

    PaddleOCR always passes an `engine_config` of settings by engine, which has Paddle's alone;
    PaddleX then takes that for the whole and gives the engine hpi nothing.
    """
    from paddlex.inference.models.engines import InferenceEngine

    @functools.wraps(select)
    def selected(**sources: Any) -> Any:
        given = sources["engine_config"]
        of_others = isinstance(given, dict) and bool(given) and "hpi" not in given
        if (
            sources["engine"] == "hpi"
            and of_others
            and given.keys() <= InferenceEngine.all().keys()
        ):
            return sources["hpi_config"]
        return select(**sources)

    return selected
