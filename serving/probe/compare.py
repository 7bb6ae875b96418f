"""What the converted model computes, held against what Paddle computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConversionError
from serving.probe.text import Round


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
