"""`ocr-hpi doctor`: what this machine can run, and how to fix what it cannot."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import click

from serving.cli.options import DEFAULT_PIPELINES, models_option
from serving.config.pipeline import HpiConfig, load_config, shipped
from serving.devices import Gpu, gpus, parse_devices
from serving.engines import cuda, tensorrt
from serving.errors import BUILD, CLONE, INSTALL, DeviceError, EngineError, OcrError
from serving.machine import cpu_flags, cpu_name, usable_cores
from serving.models.pipeline_models import pipeline_models
from serving.plan.candidates import DISTRIBUTIONS, candidates
from serving.plan.load import check_plan
from serving.plan.plan import all_deployments, read_deployment

State = Literal["ok", "absent", "error"]

_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_TENSORRT_FIX = (
    f"{INSTALL['gpu']} --tensorrt"
    if CLONE
    else f"{INSTALL['gpu']} 'paddleocr-hpi-serving[tensorrt]' "
    "--extra-index-url https://pypi.nvidia.com"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `absent` is not a fault, `error` is."""

    topic: str
    state: State
    text: str
    fix: str = ""


def examine(models: Path | None = None) -> Iterator[Finding]:
    """Look at Python, processor, backends, OpenCV, GPU and the pipelines built under `models`."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}")
    flags = cpu_flags()
    known = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimdhp")
    fast = [name for name in known if name in flags]
    yield Finding(
        "processor", "ok", f"{cpu_name()}, {usable_cores()} usable cores, {' '.join(fast) or 'SSE'}"
    )
    yield _package("openvino", DISTRIBUTIONS["openvino"], INSTALL["cpu"])
    yield _onnxruntime()
    paddle = DISTRIBUTIONS["paddle"]
    yield _package("paddle", paddle, "pip install paddlepaddle==3.2.2", optional=True)
    yield _package("cv2", _OPENCV, INSTALL["cpu"])
    yield from _gpu()
    yield from _engines()
    if models is not None:
        yield from _pipelines(models)


def _package(
    module: str, distributions: Sequence[str], fix: str, *, optional: bool = False
) -> Finding:
    """Whether a module loads. distributions: those that have it, of which one may be installed."""
    versions = {}
    for name in distributions:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    if len(versions) > 1:
        both = f"{' and '.join(versions)} are both installed, and they overwrite each other"
        remove = f"{sys.executable} -m pip uninstall -y {' '.join(versions)}"
        return Finding(module, "error", both, f"{remove} && {fix}")
    try:
        importlib.import_module(module)
    except ImportError as error:
        if error.name == module:
            return Finding(module, "absent" if optional else "error", "not installed", fix)
        return Finding(module, "error", f"does not load: {error}", fix)
    return Finding(module, "ok", next(iter(versions.values()), "version unknown"))


def _onnxruntime() -> Finding:
    finding = _package("onnxruntime", DISTRIBUTIONS["onnxruntime"], INSTALL["cpu"])
    if finding.state != "ok":
        return finding
    providers = importlib.import_module("onnxruntime").get_available_providers()
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return replace(finding, text=f"{finding.text}; providers: {names}")


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
        yield Finding(
            "GPU", "absent", "ONNX Runtime is installed without its CUDA provider", INSTALL["gpu"]
        )
        return
    if cards[0].cuda < cuda.CUDA:
        needs = "{}.{}".format(*cuda.CUDA)
        fix = "install NVIDIA's driver 580 or newer"
        yield Finding("driver", "error", f"too old for CUDA {needs}", fix)
    yield from _libraries(cuda.LIBRARIES, "error", INSTALL["gpu"])
    if tensorrt.PROVIDER in cuda.providers():
        yield from _libraries(cuda.TENSORRT_LIBRARIES, "absent", _TENSORRT_FIX)


def _libraries(libraries: dict[str, str], missing: State, fix: str) -> Iterator[Finding]:
    for name, reason in cuda.load(libraries):
        if reason:
            remedy = cuda.DRIVER_FIX if name == cuda.DRIVER else fix
            yield Finding(name, missing, f"of {libraries[name]}: {reason}", remedy)
        else:
            yield Finding(name, "ok", "loads")


def _card(card: Gpu) -> str:
    return (
        f"{card.name}, {card.memory / 2**30:.0f} GiB, driver {card.driver} (CUDA {card.cuda[0]}."
        f"{card.cuda[1]}), compute capability {card.capability[0]}.{card.capability[1]} "
        f"({', '.join(card.precisions)})"
    )


def _engines() -> Iterator[Finding]:
    """The engines that `build` would measure, by device."""
    try:
        yield _measured("engines on the processor", "cpu")
    except Exception as error:  # whatever is broken, the report goes on
        yield Finding("engines on the processor", "error", str(error), INSTALL["cpu"])
    try:
        cuda.check_gpu("gpu:0")
        yield _measured("engines on the GPU", "gpu:0")
        yield Finding("device", "ok", "build takes gpu:0 unless --device says otherwise")
    except DeviceError as error:
        yield Finding("device", "ok", f"build takes the processor: {error}")
    except Exception as error:
        yield Finding("engines on the GPU", "error", str(error), INSTALL["gpu"])


def _measured(topic: str, device: str) -> Finding:
    specs = candidates(HpiConfig(), cores=usable_cores(), device=device, quantised=True)
    names = sorted({f"{spec.backend} {spec.precision}" for spec in specs})
    return Finding(topic, "ok", f"will be measured: {', '.join(names)}")


def _pipelines(models: Path) -> Iterator[Finding]:
    """Whether the default pipeline and those built here have their models and a valid plan."""
    cores = {Path(item.pipeline): item.cores for item in all_deployments(models)}
    for path, threads in (dict.fromkeys(DEFAULT_PIPELINES, usable_cores()) | cores).items():
        if not (shipped(path) or path).exists():
            continue
        for topic, look in (("models", _models), ("plan", _plan)):
            try:
                yield Finding(f"{path.stem}, {topic}", "ok", look(path, models, threads))
            except OcrError as error:
                yield Finding(f"{path.stem}, {topic}", "absent", str(error))
                break  # without models there is no plan


def _models(path: Path, models: Path, _: int) -> str:
    found = pipeline_models(load_config(path), models)
    return ", ".join(item.module.model_name for item in found)


def _plan(path: Path, models: Path, cores: int) -> str:
    from serving.plan.build import plan_inputs

    config = load_config(path)
    check_plan(config, models, cores, None)
    deployment = read_deployment(models, config, cores)
    plan = deployment.plan(deployment.device)
    device = parse_devices(deployment.device)[0]
    inputs = plan_inputs(config, models, plan.cores, device)
    text = f"for {deployment.device}, made {plan.made}"
    if differences := inputs.differences(plan, str(plan.calibration["hash"])):
        text += f"; a build may find a faster plan: {differences}; {deployment.command()}"
    if warning := plan.warning(deployment.command()):
        text += f"; {warning}"
    return text


_MARKS = {"ok": "ok     ", "absent": "absent ", "error": "ERROR  "}


@click.command()
@models_option
def command(models: Path) -> None:
    """Check Python, backends, OpenCV, GPU, drivers and built pipelines; say how to fix faults.

    Exit code 1 when something is broken; what is only absent is not a fault.
    """
    broken = []
    for finding in examine(models):
        click.echo(f"{_MARKS[finding.state]} {finding.topic}: {finding.text}")
        if finding.fix:
            click.echo(f"        fix: {finding.fix}")
        if finding.state == "error":
            broken.append(finding.topic)
    if broken:
        raise EngineError(f"broken: {', '.join(broken)}; the lines above say how to fix them")
    click.echo(f"nothing is broken; engines are measured by: {BUILD}")
