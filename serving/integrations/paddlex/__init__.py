"""PaddleX and PaddleOCR on our engines, through their `use_hpip=True` and `enable_hpi=True`.

    import serving.integrations.paddlex
    serving.integrations.paddlex.enable()
    ocr = PaddleOCR(enable_hpi=True, ...)  # or paddlex.create_pipeline(..., use_hpip=True)

Needs PaddleX 3.7 and neither paddlepaddle nor PaddleX's own plugin.
"""

from __future__ import annotations

import os
from pathlib import Path

from serving.config.gate import Gate, GateName, named_gate
from serving.integrations.paddlex.choice import ModelRequest, planned
from serving.integrations.paddlex.hook import install
from serving.integrations.paddlex.plain import paddlex_config, plain_pipeline

__all__ = ["ModelRequest", "enable", "paddlex_config", "plain_pipeline", "planned"]


def enable(*, gate: GateName | Gate = "default", models: str | Path | None = None) -> None:
    """Make models that PaddleX opens with HPI in this process run on our engines.

    gate: how close to float32 an engine must read, by name (default, strict, exact) or by bounds.
    The engine is the fastest that passes it in the plans built on this machine; a model without a
    plan runs on float32 OpenVINO, which is logged. PaddleX's `hpi_config` narrows the choice.
    The default gate also pads a batch of lines to a class of widths, so that engines meet few
    shapes: 1.3 times as fast, and one line in twenty reads slightly differently.
    models: the folder of models, whose `engines` has the plans and the conversions from Paddle;
    default: what OCR_HPI_MODELS names, else `models`. A model without `model_dir` is taken from
    there if it is there, else as PaddleX does.
    PaddleX's other engines are not changed. Calling it again replaces both arguments.
    Raises ConfigError for an unknown gate, EngineError where PaddleX is not installed or is of an
    unsupported version.
    """
    bounds = gate if isinstance(gate, Gate) else named_gate(gate)
    store = Path(models or os.environ.get("OCR_HPI_MODELS") or "models").absolute()
    lax = bounds.error_rate >= named_gate("default").error_rate
    install(store, planned(store, bounds), width_classes=lax)
