"""From a spec to an engine; a backend is imported only when it is used."""

from __future__ import annotations

import importlib
from pathlib import Path

from serving.config.model import Model
from serving.engines.base import Engine, EngineSpec
from serving.engines.batching import DynamicBatcher
from serving.engines.fused import Fused
from serving.errors import EngineError

_BACKENDS = {
    "openvino": ("serving.engines.openvino", "OpenVinoEngine"),
    "onnxruntime": ("serving.engines.onnxruntime", "OnnxRuntimeEngine"),
    "tensorrt": ("serving.engines.onnxruntime", "OnnxRuntimeEngine"),
    "paddle": ("serving.engines.paddle", "PaddleEngine"),
}
_INSTALL_HINTS = {"paddle": "python -m pip install paddlepaddle==3.2.2"}
"""How to install a backend that install_hpi_deps.sh does not."""


def open_fused(graph: Path, spec: EngineSpec, model: Model) -> Engine:
    """An engine that takes and gives what the fused graph does, also where its backend cannot
    load that graph: then `graph` is the model's own. Raises EngineError.
    """
    engine = open_engine(graph, spec)
    return Fused(engine, model) if spec.backend == "paddle" else engine


def open_engine(graph: Path, spec: EngineSpec) -> Engine:
    """Load a graph as `spec` says: ONNX, or what the backend has of its own.

    Raises EngineError, and DeviceError for a GPU.
    """
    try:
        module, name = _BACKENDS[spec.backend]
    except KeyError:
        known = ", ".join(sorted(_BACKENDS))
        raise EngineError(f"no backend {spec.backend!r}; there are: {known}") from None
    try:
        backend = importlib.import_module(module)
    except ImportError as error:
        fix = _INSTALL_HINTS.get(spec.backend, f"bash scripts/install_hpi_deps.sh {spec.kind}")
        raise EngineError(
            f"the backend {spec.backend} is not installed ({error}); run: {fix}"
        ) from error
    engine: Engine = getattr(backend, name)(graph, spec)
    return DynamicBatcher(engine) if spec.dynamic_batching else engine
