"""OpenVINO on the CPU."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import openvino as ov

from serving.engines.base import Array, Engine, EngineSpec
from serving.errors import EngineError

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""What is computed in; an int8 graph says itself what of it is int8."""

_PREPARED_KEPT = 2000
"""Layers, each for one shape of its input, that a stream keeps prepared; beyond, the longest unused
goes. All 32 widths of a recogniser fit, and some 60 sizes of a detector: 130 of these hold 500 MB
so, and without a bound 1050 MB and more with each further size."""
_PREPARED_TOGETHER = 3000
"""The same where short lines are read together: 46 shapes."""

# OpenVINO fills a table at the first tensor of a process; two threads doing so at once wait for
# one another for ever (seen with 2026.4). Importing is done by one thread.
ov.Tensor(np.zeros(1, np.uint8))


class OpenVinoEngine(Engine):
    """A compiled model with one kept infer request a stream: making one costs half a call."""

    def __init__(self, graph: Path, spec: EngineSpec) -> None:
        super().__init__(spec)
        if spec.precision not in _PRECISIONS:
            known = ", ".join(_PRECISIONS)
            raise EngineError(f"OpenVINO has no precision {spec.precision!r}; there are: {known}")
        kept = _PREPARED_KEPT if spec.batch == 1 else _PREPARED_TOGETHER
        try:
            core = ov.Core()
            self._model = core.compile_model(
                str(graph),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _PRECISIONS[spec.precision],
                    "NUM_STREAMS": str(spec.streams),
                    "INFERENCE_NUM_THREADS": spec.threads,
                    # Pinning fights with other processes and with a container's quota.
                    "ENABLE_CPU_PINNING": False,
                    "CPU_RUNTIME_CACHE_CAPACITY": str(kept),
                    **spec.options,
                },
            )
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load {graph} as {spec}: {error}") from error
        self.inputs = tuple(port.any_name for port in self._model.inputs)
        self._types = [port.get_element_type().to_dtype() for port in self._model.inputs]
        self._outputs = range(len(self._model.outputs))
        self._requests: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        for _ in range(spec.streams):
            self._requests.put(self._model.create_infer_request())

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        request = self._requests.get()
        try:
            # What infer() would do with arrays takes it 0.1 ms longer, 4 % of a short line; and it
            # would copy the outputs, which are copied below, once.
            tensors = [
                ov.Tensor(np.require(array, dtype, ["C", "W"]), shared_memory=True)
                for array, dtype in zip((images, *more), self._types, strict=True)
            ]
            for place, tensor in enumerate(tensors):
                request.set_input_tensor(place, tensor)
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
        del self._model
