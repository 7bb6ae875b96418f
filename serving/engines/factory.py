"""From a spec to an engine; a backend is imported only when it is used."""

from __future__ import annotations

import importlib
from pathlib import Path

from serving.engines.base import Engine, EngineSpec
from serving.engines.batched import BatchedEngine
from serving.errors import EngineError

_BACKENDS = {
    "openvino": ("serving.engines.openvino", "OpenVinoEngine"),
    "onnxruntime": ("serving.engines.onnxruntime", "OnnxRuntimeEngine"),
    "tensorrt": ("serving.engines.onnxruntime", "OnnxRuntimeEngine"),
}


def open_engine(graph: Path, spec: EngineSpec) -> Engine:
    """Load an ONNX graph as `spec` says. Raises EngineError, and DeviceError for a GPU."""
    try:
        module, name = _BACKENDS[spec.backend]
    except KeyError:
        known = ", ".join(sorted(_BACKENDS))
        raise EngineError(f"no backend {spec.backend!r}; there are: {known}") from None
    try:
        backend = importlib.import_module(module)
    except ImportError as error:
        raise EngineError(
            f"the backend {spec.backend} is not installed ({error}); "
            f"run: bash scripts/install_hpi_deps.sh {spec.kind}"
        ) from error
    engine: Engine = getattr(backend, name)(graph, spec)
    return BatchedEngine(engine) if spec.batch > 1 else engine
