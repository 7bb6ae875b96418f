"""What one set of workers serves, read once by the master and inherited by every fork.

A worker that is replaced loads what its siblings loaded, not what lies on the disk by then: the
checked YAML is in here, and `loaded` tells whether the models and plans are still the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.config.pipeline import PipelineConfig, load_config
from serving.http.keys import Keys, read_keys
from serving.http.settings import Settings
from serving.machine import usable_cores
from serving.plan.plan import planned_workers


@dataclass(eq=False)
class Generation:
    """The pipelines of all workers of the same time."""

    number: int
    configs: Mapping[str, PipelineConfig]
    """By name, the first one first."""
    keys: Keys | None = None
    """Who is let in; None lets everybody in."""
    loaded: str | None = None
    """Tells the models, plans and engines that its workers run; None while none is ready."""
    planned: int = 1
    """Worker processes that its plans say."""
    since: float = field(default_factory=time.monotonic)


def read_generation(number: int, settings: Settings) -> Generation:
    """Read everything that a HUP reads anew. Raises ConfigError and PlanError."""
    configs = {name: load_config(path) for name, path in settings.pipelines.items()}
    file = settings.api_keys_file
    return Generation(
        number,
        configs,
        keys=None if file is None else read_keys(file),
        planned=planned_workers(
            settings.models,
            configs.values(),
            settings.cores or usable_cores(),
            settings.device,
            cpu_fallback=settings.allow_cpu_fallback,
        ),
    )


def fingerprint(identities: Mapping[str, str]) -> str:
    """A short name for what the pipelines have loaded."""
    told = "\n".join(f"{name} {identity}" for name, identity in identities.items())
    return hashlib.sha256(told.encode()).hexdigest()[:16]
