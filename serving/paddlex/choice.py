"""Which engine a model of PaddleX's gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.config.pipeline import HpiConfig
from serving.engines.base import EngineSpec
from serving.errors import ConfigError, EngineError
from serving.machine import usable_cores
from serving.plan.candidates import candidates
from serving.store.files import model_files


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model that PaddleX is opening with HPI."""

    name: str
    folder: Path
    device: str
    """As PaddleX says it: cpu, gpu, npu, ..."""
    hpi: HpiConfig


Choose = Callable[[ModelRequest], EngineSpec]
"""Decides. Raises ConfigError or EngineError where the request cannot be met."""


def simplest(request: ModelRequest) -> EngineSpec:
    """The first candidate that `hpi_config` leaves: OpenVINO in float32 where it says nothing.

    PaddleX runs one call at a time, so that all usable cores work on it.
    Raises ConfigError for an `hpi_config` that nothing here fits, EngineError for another device.
    """
    if request.device != "cpu":
        raise EngineError(
            f"{request.name}: PaddleX asks for the device {request.device!r}, and the engines here "
            "run on the CPU; pass device='cpu'"
        )
    has_paddle = model_files(request.folder).paddle is not None
    try:
        chosen = candidates(request.hpi, cores=usable_cores(), paddle_graph=has_paddle)[0]
    except ConfigError as error:
        raise ConfigError(f"{request.name}: {error}") from None
    if chosen.precision == "int8":
        raise ConfigError(
            f"{request.name}: hpi_config asks for int8, which only this project's own pipelines "
            "have (ocr-hpi build); under PaddleX use float32, bfloat16 or float16"
        )
    return chosen
