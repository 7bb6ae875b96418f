"""What a plan is for: a pipeline's models, the engines they may run on, the cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.config.pipeline import PipelineConfig
from serving.engines.base import EngineSpec
from serving.parts import Part, parts
from serving.plan.candidates import candidates
from serving.plan.keys import plan_key
from serving.store.files import model_files


@dataclass(frozen=True, slots=True)
class Subject:
    """By section of the YAML: the models and their candidates. `key` names the plan for it."""

    config: PipelineConfig
    parts: Mapping[str, Part]
    specs: Mapping[str, list[EngineSpec]]
    cores: int
    key: str
    device: str = "cpu"
    """cpu or gpu:N."""


def subject(config: PipelineConfig, models: Path, cores: int, device: str = "cpu") -> Subject:
    """Read the models' folders, once.

    Raises ConfigError, ModelMissing, ModelInvalid, and DeviceError where the GPU is not there.
    """
    found = {part.section: part for part in parts(config, models)}
    specs = {
        section: candidates(
            config.hpi(part.module),
            cores=cores,
            device=device,
            # A few lines a page go to the classifier: on a processor one by one.
            lines=section == "TextRecognition"
            or (section == "TextLineOrientation" and device != "cpu"),
            paddle_graph=model_files(part.folder).paddle is not None,
        )
        for section, part in found.items()
    }
    return Subject(config, found, specs, cores, plan_key(config, found, specs, cores), device)
