"""Paddle static graph to ONNX, checked against Paddle itself. Build time only.

paddle and paddle2onnx are in an environment of their own: they pin other versions of packages
that serving uses, and serving needs neither.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serving.disk import is_intact, sidecar, write_sidecar
from serving.errors import (
    BUILD,
    CLONE,
    INSTALL,
    ConfigError,
    ConversionError,
    FetchError,
    ModelInvalid,
)
from serving.models.files import digest, model_files
from serving.models.probe import draw_text, image_sizes
from serving.progress import Progress, Quiet

TOLERANCE = 1e-3
"""Largest difference allowed between an output of Paddle and of the converted model."""

_OPSETS = (17, 14, 11)  # the newest that all backends read, then what older operators may need
_RECIPE = 1  # part of a conversion's name: raise it when the conversion changes
_SECONDS = 600.0
_LOCK = Path(__file__).resolve().parents[1] / "data" / "build.txt"
_MAKE = (
    BUILD
    if CLONE
    else f"python3.{min(sys.version_info.minor, 12)} -m venv .venv-build && "
    f".venv-build/bin/pip install --require-hashes -r {_LOCK} && {BUILD}"
)
"""Makes the build environment, with Python 3.11 or 3.12, and builds."""


def find_build_python(root: str | Path | None = None) -> Path:
    """The Python of the build environment: $OCR_HPI_BUILD_PYTHON, else `.venv-build` in `root`.

    root: default: the working folder, then the checkout that this package runs from.

    Raises ConversionError naming the command that creates one.
    """
    path = os.environ.get("OCR_HPI_BUILD_PYTHON")
    roots = [Path.cwd(), Path(__file__).resolve().parents[2]] if root is None else [Path(root)]
    inside = [folder.absolute() / ".venv-build" / "bin" / "python" for folder in roots]
    places = [Path(path)] if path else inside
    for python in places:
        if os.access(python, os.X_OK) and python.is_file():
            return python
    raise ConversionError(
        f"{places[0]}: no build environment, which converting a Paddle model needs. Create it and "
        f"build: {_MAKE}; or name its Python: OCR_HPI_BUILD_PYTHON. Or, where the model is "
        "published as ONNX too, move its folder away and fetch that: "
        "ocr-hpi fetch --prefer onnx NAME"
    )


def can_convert() -> bool:
    """Whether Paddle graphs can be converted. A clone's scripts make what that needs."""
    try:
        return CLONE is not None or bool(find_build_python())
    except ConversionError:
        return False


def converted_path(folder: Path, engines: Path) -> Path:
    """Where the conversion of a model folder is cached; the name holds the model's digest."""
    return engines / "onnx" / f"{folder.resolve().name}-{digest(folder)[:16]}-{_RECIPE}.onnx"


def needs_conversion(folder: Path, engines: Path) -> bool:
    """Whether the model has only a Paddle graph and no conversion of it is there and intact."""
    return model_files(folder).onnx is None and not is_intact(converted_path(folder, engines))


def onnx_graph(
    folder: Path,
    engines: Path,
    *,
    convert: bool = True,
    python: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The ONNX graph of a model: its own, the cached conversion, or one made now.

    convert: `hpi_config.auto_paddle2onnx` of the YAML: whether one may be made now.
    Raises ConfigError if it may not, ModelInvalid for an incomplete folder or weights outside it,
    ConversionError as `to_onnx` does.
    """
    own = model_files(folder).onnx
    if own is not None:
        check_external_data(own)
        return own
    out = converted_path(folder, engines)
    if not is_intact(out):
        if not convert:
            raise ConfigError(
                f"hpi_config.auto_paddle2onnx: False, and {folder} has only a Paddle graph, which "
                "every engine but Paddle's needs as ONNX; set it True or put inference.onnx there"
            )
        to_onnx(folder, out, python=python or find_build_python(), progress=progress)
    return out


def check_external_data(graph: Path) -> None:
    """Raise ModelInvalid where weights are not read from the graph's folder; a link counts, too.

    Raises FetchError without the package onnx.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise FetchError(
            f"onnx, which checks the weights of a graph, is not installed: {INSTALL['cpu']}"
        ) from None

    try:
        onnx.load(graph)  # refuses absolute paths, .. and links
    except onnx.checker.ValidationError as error:
        raise ModelInvalid(
            f"{graph}: its external data is missing or outside the model's folder ({error}); put "
            "the weights beside the graph or into it"
        ) from error
    except DecodeError:
        pass  # whatever reads the graph reports it


def to_onnx(
    folder: Path,
    out: Path,
    *,
    python: Path,
    progress: Progress | None = None,
    timeout: float = _SECONDS,
) -> None:
    """Convert the Paddle graph of `folder` to the file `out`, atomically.

    The result is kept only if its outputs on rendered text are within 1e-3 of Paddle's.
    Raises ConversionError; the log, if there is one, is kept beside `out`.
    """
    from filelock import FileLock

    files = model_files(folder)
    if files.paddle is None:
        raise ConversionError(f"{folder}: has no Paddle graph to convert")
    sizes = json.dumps(image_sizes(folder))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.parent / f".{out.name}.lock"):
            for remains in out.parent.glob(f".{out.name}-*"):  # of a killed process
                shutil.rmtree(remains, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
                np.save(Path(work) / "text.npy", draw_text(640, 640))
                # -I: neither this package's folder nor the caller's PYTHONPATH reach the child.
                child = [str(python), "-I", str(Path(__file__).with_name("conversion_child.py"))]
                child += [str(path.absolute()) for path in (*files.paddle, Path(work))]
                run = partial(_run, [*child, sizes], Path(work) / "log.txt", timeout)
                _convert(folder, out, Path(work), run, progress or Quiet())
    except OSError as error:
        raise ConversionError(f"{out}: cannot be written: {error.strerror or error}") from error


def _convert(
    folder: Path, out: Path, work: Path, run: Callable[[int], None], progress: Progress
) -> None:
    """run: converts to an opset, see conversion_child.py."""
    progress.message(f"converting {folder.name} to ONNX (takes seconds)")
    failures: dict[str, list[str]] = {}  # reason -> opsets
    for opset in _OPSETS:
        try:
            run(opset)
            difference = _max_difference(work)
        except ConversionError as error:
            failures.setdefault(str(error), []).append(str(opset))
            continue
        if difference <= TOLERANCE:
            write_sidecar(work / "model.onnx", out.name)
            sidecar(work / out.name).replace(sidecar(out))
            (work / "model.onnx").replace(out)
            out.with_suffix(".log").unlink(missing_ok=True)
            progress.message(
                f"converted {folder.name} (opset {opset}; differs from Paddle by {difference:.1e})"
            )
            return
        reason = f"outputs differ from Paddle's by {difference:.3g}"
        failures.setdefault(reason, []).append(str(opset))
    kept = out.with_suffix(".log")
    shutil.copyfile(work / "log.txt", kept)
    reasons = "; ".join(f"{why} (opset {', '.join(opsets)})" for why, opsets in failures.items())
    raise ConversionError(
        f"{folder}: cannot be converted to ONNX within {TOLERANCE}: {reasons}. The log: {kept}. "
        f"Rebuild the environment (rm -r .venv-build && {_MAKE}) or, where the model is "
        "published as ONNX too, move its folder away and: ocr-hpi fetch --prefer onnx NAME"
    )


def _run(command: list[str], log: Path, timeout: float, opset: int) -> None:
    """Run the child, its output appended to `log`. Raises ConversionError."""
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                [*command, str(opset)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                cwd=log.parent,  # paddle writes files to the working directory
            )
        except subprocess.TimeoutExpired:
            raise ConversionError(f"gave no result within {timeout:.0f} s") from None
        except OSError as error:
            raise ConversionError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no output"
        raise ConversionError(f"paddle2onnx ended with {done.returncode}: {last.strip()[:300]}")


def _max_difference(work: Path) -> float:
    """Largest difference between Paddle's outputs and the converted model's.

    It is absolute for values up to 1 and relative beyond. Raises ConversionError.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConversionError(
            f"onnxruntime, which checks the result, is not installed: {INSTALL['cpu']}"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    differences = [0.0]
    try:
        session = onnxruntime.InferenceSession(
            work / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        names = [port.name for port in session.get_inputs()]
        with np.load(work / "inputs.npz") as inputs, np.load(work / "outputs.npz") as expected:
            for index in dict.fromkeys(key.partition(".")[0] for key in expected):
                feed = {name: inputs[f"{index}.{name}"] for name in names}
                for output, actual in enumerate(session.run(None, feed)):
                    differences.append(_difference(actual, expected[f"{index}.{output}"]))
    except Exception as error:  # onnxruntime's classes are private and share no base
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(f"onnxruntime refuses the result: {reason}") from error
    return max(differences)


def _difference(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.size:
        return 0.0
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    difference = float((np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))).max())
    return float("inf") if np.isnan(difference) else difference
