"""All that this machine can run a model on, the simplest first."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from serving.config.pipeline import HpiConfig
from serving.devices import Gpu, gpu
from serving.engines import cuda, tensorrt
from serving.engines.base import EngineSpec
from serving.errors import ConfigError
from serving.machine import cpu_flags

MAX_BATCH = 32
"""Lines of one call on a GPU; TensorRT's profiles are built for it."""
_GPU_BATCHES = (1, 8, MAX_BATCH)
_CPU_BATCHES = (1, 2, 4)
_GPU_BACKENDS = ("onnxruntime", "tensorrt")
_CPU_BACKENDS = ("openvino", "onnxruntime", "paddle")
_GPU_LIBRARIES = ("nvidia-cudnn-cu13", "nvidia-cublas", "tensorrt-cu13-libs")

_KEYS = {"precision", "streams", "batch", "cpu_num_threads"}
"""Of `backend_config`, for every backend; `cpu_num_threads` is PaddleX's."""

# What the processor must have for a precision to be arithmetic rather than emulation.
_FLAGS = {
    "bfloat16": {"avx512_bf16", "amx_bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},  # the last is ARM's
    "int8": {"avx512_vnni", "avx_vnni"},  # older instructions saturate the sums
}

DISTRIBUTIONS = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("onnxruntime-gpu",),
    "paddle": ("paddlepaddle",),
}
"""Backend -> its possible distributions; the installed one's version is part of an engine's key."""


def candidates(
    hpi: HpiConfig,
    *,
    cores: int,
    device: str = "cpu",
    lines: bool = False,
    paddle_graph: bool = False,
    quantised: bool = False,
) -> list[EngineSpec]:
    """Specs to try for one model, as `hpi_config` narrows them.

    With `auto_config: False` the one spec that `backend` and `backend_config` describe. On a GPU a
    model whose `backend` is a processor's stays on the processor.
    device: cpu or gpu:N. lines: the model reads lines, of which one call may take several.
    paddle_graph: whether the model has one, which Paddle Inference needs. quantised: whether it can
    be had in int8, which is tried where the processor has no other reduced precision or on request.
    Raises ConfigError where `hpi_config` asks for what this machine lacks, and DeviceError.
    """
    given: Mapping[str, Any] = hpi.backend_config or {}
    settings = {key: given[key] for key in given.keys() & _KEYS}
    cores = int(settings.pop("cpu_num_threads", cores))
    card = gpu(device) if device != "cpu" and hpi.backend in (None, *_GPU_BACKENDS) else None
    if card is None and settings.get("batch", 1) not in _CPU_BATCHES:
        raise ConfigError("hpi_config.backend_config.batch: must be 1, 2 or 4 on a CPU")
    if not lines:  # pages come one at a time
        settings.pop("batch", None)
    if hpi.backend == "tensorrt" and card is None:
        raise ConfigError(
            "hpi_config.backend: tensorrt needs an NVIDIA GPU, and this is for the CPU"
        )
    if settings.get("precision") == "int8" and not (
        quantised and hpi.backend in (None, "openvino") and card is None
    ):
        raise ConfigError(
            "hpi_config.backend_config.precision: int8 is for TextDetection and TextRecognition, "
            "on openvino on the CPU, and not with gate: exact"
        )
    if not hpi.auto_config:
        if hpi.backend is None:
            raise ConfigError("hpi_config.auto_config: False needs hpi_config.backend")
        return [_fixed(hpi.backend, settings, cores, card, device)]
    if card is not None:
        where = f"{device} ({card.name}: {', '.join(card.precisions)})"
        available = _on_gpu(card, cores, device, _GPU_BATCHES if lines else (1,))
    else:
        where = "this machine"
        precisions = _reduced_precisions(settings.get("precision"), quantised)
        available = _on_cpu(cores, settings.pop("batch", 1), precisions, paddle_graph)
    specs = [
        spec
        for spec in available
        if hpi.backend in (None, spec.backend)
        and all(getattr(spec, key) == value for key, value in settings.items())
    ]
    if not specs:
        requested = hpi.model_dump(exclude_none=True)
        why = "" if paddle_graph or hpi.backend != "paddle" else " (the model has no Paddle graph)"
        raise ConfigError(
            f"hpi_config: nothing on {where} fits {requested}{why}; see: ocr-hpi doctor"
        )
    return specs


def requested_batch(hpi: HpiConfig) -> int | None:
    """Lines of one call, as the YAML sets it; None: as many as prove faster."""
    batch: int | None = (hpi.backend_config or {}).get("batch", None if hpi.auto_config else 1)
    return batch


def version(backend: str) -> str:
    """Version of a backend's distribution. Raises ConfigError where it is not installed."""
    for name in DISTRIBUTIONS.get(backend, ()):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise ConfigError(f"hpi_config: the backend {backend} is not installed; see: ocr-hpi doctor")


def gpu_identity(device: str) -> dict[str, Any]:
    """What engines on that GPU depend on: the card, its driver, NVIDIA's libraries."""
    libraries = {}
    for name in _GPU_LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # then the system's
            libraries[name] = metadata.version(name)
    return {**gpu(device).to_dict(), "libraries": libraries}


def _fixed(
    backend: str, settings: Mapping[str, Any], cores: int, card: Gpu | None, device: str
) -> EngineSpec:
    default = "float32"
    if card is not None and backend == "tensorrt":
        default = _tensorrt_float32(card)
    precision = str(settings.get("precision", default))
    if card is not None and (
        precision not in card.precisions or (precision == "float32" and default == "tf32")
    ):
        raise ConfigError(
            f"hpi_config.backend_config.precision: {backend} on {card.name} has no {precision}"
        )
    return EngineSpec(
        backend=backend,
        precision=precision,
        streams=int(settings.get("streams", 1)),
        threads=cores,
        device="cpu" if card is None else device,
        batch=int(settings.get("batch", 1)),
    )


def _reduced_precisions(requested: str | None, quantised: bool) -> list[str]:
    """Those that this processor computes in.

    int8 only where it has no other: beside bfloat16 it gains little (0.84 of the time at best).
    """
    flags = cpu_flags()
    found = [precision for precision in _FLAGS if _FLAGS[precision] & flags]
    if "int8" in found and not (quantised and (found == ["int8"] or requested == "int8")):
        found.remove("int8")
    return found


def _on_cpu(
    cores: int, batch: int, precisions: Sequence[str], paddle_graph: bool
) -> Iterator[EngineSpec]:
    """The backends that are installed. precisions: of OpenVINO, besides float32."""
    backends = [
        name
        for name in _CPU_BACKENDS
        if importlib.util.find_spec(name) is not None and (name != "paddle" or paddle_graph)
    ]
    kinds = [(backend, "float32") for backend in backends]
    if "openvino" in backends:
        kinds += [("openvino", precision) for precision in precisions]
    # Streams share the cores: all for one, a few each, one each.
    streams = sorted({1, max(1, cores // 4), max(1, cores // 2), cores})
    for backend, precision in kinds:
        for count in streams:
            yield EngineSpec(backend, precision, count, cores, batch=batch)


def _on_gpu(card: Gpu, cores: int, device: str, batches: Sequence[int]) -> Iterator[EngineSpec]:
    for precision in ("float32", "tf32"):
        if precision not in card.precisions:
            continue
        for batch in batches:
            for algorithm in cuda.ALGORITHMS:
                # Calls side by side hide the copies; whether they pay off does not depend on the
                # search.
                for streams in (1, 2) if algorithm == cuda.ALGORITHMS[0] else (1,):
                    search = {"cudnn_conv_algo_search": algorithm}
                    yield EngineSpec(
                        "onnxruntime", precision, streams, cores, search, device, batch
                    )
    if not _has_tensorrt():
        return
    # One stream: the provider runs one call at a time.
    for precision in (_tensorrt_float32(card), "float16", "bfloat16"):
        if precision in card.precisions:
            for batch in batches:
                yield EngineSpec("tensorrt", precision, 1, cores, device=device, batch=batch)


def _tensorrt_float32(card: Gpu) -> str:
    """The precision of float32 layers in TensorRT: it takes TF32 where the card has it."""
    return "tf32" if "tf32" in card.precisions else "float32"


def _has_tensorrt() -> bool:
    """Whether ONNX Runtime's TensorRT provider and the libraries that it needs load."""
    if tensorrt.PROVIDER not in cuda.providers():
        return False
    return not any(reason for _, reason in cuda.load(cuda.TENSORRT_LIBRARIES))
