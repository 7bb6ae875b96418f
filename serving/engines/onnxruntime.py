"""ONNX Runtime: on the CPU, and on a GPU with its CUDA or its TensorRT provider."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import onnxruntime as ort

from serving.engines import cuda, tensorrt
from serving.engines.base import Array, Engine, EngineSpec
from serving.errors import DeviceError, EngineError

_CPU = "CPUExecutionProvider"


class OnnxRuntimeEngine(Engine):
    """One session, called by as many threads as there are streams.

    On a GPU it fails rather than fall back to the CPU, as ONNX Runtime does by default.
    """

    def __init__(self, graph: Path, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._session = _open(graph, spec, *_provider(spec))
        self._profile = None
        if spec.backend == "tensorrt":
            self._profile, self.nodes = tensorrt.read_about(graph)
            self.max_input_size = self._profile.max[1:3]
        elif spec.device != "cpu":
            self.nodes = _nodes(self._session)
        self.inputs = tuple(port.name for port in self._session.get_inputs())
        self._streams = threading.BoundedSemaphore(spec.streams)

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        if self._profile is not None:
            self._profile.check(images.shape)
        with self._streams:
            try:
                feeds = dict(zip(self.inputs, (images, *more), strict=True))
                return tuple(self._session.run(None, feeds))
            except Exception as error:
                raise EngineError(
                    f"ONNX Runtime failed on an input of shape {images.shape}: {error}"
                ) from error


def build_context(
    graph: Path, spec: EngineSpec, profile: tensorrt.Profile, folder: Path, timing: Path
) -> dict[str, int]:
    """Build a TensorRT engine of the whole graph: CONTEXT in `folder`. Takes minutes.

    Returns the node counts by provider.
    Raises EngineError if TensorRT does not take the whole graph, DeviceError if it does not load.
    """
    options = tensorrt.build_options(spec, profile, folder, timing)
    nodes = _nodes(_open(graph, spec, tensorrt.PROVIDER, options))
    tensorrt.check_whole(folder / tensorrt.CONTEXT, nodes)
    return nodes


def _provider(spec: EngineSpec) -> tuple[str, dict[str, str]]:
    if spec.device == "cpu":
        if spec.precision != "float32":
            raise EngineError(f"ONNX Runtime on the CPU runs float32 only, not {spec.precision}")
        return _CPU, {}
    cuda.check_gpu(spec.device)
    if spec.backend == "tensorrt":
        return tensorrt.PROVIDER, tensorrt.run_options(spec)
    return cuda.PROVIDER, cuda.cuda_options(spec)


def _open(
    graph: Path, spec: EngineSpec, provider: str, provider_options: dict[str, str]
) -> ort.InferenceSession:
    """A session on that provider only. Raises EngineError and DeviceError."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = max(1, spec.threads // spec.streams)
    options.inter_op_num_threads = 1
    # Spinning threads slow each other down tenfold when anything else needs the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == _CPU:
        for key, value in spec.options.items():
            options.add_session_config_entry(key, str(value))
    if provider == tensorrt.PROVIDER:
        missing = [f"{name} ({why})" for name, why in cuda.load(cuda.TENSORRT_LIBRARIES) if why]
        if missing:
            raise DeviceError(f"TensorRT does not load: {'; '.join(missing)}; see: ocr-hpi doctor")
    if provider != _CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(
            str(graph), options, providers=[(provider, provider_options)], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exception types have no common base
        kind = EngineError if provider == _CPU else DeviceError
        raise kind(f"ONNX Runtime cannot load {graph} as {spec}: {error}") from error
    if provider not in session.get_providers():
        raise DeviceError(
            f"ONNX Runtime could not start its {provider} on {spec.device}; the reason "
            "is in the log above; see: ocr-hpi doctor"
        )
    return session


def _nodes(session: ort.InferenceSession) -> dict[str, int]:
    """Node counts of the session's graph by provider: cuda, tensorrt, cpu."""
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name.removesuffix("ExecutionProvider").lower()] += len(part.get_nodes())
    return dict(counts)
