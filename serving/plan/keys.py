"""What an engine and a plan depend on, in words, and as keys made of these words."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from serving.config.pipeline import PipelineConfig
from serving.engines.base import EngineSpec
from serving.graph import VARIANT
from serving.machine import cpu_flags, cpu_name
from serving.parts import Part
from serving.plan.candidates import lines_asked, version
from serving.plan.gpus import gpu_words
from serving.store.files import digest

OBJECTIVE = "pages a second with a caller a core, lone latency within 1.2 of the best; 5"
"""Part of every plan's key. Change it when the way of measuring or choosing changes."""
_QUANTISED = 1
"""Part of an int8 graph's name. Change it when quantise.py makes another one."""

_TELLING = ("avx", "amx", "fma", "sse4", "asimd", "sve", "bf16", "i8mm")
"""Prefixes and parts of the CPU flags that engines look at."""


def machine(device: str = "cpu") -> dict[str, Any]:
    """The processor and, where the device is a GPU, that: as engines see them.

    Raises DeviceError where that GPU is not there.
    """
    flags = sorted(flag for flag in cpu_flags() if any(part in flag for part in _TELLING))
    words = {"cpu": cpu_name(), "architecture": platform.machine(), "flags": flags}
    return words if device == "cpu" else {**words, **gpu_words(device)}


def model_words(part: Part, specs: Sequence[EngineSpec], config: PipelineConfig) -> dict[str, Any]:
    """What a model's trials depend on: the model, its candidates, the gate, what the YAML says."""
    return {
        "model": part.model.name,
        "files": digest(part.folder),
        "graph": VARIANT,
        "device": machine(next((spec.device for spec in specs if spec.kind == "gpu"), "cpu")),
        "engines": [
            {"version": version(spec.backend), **spec.describe(), "device": spec.kind}
            for spec in specs
        ],
        "gate": config.gate.model_dump(),
        "module": part.module.model_dump(mode="json", exclude={"model_dir", "hpi_config"}),
        "objective": OBJECTIVE,
    }


def plan_key(
    config: PipelineConfig,
    found: Mapping[str, Part],
    specs: Mapping[str, Sequence[EngineSpec]],
    cores: int,
) -> str:
    """The key of a pipeline's plan; the plan itself names its calibration set."""
    models = {section: model_words(part, specs[section], config) for section, part in found.items()}
    lines = lines_asked(config.hpi(found["TextRecognition"].module))
    return key({"models": models, "lines": lines, "cores": cores, "objective": OBJECTIVE})


def int8_name(calibration: str, nncf: str) -> str:
    """Name of the folder of an int8 graph: how it is made, the calibration set, NNCF's version."""
    return f"int8-{_QUANTISED}-{calibration}-nncf-{nncf}"


def key(words: Mapping[str, Any]) -> str:
    """A short name for these words."""
    text = json.dumps(words, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
