"""Paddle static graph to ONNX, checked against Paddle itself. Build time only.

paddle and paddle2onnx live in an environment of their own: they pin other versions of what
serving uses, and serving needs neither.

What the converted model computes, held against what Paddle computes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError, ConversionError
from serving.models.files import digest, model_files
from serving.models.probe import Input, Round, model_kind, other_rounds, text_rounds
from serving.models.progress import Progress, Quiet


def largest_difference(work: Path, rounds: Sequence[Round]) -> float:
    """Largest difference between Paddle's outputs and the converted model's.

    It is absolute up to 1, beyond that in parts of the value. A round that Paddle itself could
    not run, such as two items at once, has no outputs. Raises ConversionError.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConversionError(
            "onnxruntime, which checks the result, is not installed: "
            "bash scripts/install_hpi_deps.sh cpu"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    largest = 0.0
    try:
        session = onnxruntime.InferenceSession(
            work / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        names = [port.name for port in session.get_inputs()]
        with np.load(work / "outputs.npz") as expected:
            for turn, given in enumerate(rounds):
                if f"{turn}.0" not in expected:
                    continue
                feed = {name: given.get(name, given.get("")) for name in names}
                for place, found in enumerate(session.run(None, feed)):
                    largest = max(largest, _difference(found, expected[f"{turn}.{place}"]))
    except Exception as error:  # onnxruntime's classes are private and share no base
        what = " ".join(str(error).split())[:300]
        raise ConversionError(f"onnxruntime refuses the result: {what}") from error
    return largest


def _difference(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if not found.size:
        return 0.0
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    largest = float((np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))).max())
    return largest if largest == largest else float("inf")


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
    convert: bool = True,
    python: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The ONNX graph of a model: its own, the cached conversion, or one made now.

    convert: what the YAML's `hpi_config.auto_paddle2onnx` says: whether one may be made now.
    Raises ConfigError where it may not, ModelInvalid for an incomplete folder, ConversionError as
    `to_onnx` does.
    """
    own = model_files(folder).onnx
    if own is not None:
        return own
    out = converted_path(folder, engines)
    if not out.is_file():
        if not convert:
            raise ConfigError(
                f"hpi_config.auto_paddle2onnx: False, and {folder} has only a Paddle graph, which "
                "every engine but Paddle's needs as ONNX; set it True, put inference.onnx there, "
                "or convert it first: ocr-hpi convert PIPELINE.yaml"
            )
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
    kind = model_kind(folder)
    rounds = text_rounds(folder, kind) if kind else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.parent / f".{out.name}.lock"):
            for left in out.parent.glob(f".{out.name}-*"):  # of a killed process
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
                child = _Child(python, files.paddle, Path(work), timeout)
                _convert(folder, out, child, rounds, progress)
    except OSError as error:
        raise ConversionError(f"{out}: cannot be written: {error.strerror or error}") from error


class _Child:
    """conversion_child.py on one graph; its output is kept in `log`."""

    def __init__(self, python: Path, paddle: tuple[Path, Path], work: Path, timeout: float) -> None:
        # -I: neither this package's folder nor the caller's PYTHONPATH may reach the child.
        self._command = [str(python), "-I", str(Path(__file__).with_name("conversion_child.py"))]
        self._command += [str(path.absolute()) for path in (*paddle, work)]
        self._timeout = timeout
        self.work = work
        self.log = work / "log.txt"

    def __call__(self, step: str) -> None:
        """`inputs`, or the opset to convert to. Raises ConversionError."""
        _run([*self._command, step], self.log, self._timeout)


def _convert(
    folder: Path,
    out: Path,
    child: _Child,
    rounds: Sequence[Round] | None,
    progress: Progress | None,
) -> None:
    import numpy as np

    say = (progress or Quiet()).say
    say(f"converting {folder.name} to ONNX (some seconds)")
    work, log = child.work, child.log
    tried: dict[str, list[str]] = {}  # what went wrong -> opsets
    for opset in _OPSETS:
        try:
            rounds = rounds or _told_rounds(folder, child)
            arrays: dict[str, Any] = {
                f"{turn}.{name}": array
                for turn, given in enumerate(rounds)
                for name, array in given.items()
            }
            np.savez(work / "inputs.npz", **arrays)
            child(str(opset))
            difference = largest_difference(work, rounds)
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


def _told_rounds(folder: Path, child: _Child) -> list[Round]:
    """Inputs for a model of another kind than text, as its graph says. Raises ConversionError."""
    child("inputs")
    told = json.loads((child.work / "inputs.json").read_text(encoding="utf-8"))
    inputs = [Input(item["name"], tuple(item["shape"]), item["dtype"]) for item in told]
    return other_rounds(folder, inputs)


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
