"""Paddle static graph to ONNX, checked against Paddle itself. Build time only.

paddle and paddle2onnx live in an environment of their own: they pin other versions of what
serving uses, and serving needs neither.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ConversionError
from serving.probe import probe_inputs
from serving.store.files import digest, model_files
from serving.store.progress import Progress, Quiet

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 1e-3
"""Largest difference allowed between an output of Paddle and of the converted model."""

_OPSETS = (17, 14, 11)  # the newest that all backends read, then what older operators may need
_RECIPE = 1  # part of a conversion's name: raise it when the conversion changes
_SECONDS = 600.0
_BUILD = "bash scripts/build_engines.sh"


def find_build_python(root: str | Path = ".") -> Path:
    """The Python of the build environment: $OCR_HPI_BUILD_PYTHON, else `.venv-build` in `root`.

    Raises ConversionError naming the script that makes one.
    """
    chosen = os.environ.get("OCR_HPI_BUILD_PYTHON")
    python = Path(chosen) if chosen else Path(root).absolute() / ".venv-build" / "bin" / "python"
    if os.access(python, os.X_OK) and python.is_file():
        return python
    raise ConversionError(
        f"{python}: no build environment, which converting a Paddle model needs. Make it and "
        f"build: {_BUILD}. Or, where it is published as ONNX too, move the model's folder away "
        "and fetch it so: ocr-hpi fetch --prefer onnx NAME"
    )


def converted_path(folder: Path, engines: Path) -> Path:
    """Where the conversion of a model folder is cached; it changes with the model's bytes."""
    return engines / "onnx" / f"{folder.resolve().name}-{digest(folder)[:16]}-{_RECIPE}.onnx"


def needs_conversion(folder: Path, engines: Path) -> bool:
    """Whether the model has only a Paddle graph and is not converted yet."""
    return model_files(folder).onnx is None and not converted_path(folder, engines).is_file()


def onnx_graph(
    folder: Path,
    engines: Path,
    *,
    python: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The ONNX graph of a model: its own, the cached conversion, or one made now.

    Raises ModelInvalid for an incomplete folder, ConversionError as `to_onnx` does.
    """
    own = model_files(folder).onnx
    if own is not None:
        return own
    out = converted_path(folder, engines)
    if not out.is_file():
        to_onnx(folder, out, python=python or find_build_python(), progress=progress)
    return out


def to_onnx(
    folder: Path,
    out: Path,
    *,
    python: Path,
    progress: Progress | None = None,
    timeout: float = _SECONDS,
) -> None:
    """Convert the Paddle graph of `folder` to the file `out`, which appears whole or not at all.

    The result computes what Paddle computes, within 1e-3 on rendered text, or it is not kept.
    Raises ConversionError; its log, when there is one, is kept beside `out`.
    """
    from filelock import FileLock

    files = model_files(folder)
    if files.paddle is None:
        raise ConversionError(f"{folder}: has no Paddle graph to convert")
    inputs = probe_inputs(folder)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.parent / f".{out.name}.lock"):
            for left in out.parent.glob(f".{out.name}-*"):  # of a killed process
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
                _convert(folder, files.paddle, out, Path(work), inputs, python, progress, timeout)
    except OSError as error:
        raise ConversionError(f"{out}: cannot be written: {error.strerror or error}") from error


def _convert(
    folder: Path,
    paddle: tuple[Path, Path],
    out: Path,
    work: Path,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    python: Path,
    progress: Progress | None,
    timeout: float,
) -> None:
    import numpy as np

    say = (progress or Quiet()).say
    say(f"converting {folder.name} to ONNX (some seconds)")
    arrays: dict[str, Any] = dict(inputs)
    np.savez(work / "inputs.npz", **arrays)
    log = work / "log.txt"
    tried: dict[str, list[str]] = {}  # what went wrong -> opsets
    for opset in _OPSETS:
        # -I: neither this package's folder nor the caller's PYTHONPATH may reach the child.
        command = [str(python), "-I", str(Path(__file__).with_name("convert_child.py"))]
        command += [str(path.absolute()) for path in (*paddle, work)] + [str(opset)]
        try:
            _run(command, log, timeout)
            difference = _largest_difference(work, inputs)
        except ConversionError as error:
            tried.setdefault(str(error), []).append(str(opset))
            continue
        if difference <= TOLERANCE:
            (work / "model.onnx").replace(out)
            out.with_suffix(".log").unlink(missing_ok=True)
            say(f"converted {folder.name} (opset {opset}; differs from Paddle by {difference:.1e})")
            return
        what = f"outputs differ from Paddle's by {difference:.3g}"
        tried.setdefault(what, []).append(str(opset))
    kept = out.with_suffix(".log")
    if log.exists():
        shutil.copyfile(log, kept)
    reasons = "; ".join(f"{what} (opset {', '.join(opsets)})" for what, opsets in tried.items())
    raise ConversionError(
        f"{folder}: cannot be converted to ONNX within {TOLERANCE}: {reasons}. The log: {kept}. "
        f"Rebuild the environment (rm -r .venv-build && {_BUILD}) or, where the model is "
        "published as ONNX too, move its folder away and: ocr-hpi fetch --prefer onnx NAME"
    )


def _run(command: list[str], log: Path, timeout: float) -> None:
    """Run the child, its output appended to `log`."""
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                cwd=log.parent,  # paddle drops files where it stands
            )
        except subprocess.TimeoutExpired:
            raise ConversionError(f"gave no result within {timeout:.0f} s") from None
        except OSError as error:
            raise ConversionError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no output"
        raise ConversionError(f"paddle2onnx ended with {done.returncode}: {last.strip()[:300]}")


def _largest_difference(work: Path, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
    """Largest absolute difference between Paddle's outputs and the converted model's."""
    import numpy as np

    try:
        import onnxruntime
    except ImportError:
        raise ConversionError(
            "onnxruntime, which checks the result, is not installed: "
            "bash scripts/install_hpi_deps.sh cpu"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            work / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        feed = session.get_inputs()[0].name
        largest = 0.0
        with np.load(work / "outputs.npz") as expected:
            for key, array in inputs.items():
                found = session.run(None, {feed: array})[0]
                if found.shape != expected[key].shape:
                    return float("inf")
                difference = float(np.abs(found - expected[key]).max())
                largest = max(largest, difference) if difference == difference else float("inf")
    except Exception as error:  # onnxruntime's classes are private and share no base
        what = " ".join(str(error).split())[:300]
        raise ConversionError(f"onnxruntime refuses the result: {what}") from error
    return largest
