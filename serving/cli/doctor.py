"""`ocr-hpi doctor`: what this machine can run, and how to fix what it cannot.

What this machine can run engines on: what is there, what loads, what is missing and the fix.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import click

from serving.config.pipeline import HpiConfig
from serving.devices import INSTALL, Gpu, gpus
from serving.engines import cuda, tensorrt
from serving.errors import DeviceError, EngineError
from serving.machine import cpu_flags, cpu_name, usable_cores
from serving.plan.candidates import DISTRIBUTIONS, candidates

State = Literal["ok", "absent", "error"]

_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_CPU_MEND = "bash scripts/install_hpi_deps.sh cpu"
_PADDLE_GPU = (
    "pip install paddlepaddle-gpu==3.2.2 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/"
)
"""The line to type: no package index has paddlepaddle-gpu 3."""
_TENSORRT_MEND = f"{INSTALL} --tensorrt"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `absent` is no fault; `error` is, and `fix` is the way out."""

    topic: str
    state: State
    text: str
    fix: str = ""


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
    yield from _choice()


def _backend(module: str, distribution: str, fix: str, *, optional: bool = False) -> Finding:
    try:
        importlib.import_module(module)
        return Finding(module, "ok", metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Finding(module, "ok", "version unknown")
    except ImportError as error:
        if getattr(error, "name", None) == module:
            return Finding(module, "absent" if optional else "error", "not installed", fix)
        return Finding(module, "error", f"does not load: {error}", fix)


def _onnxruntime() -> Finding:
    both = [name for name in DISTRIBUTIONS["onnxruntime"] if _installed(name)]
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
    try:
        cards = gpus()
    except DeviceError as error:
        yield Finding("GPU", "absent", str(error))
        return
    if not cards:
        yield Finding("GPU", "absent", "none that this process may see (CUDA_VISIBLE_DEVICES)")
        return
    for card in cards:
        yield Finding(f"gpu:{card.index}", "ok", _card(card))
    if cuda.PROVIDER not in cuda.providers():
        yield Finding("GPU", "absent", "ONNX Runtime is here without its CUDA provider", INSTALL)
        return
    if cards[0].cuda < cuda.CUDA:
        needs = "{}.{}".format(*cuda.CUDA)
        fix = "install NVIDIA's driver 580 or newer"
        yield Finding("driver", "error", f"too old for CUDA {needs}", fix)
    yield from _libraries(cuda.LIBRARIES, "error", INSTALL)
    if tensorrt.PROVIDER in cuda.providers():
        yield from _libraries(cuda.TENSORRT_LIBRARIES, "absent", _TENSORRT_MEND)
    yield Finding("paddlepaddle-gpu", "absent", "on no package index; by hand", _PADDLE_GPU)


def _libraries(libraries: dict[str, str], missing: State, fix: str) -> Iterator[Finding]:
    for name, reason in cuda.load(libraries):
        if reason:
            way = cuda.DRIVER_FIX if name == cuda.DRIVER else fix
            yield Finding(name, missing, f"of {libraries[name]}: {reason}", way)
        else:
            yield Finding(name, "ok", "loads")


def _card(card: Gpu) -> str:
    return (
        f"{card.name}, {card.memory / 2**30:.0f} GiB, driver {card.driver} (CUDA {card.cuda[0]}."
        f"{card.cuda[1]}), compute capability {card.capability[0]}.{card.capability[1]} "
        f"({', '.join(card.precisions)})"
    )


def _choice() -> Iterator[Finding]:
    """What `build` would measure, by device, and why not on a GPU."""
    try:
        yield _measured("engines on the processor", "cpu")
    except Exception as error:  # the report must end whatever is broken
        yield Finding("engines on the processor", "error", str(error), _CPU_MEND)
    try:
        cuda.check_gpu("gpu:0")
        yield _measured("engines on the GPU", "gpu:0")
        yield Finding("device", "ok", "build takes gpu:0 unless --device says otherwise")
    except DeviceError as error:
        yield Finding("device", "ok", f"build takes the processor: {error}")
    except Exception as error:
        yield Finding("engines on the GPU", "error", str(error), INSTALL)


def _measured(topic: str, device: str) -> Finding:
    specs = candidates(HpiConfig(), cores=usable_cores(), device=device)
    names = sorted({f"{spec.backend} {spec.precision}" for spec in specs})
    return Finding(topic, "ok", f"will be measured: {', '.join(names)}")


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


_MARKS = {"ok": "ok     ", "absent": "absent ", "error": "ERROR  "}


@click.command()
def command() -> None:
    """Look at Python, processor, backends, OpenCV, GPU and drivers; say how to fix what is wrong.

    Exit code 1 when something is broken; what is merely absent is no fault.
    """
    from serving.cli.doctor import examine

    broken = []
    for finding in examine():
        click.echo(f"{_MARKS[finding.state]} {finding.topic}: {finding.text}")
        if finding.fix:
            click.echo(f"        fix: {finding.fix}")
        if finding.state == "error":
            broken.append(finding.topic)
    if broken:
        raise EngineError(f"broken: {', '.join(broken)}; the lines above say how to fix them")
    click.echo("all is well; what will be used is measured by: bash scripts/build_engines.sh")
