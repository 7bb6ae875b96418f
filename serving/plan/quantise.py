"""An int8 graph of a model, by NNCF's post-training quantisation on the calibration set.

Build time only, and only where `hpi_config` asks for int8. Serving loads the result without NNCF.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path

from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError, PlanError
from serving.parts import Part
from serving.plan.bench import BENCHES, spread
from serving.plan.calibration import Calibration

NNCF = "nncf>=3,<4"
"""As the extra `int8` has it."""

_INPUTS = 300
"""Inputs whose activations are looked at, evenly spread over the calibration set."""


def nncf_version() -> str | None:
    """The version that would quantise; None where NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        return None
    return metadata.version("nncf")


def require_nncf() -> str:
    """NNCF's version. Raises PlanError with the line that installs it."""
    version = nncf_version()
    if version is None:
        raise PlanError(
            "precision: int8 is made with NNCF, which is not installed; "
            f"run: {sys.executable} -m pip install '{NNCF}'"
        )
    return version


def quantise(part: Part, fused: Path, calibration: Calibration, folder: Path) -> None:
    """Write the int8 form of the fused graph into `folder` as graph.xml and graph.bin.

    Raises EngineError where NNCF cannot.
    """
    os.environ.setdefault("NNCF_CI", "ON")  # else importing it reports its use to its makers
    with contextlib.redirect_stdout(io.StringIO()):  # it draws its progress there
        import nncf
        import openvino as ov

        nncf.set_log_level(40)  # errors
        reader = open_engine(fused, EngineSpec("onnxruntime"))
        with closing(BENCHES[part.section](part, reader, calibration)) as bench:
            inputs = [image[None] for image in spread(bench.inputs(), _INPUTS)]
        try:
            model = nncf.quantize(
                ov.Core().read_model(fused),
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
            )
            ov.save_model(model, folder / "graph.xml", compress_to_fp16=False)
        except Exception as error:  # NNCF's errors share no base
            raise EngineError(f"{part.model.name}: NNCF cannot quantise it: {error}") from error
