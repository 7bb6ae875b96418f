"""Deployments of a made-up plan, for tests that measure nothing."""

from __future__ import annotations

from pathlib import Path

from serving.config import PipelineConfig
from serving.devices import parse_devices
from serving.machine import share
from serving.plan.plan import Plan, save_plan


def deploy(models: Path, config: PipelineConfig, cores: int, device: str, workers: int) -> None:
    """Record a plan without engines as the chosen one; workers: of all GPUs together."""
    count = len(parse_devices(device))
    plan = Plan(
        key="made up",
        made="2026-01-01T00:00:00+00:00",
        cores=share(cores, count),
        machine={},
        versions={},
        gate={},
        calibration={"hash": ""},
        requirements={},
        models={},
        workers=workers // count,
    )
    save_plan(models, config, cores, device, plan)
