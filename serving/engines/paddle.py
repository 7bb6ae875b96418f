"""Paddle Inference on the CPU, with oneDNN. Loads Paddle's own graph, as exported."""

from __future__ import annotations

import queue
import warnings
from pathlib import Path

from serving.engines.base import Array, Engine, EngineSpec
from serving.errors import EngineError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about missing compilers
    import paddle
    from paddle import inference

_SHAPES_KEPT = 64
"""Input shapes for which oneDNN caches its primitives; a recogniser has 20, or 27 with batches."""

paddle.disable_signal_handler()  # the server handles signals


class PaddleEngine(Engine):
    """One predictor per stream; they share the weights."""

    def __init__(self, graph: Path, spec: EngineSpec) -> None:
        super().__init__(spec)
        if spec.precision != "float32":
            raise EngineError(f"Paddle Inference runs float32 only here, not {spec.precision}")
        if spec.options:
            raise EngineError("Paddle Inference takes no options here")
        try:
            config = inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
            config.disable_gpu()
            config.disable_glog_info()
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(_SHAPES_KEPT)
            config.set_cpu_math_library_num_threads(max(1, spec.threads // spec.streams))
            config.enable_memory_optim()
            first = inference.create_predictor(config)
            predictors = [first, *(first.clone() for _ in range(spec.streams - 1))]
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"Paddle cannot load {graph} as {spec}: {_brief(error)}") from error
        self.inputs = tuple(first.get_input_names())
        self._outputs = tuple(first.get_output_names())
        self._predictors: queue.LifoQueue[inference.Predictor] = queue.LifoQueue()
        for predictor in predictors:
            self._predictors.put(predictor)

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        predictor = self._predictors.get()
        try:
            for name, array in zip(self.inputs, (images, *more), strict=True):
                feed = predictor.get_input_handle(name)
                feed.reshape(array.shape)
                feed.copy_from_cpu(array)
            predictor.run()
            return tuple(predictor.get_output_handle(name).copy_to_cpu() for name in self._outputs)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"Paddle failed on an input of shape {images.shape}: {_brief(error)}"
            ) from error
        finally:
            self._predictors.put(predictor)

    def close(self) -> None:
        while not self._predictors.empty():
            self._predictors.get()


def _brief(error: Exception) -> str:
    """The last line of a Paddle error; the rest is its C++ call stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
