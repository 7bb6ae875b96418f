"""What this machine can run engines on: what is there, what loads, what is missing and the mend."""

from __future__ import annotations

import ctypes
import importlib
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from serving.config.pipeline import HpiConfig
from serving.machine import cpu_flags, cpu_name, usable_cores
from serving.plan.candidates import candidates

State = Literal["ok", "absent", "error"]

_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_CPU_MEND = "bash scripts/install_hpi_deps.sh cpu"
_GPU_MEND = "bash scripts/install_hpi_deps.sh gpu"
_PADDLE_GPU = (
    "pip install paddlepaddle-gpu==3.2.2 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/"
)
"""The line to type: no package index has paddlepaddle-gpu 3."""
# Libraries that onnxruntime-gpu 1.31 loads: CUDA 13, cuDNN 9, TensorRT 10.
_GPU_LIBRARIES = {
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libcublas.so.13": "nvidia-cublas",
    "libcudnn.so.9": "nvidia-cudnn-cu13",
    "libnvinfer.so.10": "tensorrt-cu13<11",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `absent` is no fault; `error` is, and `mend` is the way out."""

    topic: str
    state: State
    text: str
    mend: str = ""


def examine() -> Iterator[Finding]:
    """Look at Python, processor, backends, OpenCV and GPU, in this order."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}")
    flags = cpu_flags()
    fast = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    yield Finding(
        "processor", "ok", f"{cpu_name()}, {usable_cores()} usable cores, {' '.join(fast) or 'SSE'}"
    )
    yield _backend("openvino", "openvino", _CPU_MEND)
    yield _onnxruntime()
    yield _backend("paddle", "paddlepaddle", "pip install paddlepaddle==3.2.2", optional=True)
    yield _opencv()
    yield from _gpu()
    yield _choice()


def _backend(module: str, distribution: str, mend: str, *, optional: bool = False) -> Finding:
    try:
        importlib.import_module(module)
        return Finding(module, "ok", metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(module, "ok", "version unknown")
    except ImportError as error:
        if getattr(error, "name", None) == module:
            return Finding(module, "absent" if optional else "error", "not installed", mend)
        return Finding(module, "error", f"does not load: {error}", mend)


def _onnxruntime() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) == 2:
        return Finding(
            "onnxruntime",
            "error",
            "onnxruntime and onnxruntime-gpu are both installed; they are one package twice",
            _CPU_MEND,
        )
    found = _backend("onnxruntime", both[0] if both else "onnxruntime", _CPU_MEND)
    if found.state != "ok":
        return found
    providers = importlib.import_module("onnxruntime").get_available_providers()
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return Finding(found.topic, "ok", f"{found.text}; providers: {names}")


def _opencv() -> Finding:
    found = [name for name in _OPENCV if _installed(name)]
    if len(found) > 1:
        return Finding(
            "OpenCV",
            "error",
            f"{' and '.join(found)} are both installed; they overwrite one another's files",
            f"pip uninstall -y {' '.join(found)} && {_CPU_MEND}",
        )
    return _backend("cv2", found[0] if found else _OPENCV[1], _CPU_MEND)


def _gpu() -> Iterator[Finding]:
    driver = shutil.which("nvidia-smi")
    if driver is None:
        yield Finding("GPU", "absent", "no NVIDIA driver (nvidia-smi) on this machine")
        return
    query = ["--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader"]
    told = subprocess.run([driver, *query], capture_output=True, text=True, timeout=20, check=False)
    if told.returncode:
        reason = (told.stdout + told.stderr).strip().splitlines()[0]
        yield Finding("GPU", "error", f"nvidia-smi fails: {reason}", "install the NVIDIA driver")
        return
    for line in told.stdout.strip().splitlines():
        name, capability, version, memory = (part.strip() for part in line.split(","))
        yield Finding("GPU", "ok", f"{name}, {memory}, driver {version}; {_precisions(capability)}")
    for library, package in _GPU_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
            yield Finding(library, "ok", "loads")
        except OSError as error:
            yield Finding(library, "error", str(error), f"pip install '{package}' or {_GPU_MEND}")
    yield Finding("paddlepaddle-gpu", "absent", "on no package index; by hand", _PADDLE_GPU)


def _precisions(capability: str) -> str:
    """What arithmetic a compute capability has beyond float32."""
    value = float(capability)
    known = ["float16"] if value >= 5.3 else []
    known += ["bfloat16"] if value >= 8.0 else []
    return f"compute capability {capability} ({', '.join(known) or 'float32 only'})"


def _choice() -> Finding:
    try:
        specs = candidates(HpiConfig(), cores=usable_cores())
    except Exception as error:  # the report must end whatever is broken
        return Finding("engines", "error", str(error), _CPU_MEND)
    names = sorted({f"{spec.backend} {spec.precision}" for spec in specs})
    return Finding("engines", "ok", f"will be measured: {', '.join(names)}")


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
