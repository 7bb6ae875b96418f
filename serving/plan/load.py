"""From a parsed pipeline YAML to a pipeline on the engines that its plan chose."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from serving.config.pipeline import PipelineConfig
from serving.devices import check_alike, parse_devices
from serving.engines.base import Engine, EngineSpec, OnBatch
from serving.engines.factory import open_fused
from serving.errors import DeviceError
from serving.machine import share, usable_cores
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.ocr.pipeline import Pipeline, assemble
from serving.plan.graphs import Graphs
from serving.plan.plan import Plan, check_requirements, read_deployment

_LOG = logging.getLogger(__name__)


def open_pipeline(
    config: PipelineConfig,
    *,
    models: Path = Path("models"),
    threads: int | None = None,
    device: str | None = None,
    slot: int = 0,
    workers: int = 1,
    on_batch: OnBatch | None = None,
    allow_cpu_fallback: bool = False,
    warm: bool = True,
) -> Pipeline:
    """Load a pipeline on the engines that its plan chose.

    threads: CPU cores of the plan; default: all that this process may use.
    device: cpu, gpu or gpu:0,1; default: the one that was built for.
    workers: processes that share cores and GPUs, of which this is number `slot`.
    on_batch: observer of calls that take lines: the section of the YAML and the number of lines;
    called from any thread.
    warm: whether to warm its hot shapes; on a GPU, where that takes long, they always are.
    Raises ConfigError, ModelError, PlanError (not built, or something has changed since),
    EngineError, and DeviceError where the GPU cannot be used, unless `allow_cpu_fallback`: then
    the CPU's plan is used.
    """
    deployment = read_deployment(models, config, threads or usable_cores())
    devices = parse_devices(device or deployment.device)
    own = devices[slot % len(devices)]
    if workers < len(devices):
        idle = config.source, ", ".join(devices), workers
        _LOG.warning("%s is for %s; with --workers %d some of these are idle", *idle)
    found = {part.section: part for part in pipeline_models(config, models)}

    def open_on(target: str, own: str, workers: int) -> Pipeline:
        plan = deployment.plan(target, device)
        check_requirements(plan, config, found, own, deployment.command(device))
        if slot == 0 and (warning := plan.warning(deployment.command(device))):
            _LOG.warning("%s: %s", config.source, warning)
        graphs = Graphs(models, deployment.command(device))
        return open_planned(config, found, plan, graphs, own, workers, on_batch, warm=warm)

    try:
        check_alike(devices)
        each = math.ceil(workers / len(devices))
        return open_on(device or deployment.device, own, each)
    except DeviceError as error:
        if not allow_cpu_fallback:
            raise DeviceError(
                f"{config.source} is for {own}, which cannot be used: {error} (or serve "
                "on the CPU with --allow-cpu-fallback)"
            ) from error
        _LOG.warning(
            "%s: reading on the CPU, because %s cannot be used: %s", config.source, own, error
        )
        device = "cpu"
        return open_on("cpu", "cpu", workers)


def open_planned(
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    plan: Plan,
    graphs: Graphs,
    device: str,
    workers: int = 1,
    on_batch: OnBatch | None = None,
    *,
    warm: bool = True,
) -> Pipeline:
    """The pipeline on the engines that its plan chose.

    found: its models, by section of the YAML. device: cpu or gpu:N. workers: processes that share
    the plan's cores; this is one of them. warm: see `open_pipeline`.
    Raises PlanError where an engine is not built or damaged, EngineError and DeviceError.
    """
    engines: dict[str, Engine] = {}
    for section, (spec, graph) in _engines(found, plan, graphs, device, workers).items():
        reads_lines = section in ("TextLineOrientation", "TextRecognition")
        observer = partial(on_batch, section) if on_batch and reads_lines else None
        engines[section] = open_fused(graph, spec, found[section].model, observer)
    choices = " ".join(str(model.choice) for model in plan.models.values())
    pipeline = replace(
        assemble(config, found, engines, share(plan.cores, workers)),
        identity=f"{plan.key} {choices}",
        plan=plan.summary(),
        hot_shapes={section: model.hot_shapes for section, model in plan.models.items()},
    )
    if warm or device != "cpu":
        pipeline.warm()
    return pipeline


def check_plan(
    config: PipelineConfig, models: Path, threads: int | None, device: str | None
) -> None:
    """Check, without loading, that the plan holds and that all that its engines load is there.

    Arguments as of `open_pipeline`. Raises PlanError, ModelError and DeviceError.
    """
    deployment = read_deployment(models, config, threads or usable_cores())
    devices = parse_devices(device or deployment.device)
    plan = deployment.plan(device or deployment.device, device)
    check_alike(devices)
    found = {part.section: part for part in pipeline_models(config, models)}
    check_requirements(plan, config, found, devices[0], deployment.command(device))
    _engines(found, plan, Graphs(models, deployment.command(device)), devices[0])


def _engines(
    found: Mapping[str, PipelineModel], plan: Plan, graphs: Graphs, device: str, workers: int = 1
) -> dict[str, tuple[EngineSpec, Path]]:
    """The engines on `device` and what each loads, by section. Raises PlanError."""
    engines = {}
    for section, part in found.items():
        spec = plan.models[section].choice.shared(workers)
        if spec.kind == "gpu":  # the plan was measured on one of several equal cards
            spec = replace(spec, device=device)
        engines[section] = spec, graphs.file(part, spec)
    return engines
