"""PaddleX and PaddleOCR on our engines: their `use_hpip=True` and `enable_hpi=True`, made true.

    import serving.integrations.paddlex
    serving.integrations.paddlex.enable()
    ocr = PaddleOCR(enable_hpi=True, ...)  # or paddlex.create_pipeline(..., use_hpip=True)

Needs PaddleX 3.7 and neither paddlepaddle nor PaddleX's own plugin.
"""

from __future__ import annotations

from pathlib import Path

from serving.config.gate import Gate, GateName, named_gate
from serving.integrations.paddlex.choice import Choose, ModelRequest, planned, simplest
from serving.integrations.paddlex.hook import install
from serving.integrations.paddlex.plain import paddlex_config, plain_pipeline

__all__ = [
    "Choose",
    "ModelRequest",
    "enable",
    "paddlex_config",
    "plain_pipeline",
    "planned",
    "simplest",
]


def enable(
    *,
    gate: GateName | Gate = "default",
    models: str | Path = "models",
    choose: Choose | None = None,
) -> None:
    """From now on, in this process, a model that PaddleX opens with HPI runs on our engines.

    gate: how near to float32 an engine must read, by name (default, strict, exact) or by bounds.
    The engine is the fastest that the plans built on this machine found to pass it; a model
    without a plan runs on float32 OpenVINO, and the log says so. PaddleX's `hpi_config` narrows it.
    The default gate also lets a batch of lines be padded to a class of widths, so that engines
    meet few shapes: 1.3 times as fast, and one line in twenty reads a little otherwise.
    models: the store's folder, where `engines` has the plans and the conversions from Paddle.
    choose: a choice of your own in place of the plans'.
    What other engines PaddleX has stays as it is. Calling it again replaces all three.
    Raises ConfigError for an unknown gate, EngineError where PaddleX is not installed or is not
    the one that this stands on.
    """
    bounds = gate if isinstance(gate, Gate) else named_gate(gate)
    store = Path(models).absolute()
    lax = bounds.error_rate >= named_gate("default").error_rate
    install(store, choose or planned(store, bounds), width_classes=lax)
