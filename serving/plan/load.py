"""From a pipeline YAML and a folder of models to a pipeline that reads.

From a plan to the pipeline that it is for, in one of the processes that serve it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from serving.config.pipeline import PipelineConfig, check_supported, load_config
from serving.devices import parse_devices
from serving.engines.base import Engine, EngineSpec
from serving.engines.factory import open_fused
from serving.errors import DeviceError
from serving.machine import share, usable_cores
from serving.models.pipeline_models import PipelineModel, assemble
from serving.ocr.pipeline import Pipeline
from serving.plan.graphs import Contexts, Graphs
from serving.plan.plan import Plan, PlanInputs, deployed_device, load_plan, plan_inputs


def open_planned(
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    plan: Plan,
    *,
    models: Path,
    device: str,
    workers: int = 1,
) -> Pipeline:
    """The pipeline on the engines that its plan chose, hot shapes warmed.

    found: its models, by section of the YAML. device: cpu or gpu:N. workers: processes that share
    the plan's cores; this is one of them.
    Raises PlanError where an engine is not built, EngineError and DeviceError.
    """
    engines = {}
    for section, part in found.items():
        spec = plan.models[section].choice.shared(workers)
        if spec.kind == "gpu":  # the plan was measured on one of several equal cards
            spec = replace(spec, device=device)
        engines[section] = _engine(models, part, plan, spec)
    choices = " ".join(str(model.choice) for model in plan.models.values())
    pipeline = replace(
        assemble(config, found, engines, share(plan.cores, workers)),
        identity=f"{plan.key} {choices}",
        plan=plan.summary(),
    )
    pipeline.warm({section: model.hot_shapes for section, model in plan.models.items()})
    return pipeline


def _engine(models: Path, part: PipelineModel, plan: Plan, spec: EngineSpec) -> Engine:
    if spec.backend == "tensorrt":
        graph = Contexts(models).find(part, spec)
    else:
        graph = Graphs(models).file(part, plan.quantised, spec)
    return open_fused(graph, spec, part.model)


_LOG = logging.getLogger("serving.plan.load")


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


def _open(about: PlanInputs, plan: Plan, models: Path, workers: int) -> Pipeline:
    return open_planned(
        about.config, about.parts, plan, models=models, device=about.device, workers=workers
    )


def _load(about: PlanInputs, models: Path, cores: int, asked: str | None) -> Plan:
    told = about.config.source  # and what a build would not take by itself
    told += "" if cores == usable_cores() else f" --threads {cores}"
    told += "" if asked is None else f" --device {asked}"
    return load_plan(models, about.key, pipeline=told)


def _devices(
    config: PipelineConfig, models: Path, cores: int, asked: str | None
) -> tuple[str, ...]:
    built = deployed_device(models, config, cores) if asked is None else asked
    return parse_devices(built or "cpu")


def _subject(config: PipelineConfig, models: Path, cores: int, device: str) -> PlanInputs:
    check_supported(config)
    return plan_inputs(config, models, cores, device)
