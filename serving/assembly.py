"""From a pipeline YAML and a folder of models to a pipeline that reads."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from serving.config.pipeline import PipelineConfig, load_config
from serving.config.supported import check_supported
from serving.devices import parse_devices
from serving.errors import DeviceError
from serving.machine import share, usable_cores
from serving.pipeline import Pipeline
from serving.plan.chosen import chosen_device
from serving.plan.opening import open_planned
from serving.plan.plan import Plan, load_plan
from serving.plan.subject import Subject, subject

_LOG = logging.getLogger("serving.assembly")


def open_pipeline(
    yaml: str | Path | PipelineConfig,
    *,
    models: Path = Path("models"),
    threads: int | None = None,
    device: str | None = None,
    slot: int = 0,
    workers: int = 1,
    allow_cpu_fallback: bool = False,
) -> Pipeline:
    """Load the pipeline of a YAML file on the engines that its plan chose, hot shapes warmed.

    yaml: the file, or what was read from it.
    threads: processor cores of the plan; default: all that this process may use.
    device: cpu, gpu or gpu:0,1; default: what was built.
    workers: processes that share cores and GPUs, of which this is number `slot`.
    Raises ConfigError, ModelError, PlanError (not built for this), EngineError, and DeviceError
    where the plan's GPU cannot be used, unless `allow_cpu_fallback`: then it is the CPU's plan.
    """
    config = yaml if isinstance(yaml, PipelineConfig) else load_config(yaml)
    cores = threads or usable_cores()
    devices = _devices(config, models, cores, device)
    place = devices[slot % len(devices)]
    if workers < len(devices):
        told = config.source, ", ".join(devices), workers
        _LOG.warning("%s is for %s; with --workers %d some of these are idle", *told)
    try:
        about = _subject(config, models, share(cores, len(devices)), place)
        plan = _load(about, models, cores, device)
        return _open(about, plan, models, math.ceil(workers / len(devices)))
    except DeviceError as error:
        if not allow_cpu_fallback:
            raise DeviceError(
                f"{config.source} is for {place}, which cannot be used: {error} (or serve "
                "on the CPU with --allow-cpu-fallback)"
            ) from error
        _LOG.warning(
            "%s: reading on the CPU, because %s cannot be used: %s", config.source, place, error
        )
        about = _subject(config, models, cores, "cpu")
        return _open(about, _load(about, models, cores, "cpu"), models, workers)


def find_plan(
    config: PipelineConfig, models: Path, threads: int | None = None, device: str | None = None
) -> Plan:
    """The plan that was made for these models, this machine and so many cores.

    device: cpu, gpu or gpu:0,1; default: what was built.
    Raises ConfigError, ModelError, DeviceError and PlanError, which names the command that makes
    one.
    """
    cores = threads or usable_cores()
    devices = _devices(config, models, cores, device)
    about = _subject(config, models, share(cores, len(devices)), devices[0])
    return _load(about, models, cores, device)


def _open(about: Subject, plan: Plan, models: Path, workers: int) -> Pipeline:
    return open_planned(
        about.config, about.parts, plan, models=models, device=about.device, workers=workers
    )


def _load(about: Subject, models: Path, cores: int, asked: str | None) -> Plan:
    told = about.config.source  # and what a build would not take by itself
    told += "" if cores == usable_cores() else f" --threads {cores}"
    told += "" if asked is None else f" --device {asked}"
    return load_plan(models, about.key, pipeline=told)


def _devices(
    config: PipelineConfig, models: Path, cores: int, asked: str | None
) -> tuple[str, ...]:
    built = chosen_device(models, config, cores) if asked is None else asked
    return parse_devices(built or "cpu")


def _subject(config: PipelineConfig, models: Path, cores: int, device: str) -> Subject:
    check_supported(config)
    return subject(config, models, cores, device)
