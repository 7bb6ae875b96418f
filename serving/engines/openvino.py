"""OpenVINO on the CPU."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import openvino as ov

from serving.engines.base import Array, Engine, EngineSpec
from serving.errors import EngineError

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""Compute precision; of int8, that of the layers which its graph (optimize/quantise.py) leaves."""

_PAGE_CAPACITY = 500
"""Size of a stream's LRU cache of prepared layers, one entry for each layer and input shape, where
both sides of an image vary, as a detector's do: some 15 sizes. Pages of 216 sizes then hold 320 MB
on two streams, and 540 MB with four times as many entries; a page of a size that left the cache
costs 3 % of a detection more."""
_LINE_CAPACITY = 1300
"""The same where only the width varies: all 20 widths of a recogniser; a page has many of them."""
_BATCH_CAPACITY = 1800
"""The same where short lines are batched: 27 shapes."""

# OpenVINO initialises a table with the first tensor of a process; two threads doing so at once
# deadlock (seen with 2026.4). Importing happens on one thread.
ov.Tensor(np.zeros(1, np.uint8))


class OpenVinoEngine(Engine):
    """A compiled model with one reused infer request per stream: creating one costs half a call."""

    def __init__(self, graph: Path, spec: EngineSpec) -> None:
        super().__init__(spec)
        if spec.precision not in _PRECISIONS:
            known = ", ".join(_PRECISIONS)
            raise EngineError(f"OpenVINO has no precision {spec.precision!r}; available: {known}")
        try:
            core = ov.Core()
            model = core.read_model(str(graph))
            self._model = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _PRECISIONS[spec.precision],
                    "NUM_STREAMS": str(spec.streams),
                    "INFERENCE_NUM_THREADS": spec.threads,
                    # Pinning conflicts with other processes and with a container's CPU quota.
                    "ENABLE_CPU_PINNING": False,
                    "CPU_RUNTIME_CACHE_CAPACITY": str(_capacity(model, spec)),
                    **spec.options,
                },
            )
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {graph} as {spec}: {error}") from error
        self.inputs = tuple(port.any_name for port in self._model.inputs)
        self._types = [port.get_element_type().to_dtype() for port in self._model.inputs]
        self._outputs = range(len(self._model.outputs))
        self._requests: queue.LifoQueue[ov.InferRequest | None] = queue.LifoQueue()
        """Free ones; None when closed."""
        for _ in range(spec.streams):
            self._requests.put(self._model.create_infer_request())

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        request = self._requests.get()
        try:
            if request is None:
                raise EngineError("the engine is closed")
            # infer() on arrays takes 0.1 ms longer, 4 % of a short line, and copies the outputs
            # once more.
            tensors = [
                ov.Tensor(np.require(array, dtype, ["C", "W"]), shared_memory=True)
                for array, dtype in zip((images, *more), self._types, strict=True)
            ]
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            request.infer(share_outputs=True)
            return tuple(request.get_output_tensor(i).data.copy() for i in self._outputs)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"OpenVINO failed on an input of shape {images.shape}: {error}"
            ) from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        while not self._requests.empty():
            self._requests.get()
        self._requests.put(None)  # a call that comes too late must not wait for ever
        del self._model


def _capacity(model: ov.Model, spec: EngineSpec) -> int:
    """Of the cache of prepared layers."""
    if spec.batch > 1:
        return _BATCH_CAPACITY
    varying = [side.is_dynamic for side in model.inputs[0].partial_shape]
    return _PAGE_CAPACITY if sum(varying[1:]) > 1 else _LINE_CAPACITY
