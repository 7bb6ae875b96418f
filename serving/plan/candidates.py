"""All that this machine can run a model on, the simplest first.

What a model may run on with an NVIDIA GPU, the simplest first. No GPU has run these yet.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from serving.config.pipeline import HpiConfig
from serving.devices import Gpu, gpu
from serving.engines import cuda, tensorrt
from serving.engines.base import EngineSpec
from serving.errors import ConfigError
from serving.machine import cpu_flags

BACKENDS = (None, "onnxruntime", "tensorrt")
"""Values of `hpi_config.backend` that a GPU can serve; others stay on the processor."""

MOST_LINES = 32
"""Lines in one call. TensorRT's profiles go as far."""
_BATCHES = (1, 8, MOST_LINES)
_LIBRARIES = ("nvidia-cudnn-cu13", "nvidia-cublas", "tensorrt-cu13-libs")


def gpu_candidates(
    hpi: HpiConfig, settings: Mapping[str, Any], *, cores: int, device: str, lines: bool
) -> list[EngineSpec]:
    """Specs on that GPU, as `settings` narrow them.

    Raises ConfigError where nothing fits, and DeviceError where there is no such GPU.
    """
    card = gpu(device)
    if not hpi.auto_config:
        if hpi.backend is None:
            raise ConfigError("hpi_config.auto_config: False needs hpi_config.backend")
        return [_fixed_gpu(hpi.backend, settings, card, cores, device)]
    found = [
        spec
        for spec in (*_cuda(card, cores, device, lines), *_tensorrt(card, cores, device, lines))
        if hpi.backend in (None, spec.backend)
        and all(getattr(spec, key) == value for key, value in settings.items())
    ]
    if not found:
        wanted = hpi.model_dump(exclude_none=True)
        raise ConfigError(
            f"hpi_config: nothing on {device} ({card.name}: {', '.join(card.precisions)}) fits "
            f"{wanted}; see: ocr-hpi doctor"
        )
    return found


def has_tensorrt() -> bool:
    """Whether ONNX Runtime's TensorRT provider and the libraries that it needs load."""
    if tensorrt.PROVIDER not in cuda.providers():
        return False
    return not any(reason for _, reason in cuda.load(cuda.TENSORRT_LIBRARIES))


def gpu_words(device: str) -> dict[str, Any]:
    """What engines on that GPU depend on: the card, its driver, NVIDIA's libraries."""
    return {**gpu(device).to_dict(), "libraries": dict(_versions())}


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # the system's own


def _cuda(card: Gpu, cores: int, device: str, lines: bool) -> Iterator[EngineSpec]:
    for precision in ("float32", "tf32"):
        if precision not in card.precisions:
            continue
        for batch in _BATCHES if lines else (1,):
            for algorithm in cuda.ALGORITHMS:
                # Calls side by side hide the copies; whether they pay does not turn on the search.
                for streams in (1, 2) if algorithm == cuda.ALGORITHMS[0] else (1,):
                    search = {"cudnn_conv_algo_search": algorithm}
                    yield EngineSpec(
                        "onnxruntime", precision, streams, cores, search, device, batch
                    )


def _tensorrt(card: Gpu, cores: int, device: str, lines: bool) -> Iterator[EngineSpec]:
    """One stream: the provider runs one call at a time."""
    if not has_tensorrt():
        return
    for precision in (_plain(card), "float16", "bfloat16"):
        if precision in card.precisions:
            for batch in _BATCHES if lines else (1,):
                yield EngineSpec("tensorrt", precision, 1, cores, device=device, batch=batch)


def _plain(card: Gpu) -> str:
    """What TensorRT makes of float32 layers: it takes TF32 where the card has it."""
    return "tf32" if "tf32" in card.precisions else "float32"


def _fixed_gpu(
    backend: str, settings: Mapping[str, Any], card: Gpu, cores: int, device: str
) -> EngineSpec:
    plain = _plain(card) if backend == "tensorrt" else "float32"
    precision = str(settings.get("precision", plain))
    if precision not in card.precisions or (precision == "float32" and plain == "tf32"):
        raise ConfigError(
            f"hpi_config.backend_config.precision: {backend} on {card.name} has no {precision}"
        )
    streams, batch = int(settings.get("streams", 1)), int(settings.get("batch", 1))
    return EngineSpec(backend, precision, streams, cores, device=device, batch=batch)


_OWN_KEYS = {"precision", "streams", "batch", "cpu_num_threads"}
"""Keys of `backend_config` that every backend here has; `cpu_num_threads` is PaddleX's."""

# What the processor must have for a precision to be arithmetic rather than emulation.
_FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}

_CPU_BACKENDS = ("openvino", "onnxruntime", "paddle")

DISTRIBUTIONS = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("onnxruntime-gpu",),
    "paddle": ("paddlepaddle",),
}
"""Backend -> the distributions, of which one is there, whose version is part of an engine's key."""


def candidates(
    hpi: HpiConfig,
    *,
    cores: int,
    device: str = "cpu",
    lines: bool = False,
    paddle_graph: bool = False,
) -> list[EngineSpec]:
    """Specs to try for one model, as `hpi_config` narrows them.

    lines: the model reads lines, which a GPU takes many at a time.
    paddle_graph: whether the model has one, which Paddle Inference needs.
    With `auto_config: False` the one spec that `backend` and `backend_config` say.
    Raises ConfigError where `hpi_config` asks for what this machine does not have, and DeviceError.
    """
    settings = _settings(hpi)
    cores = int(settings.pop("cpu_num_threads", cores))
    _check_batch(settings.get("batch", 1), device)
    if not lines:  # pages come one at a time
        settings.pop("batch", None)
    if device != "cpu" and hpi.backend in BACKENDS:
        return gpu_candidates(hpi, settings, cores=cores, device=device, lines=lines)
    if hpi.backend == "tensorrt":
        raise ConfigError(
            "hpi_config.backend: tensorrt needs an NVIDIA GPU, and this is for the CPU"
        )
    if not hpi.auto_config:
        if hpi.backend is None:
            raise ConfigError("hpi_config.auto_config: False needs hpi_config.backend")
        return [_fixed(hpi.backend, settings, cores)]
    batch = settings.pop("batch", 1)
    found = [
        replace(spec, batch=batch)
        for spec in _all(cores, paddle_graph)
        if hpi.backend in (None, spec.backend)
        and all(getattr(spec, key) == value for key, value in settings.items())
    ]
    if settings.get("precision") == "int8" and hpi.backend in (None, "openvino"):
        found = [EngineSpec("openvino", "int8", s, cores, batch=batch) for s in _streams(cores)]
    if not found:
        wanted = hpi.model_dump(exclude_none=True)
        why = "" if paddle_graph or hpi.backend != "paddle" else " (the model has no Paddle graph)"
        raise ConfigError(
            f"hpi_config: nothing on this machine fits {wanted}{why}; see: ocr-hpi doctor"
        )
    return found


def lines_asked(hpi: HpiConfig) -> int | None:
    """Lines of one call that the YAML asks for; None: as many as are found to pay."""
    asked: int | None = (hpi.backend_config or {}).get("batch", None if hpi.auto_config else 1)
    return asked


def _check_batch(batch: object, device: str) -> None:
    """Raise ConfigError for a number of lines that no call has."""
    allowed = (1, 2, 4) if device == "cpu" else range(1, MOST_LINES + 1)
    if not isinstance(batch, int) or batch not in allowed:
        told = "1, 2 or 4 on a processor" if device == "cpu" else f"1 to {MOST_LINES}"
        raise ConfigError(f"hpi_config.backend_config.batch: must be {told}")


def _settings(hpi: HpiConfig) -> dict[str, Any]:
    settings = dict(hpi.backend_config or {})
    unknown = settings.keys() - _OWN_KEYS
    if unknown:
        raise ConfigError(
            f"hpi_config.backend_config: unknown key {', '.join(sorted(unknown))}; "
            f"allowed: {', '.join(sorted(_OWN_KEYS))}"
        )
    return settings


def _fixed(backend: str, settings: Mapping[str, Any], cores: int) -> EngineSpec:
    return EngineSpec(
        backend=backend,
        precision=str(settings.get("precision", "float32")),
        streams=int(settings.get("streams", 1)),
        threads=cores,
        batch=int(settings.get("batch", 1)),
    )


def _all(cores: int, paddle_graph: bool) -> Iterator[EngineSpec]:
    flags = cpu_flags()
    backends = [name for name in _CPU_BACKENDS if importlib.util.find_spec(name) is not None]
    if "paddle" in backends and not paddle_graph:
        backends.remove("paddle")
    for backend in backends:
        for streams in _streams(cores):
            yield EngineSpec(backend, "float32", streams, cores)
    if "openvino" in backends:
        for precision, needed in _FLAGS.items():
            if needed & flags:
                for streams in _streams(cores):
                    yield EngineSpec("openvino", precision, streams, cores)


def _streams(cores: int) -> list[int]:
    """Streams to share the cores among: one, half as many as cores, one a core."""
    return sorted({1, max(1, cores // 4), max(1, cores // 2), cores})


def version(backend: str) -> str:
    """Version of a backend's distribution. Raises ConfigError where it is not installed."""
    for name in DISTRIBUTIONS.get(backend, ()):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise ConfigError(f"hpi_config: the backend {backend} is not installed; see: ocr-hpi doctor")
