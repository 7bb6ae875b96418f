"""Open an engine for a spec. A backend is imported only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving.config.model import DetectionModel, Model, RecognitionModel, UnwarpingModel
from serving.engines.base import Array, Engine, EngineSpec, ObservedEngine, WrappedEngine
from serving.engines.batching import DynamicBatcher
from serving.errors import INSTALL, EngineError

_BACKENDS = {
    "openvino": ("serving.engines.openvino", "OpenVinoEngine"),
    "onnxruntime": ("serving.engines.onnxruntime", "OnnxRuntimeEngine"),
    "tensorrt": ("serving.engines.onnxruntime", "OnnxRuntimeEngine"),
    "paddle": ("serving.engines.paddle", "PaddleEngine"),
}
_INSTALL_HINTS = {"paddle": "python -m pip install paddlepaddle==3.2.2"}
"""Install commands of backends that install_hpi_deps.sh does not cover."""


def open_fused(
    graph: Path, spec: EngineSpec, model: Model, on_batch: Callable[[int], None] | None = None
) -> Engine:
    """An engine with the inputs and outputs of the fused graph (see optimize/fuse.py).

    graph: the fused graph, or for the paddle backend, which reads no ONNX, the model's own.
    Raises EngineError.
    """
    engine = open_engine(graph, spec, on_batch)
    return FusedAdapter(engine, model) if spec.backend == "paddle" else engine


def open_engine(
    graph: Path, spec: EngineSpec, on_batch: Callable[[int], None] | None = None
) -> Engine:
    """Load an ONNX graph, or one in the backend's own format, as `spec` says.

    on_batch: observer of the engine's calls, see DynamicBatcher and ObservedEngine.
    Raises EngineError, and DeviceError for a GPU.
    """
    try:
        module, name = _BACKENDS[spec.backend]
    except KeyError:
        known = ", ".join(sorted(_BACKENDS))
        raise EngineError(f"unknown backend {spec.backend!r}; available: {known}") from None
    try:
        backend = importlib.import_module(module)
    except ImportError as error:
        fix = _INSTALL_HINTS.get(spec.backend, INSTALL[spec.kind])
        raise EngineError(
            f"the backend {spec.backend} is not installed ({error}); run: {fix}"
        ) from error
    engine: Engine = getattr(backend, name)(graph, spec)
    if spec.dynamic_batching:
        return DynamicBatcher(engine, on_batch)
    return engine if on_batch is None else ObservedEngine(engine, on_batch)


class FusedAdapter(WrappedEngine):
    """Gives an engine on a plain graph the inputs and outputs of the fused graph, in NumPy.

    For backends that read no ONNX, and the reference against which a fused graph is checked.
    """

    def __init__(self, engine: Engine, model: Model) -> None:
        super().__init__(engine)
        self.inputs = ("image",)
        self._model = model
        norm = model.normalisation
        std = np.array(norm.std)
        self._scale = (norm.scale / std).astype(np.float32)
        self._shift = (-np.array(norm.mean) / std).astype(np.float32)

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        pixels = images[..., ::-1] if self._model.normalisation.order == "RGB" else images
        planes = (pixels * self._scale + self._shift).transpose(0, 3, 1, 2)
        (probabilities,) = self._engine.run(np.ascontiguousarray(planes, np.float32))
        if isinstance(self._model, DetectionModel):
            # In 255ths; NaN becomes 0.
            return (np.asarray(np.rint(np.nan_to_num(probabilities) * 255), np.uint8),)
        if isinstance(self._model, UnwarpingModel):
            page = np.clip(probabilities * 255, 0, 255).transpose(0, 2, 3, 1)
            return (np.ascontiguousarray(page, np.uint8),)
        if probabilities.min() < 0:  # an export without its Softmax
            exponentials = np.exp(probabilities - probabilities.max(axis=-1, keepdims=True))
            probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
        if isinstance(self._model, RecognitionModel):
            return _best_classes(probabilities, len(self._model.characters))
        return (probabilities,)

    def warm(self, height: int, width: int) -> None:
        Engine.warm(self, height, width)  # through `run`: the plain engine takes planes


def _best_classes(probabilities: Array, characters: int) -> tuple[Array, Array, Array]:
    """(N, T, C) to index int64, score, and probability of the space, each (N, T).

    The space is the last of so many characters; a model of one class less has none. NaN gives an
    index that is one past the last character.
    """
    score = probabilities.max(axis=2)
    index = np.where(np.isnan(score), characters, probabilities.argmax(axis=2))
    has_space = probabilities.shape[2] == characters
    space = probabilities[..., -1].copy() if has_space else np.zeros_like(score)
    return index.astype(np.int64), score, space
