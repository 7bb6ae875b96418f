"""ONNX Runtime's CUDA provider: its options, and whether this process can load it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

from serving.devices import gpu, number
from serving.engines.base import EngineSpec
from serving.errors import INSTALL, DeviceError, EngineError

PROVIDER = "CUDAExecutionProvider"
ALGORITHMS = ("HEURISTIC", "EXHAUSTIVE", "DEFAULT")
"""How cuDNN selects a convolution: by heuristics, by trying all for every shape, or a default."""

# Requirements of onnxruntime-gpu 1.31, and the wheels that provide them.
CUDA = (13, 0)
DRIVER = "libcuda.so.1"
DRIVER_FIX = (
    "install NVIDIA's complete driver, or give the container its compute part "
    "(NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
)
LIBRARIES = {
    DRIVER: "NVIDIA's driver",
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libcublasLt.so.13": "nvidia-cublas",
    "libcublas.so.13": "nvidia-cublas",
    "libcurand.so.10": "nvidia-curand",
    "libcufft.so.12": "nvidia-cufft",
    "libcudnn.so.9": "nvidia-cudnn-cu13",
}
TENSORRT_LIBRARIES = {
    "libnvinfer.so.10": "tensorrt-cu13-libs<11",
    "libnvonnxparser.so.10": "tensorrt-cu13-libs<11",
}


def cuda_options(spec: EngineSpec) -> dict[str, str]:
    """The provider's options. Raises EngineError for an unsupported precision."""
    if spec.precision not in ("float32", "tf32"):
        raise EngineError(
            f"ONNX Runtime's CUDA provider runs float32 or tf32, not {spec.precision}"
        )
    return {
        "device_id": str(number(spec.device)),
        # On by default: "float32" convolutions would multiply with 10 bits of mantissa.
        "use_tf32": str(int(spec.precision == "tf32")),
        "cudnn_conv_algo_search": ALGORITHMS[0],
        # By default it doubles the arena each time, and never shrinks it.
        "arena_extend_strategy": "kSameAsRequested",
        **{key: str(value) for key, value in spec.options.items()},
    }


def check_gpu(device: str) -> None:
    """Raise DeviceError, with the fix, if ONNX Runtime cannot run on that GPU."""
    card = gpu(device)
    if card.cuda < CUDA:
        raise DeviceError(
            f"{device}: driver {card.driver} runs CUDA {card.cuda[0]}.{card.cuda[1]}, and the "
            f"engines need {CUDA[0]}.{CUDA[1]}: install NVIDIA's driver 580 or newer"
        )
    if PROVIDER not in providers():
        raise DeviceError(f"the installed onnxruntime has no CUDA provider; run: {INSTALL['gpu']}")
    missing = {name: reason for name, reason in load(LIBRARIES) if reason}
    if DRIVER in missing:
        raise DeviceError(f"the driver's CUDA does not load ({missing[DRIVER]}): {DRIVER_FIX}")
    if missing:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise DeviceError(f"libraries for the GPU do not load: {reasons}; run: {INSTALL['gpu']}")


def providers() -> list[str]:
    """Providers that the installed ONNX Runtime was built with; they may still fail to load."""
    try:
        return list(importlib.import_module("onnxruntime").get_available_providers())
    except ImportError:
        return []


def load(libraries: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Load libraries from NVIDIA's wheels or the system; yields (name, error or "")."""
    ort = importlib.import_module("onnxruntime")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints failures
        ort.preload_dlls()
    for name in libraries:
        # preload_dlls covers the wheels of CUDA and cuDNN, but not of TensorRT.
        library = next((path for path in _tensorrt() if path.name == name), name)
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            yield name, ""
        except OSError as error:
            yield name, str(error)


def _tensorrt() -> list[Path]:
    """The libraries of TensorRT's wheel."""
    found = importlib.util.find_spec("tensorrt_libs")
    folders = (found.submodule_search_locations if found else None) or []
    return [path for folder in folders for path in Path(folder).glob("*.so.*")]
