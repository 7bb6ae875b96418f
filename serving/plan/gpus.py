"""What a model may run on with an NVIDIA GPU, the simplest first. No GPU has run these yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from serving.config.pipeline import HpiConfig
from serving.devices import Gpu, gpu
from serving.engines import cuda, tensorrt
from serving.engines.base import EngineSpec
from serving.errors import ConfigError

BACKENDS = (None, "onnxruntime", "tensorrt")
"""Values of `hpi_config.backend` that a GPU can serve; others stay on the processor."""

MOST_LINES = 32
"""Lines in one call. TensorRT's profiles go as far."""
_BATCHES = (1, 8, MOST_LINES)
_LIBRARIES = ("nvidia-cudnn-cu13", "nvidia-cublas", "tensorrt-cu13-libs")


def candidates(
    hpi: HpiConfig, settings: Mapping[str, Any], *, cores: int, device: str, lines: bool
) -> list[EngineSpec]:
    """Specs on that GPU, as `settings` narrow them.

    Raises ConfigError where nothing fits, and DeviceError where there is no such GPU.
    """
    card = gpu(device)
    if not hpi.auto_config:
        if hpi.backend is None:
            raise ConfigError("hpi_config.auto_config: False needs hpi_config.backend")
        return [_fixed(hpi.backend, settings, card, cores, device)]
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
    return {**gpu(device).words(), "libraries": dict(_versions())}


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


def _fixed(
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
