"""The face of a fused graph around an engine that runs the plain one (see serving/graph)."""

from __future__ import annotations

import numpy as np

from serving.config.model import DetectionModel, Model, RecognitionModel
from serving.engines.base import Array, Engine


class Fused(Engine):
    """Takes 8-bit pixels and answers with what stages need, whatever stands behind it.

    For backends that read no ONNX, and so cannot load the fused graph: what that graph does at
    its two ends is done here in numpy.
    """

    def __init__(self, plain: Engine, model: Model) -> None:
        super().__init__(plain.spec)
        self.inputs = ("image",)
        self._plain, self._model = plain, model
        norm = model.normalisation
        std = np.array(norm.std)
        self._scale = (norm.scale / std).astype(np.float32)
        self._shift = (-np.array(norm.mean) / std).astype(np.float32)

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        pixels = images[..., ::-1] if self._model.normalisation.order == "RGB" else images
        planes = (pixels * self._scale + self._shift).transpose(0, 3, 1, 2)
        (found,) = self._plain.run(np.ascontiguousarray(planes, np.float32))
        if isinstance(self._model, DetectionModel):
            return (_in_bytes(found),)
        if isinstance(self._model, RecognitionModel):
            return _best(found)
        return (found,)

    def close(self) -> None:
        self._plain.close()


def _in_bytes(probabilities: Array) -> Array:
    """Probabilities in whole 255ths; 0 for what is no number."""
    return np.asarray(np.rint(np.nan_to_num(probabilities) * 255), np.uint8)


def _best(probabilities: Array) -> tuple[Array, Array, Array]:
    """(N, T, C) to index int64 (N, T) and score (N, T), and the last class's probability (N, T).

    No number: one past the last class.
    """
    score = probabilities.max(axis=2)
    index = np.where(np.isnan(score), probabilities.shape[2], probabilities.argmax(axis=2))
    return index.astype(np.int64), score, probabilities[..., -1].copy()
