"""From a pipeline YAML and a folder of models to a pipeline that reads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from serving.config.pipeline import PipelineConfig, load_config
from serving.config.supported import check_supported
from serving.devices import parse_devices
from serving.engines.base import Engine, EngineSpec
from serving.engines.factory import open_fused
from serving.errors import DeviceError
from serving.machine import usable_cores
from serving.parts import Part, assemble
from serving.pipeline import Pipeline
from serving.plan.chosen import chosen_device
from serving.plan.contexts import Contexts
from serving.plan.graphs import Graphs
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
    allow_cpu_fallback: bool = False,
) -> Pipeline:
    """Load the pipeline of a YAML file on the engines that its plan chose, hot shapes warmed.

    yaml: the file, or what was read from it.
    threads: processor cores to use; default: all that this process may.
    device: cpu, gpu or gpu:0,1; default: what was built. slot: which of several GPUs, in turn.
    Raises ConfigError, ModelError, PlanError (not built for this), EngineError, and DeviceError
    where the plan's GPU cannot be used, unless `allow_cpu_fallback`: then it is the CPU's plan.
    """
    config = yaml if isinstance(yaml, PipelineConfig) else load_config(yaml)
    devices = _devices(config, models, threads, device)
    place = devices[slot % len(devices)]
    try:
        return _open(_subject(config, models, threads, place), models)
    except DeviceError as error:
        if not allow_cpu_fallback:
            raise DeviceError(
                f"{config.source} is for {place}, which cannot be used: {error} (or serve "
                "on the CPU with --allow-cpu-fallback)"
            ) from error
        _LOG.warning(
            "%s: reading on the CPU, because %s cannot be used: %s", config.source, place, error
        )
        return _open(_subject(config, models, threads, "cpu"), models)


def find_plan(
    config: PipelineConfig, models: Path, threads: int | None = None, device: str | None = None
) -> Plan:
    """The plan that was made for these models, this machine and so many cores.

    device: cpu, gpu or gpu:0,1; default: what was built.
    Raises ConfigError, ModelError, DeviceError and PlanError, which names the command that makes
    one.
    """
    place = _devices(config, models, threads, device)[0]
    about = _subject(config, models, threads, place)
    return load_plan(models, about.key, pipeline=config.source)


def _open(about: Subject, models: Path) -> Pipeline:
    plan = load_plan(models, about.key, pipeline=about.config.source)
    engines = {}
    for section, part in about.parts.items():
        spec = plan.models[section].choice
        if spec.kind == "gpu":  # the plan was measured on one of several equal cards
            spec = replace(spec, device=about.device)
        engines[section] = _engine(models, part, plan, spec)
    choices = " ".join(str(engine.spec) for engine in engines.values())
    pipeline = replace(
        assemble(about.config, about.parts, engines, plan.cores),
        identity=f"{about.key} {choices}",
        plan=plan.summary(),
    )
    pipeline.warm({section: model.hot_shapes for section, model in plan.models.items()})
    return pipeline


def _engine(models: Path, part: Part, plan: Plan, spec: EngineSpec) -> Engine:
    if spec.backend == "tensorrt":
        graph = Contexts(models).find(part, spec)
    else:
        graph = Graphs(models).file(part, plan.quantised, spec)
    return open_fused(graph, spec, part.model)


def _devices(
    config: PipelineConfig, models: Path, threads: int | None, asked: str | None
) -> tuple[str, ...]:
    built = chosen_device(models, config, threads or usable_cores()) if asked is None else asked
    return parse_devices(built or "cpu")


def _subject(config: PipelineConfig, models: Path, threads: int | None, device: str) -> Subject:
    check_supported(config)
    return subject(config, models, threads or usable_cores(), device)
