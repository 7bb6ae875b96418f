"""ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path

import onnxruntime as ort

from serving.engines.base import Array, Engine, EngineSpec
from serving.errors import EngineError


class OnnxRuntimeEngine(Engine):
    """One session; its thread pool has the threads of one stream, and streams are callers."""

    def __init__(self, graph: Path, spec: EngineSpec) -> None:
        super().__init__(spec)
        if spec.precision != "float32":
            raise EngineError(f"ONNX Runtime on the CPU runs float32 only, not {spec.precision}")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = max(1, spec.threads // spec.streams)
        options.inter_op_num_threads = 1
        # Spinning threads slow one another tenfold as soon as something else wants the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in spec.options.items():
            options.add_session_config_entry(key, str(value))
        try:
            self._session = ort.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises types of its own that share no base
            raise EngineError(f"ONNX Runtime cannot load {graph} as {spec}: {error}") from error
        self.inputs = tuple(port.name for port in self._session.get_inputs())
        self._places = threading.BoundedSemaphore(spec.streams)

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        with self._places:
            try:
                feeds = dict(zip(self.inputs, (images, *more), strict=True))
                return tuple(self._session.run(None, feeds))
            except Exception as error:
                raise EngineError(
                    f"ONNX Runtime failed on an input of shape {images.shape}: {error}"
                ) from error
