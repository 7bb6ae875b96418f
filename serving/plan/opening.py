"""From a plan to the pipeline that it is for, in one of the processes that serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from serving.config.pipeline import PipelineConfig
from serving.engines.base import Engine, EngineSpec
from serving.engines.factory import open_fused
from serving.machine import share
from serving.parts import Part, assemble
from serving.pipeline import Pipeline
from serving.plan.contexts import Contexts
from serving.plan.graphs import Graphs
from serving.plan.plan import Plan


def open_planned(
    config: PipelineConfig,
    found: Mapping[str, Part],
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


def _engine(models: Path, part: Part, plan: Plan, spec: EngineSpec) -> Engine:
    if spec.backend == "tensorrt":
        graph = Contexts(models).find(part, spec)
    else:
        graph = Graphs(models).file(part, plan.quantised, spec)
    return open_fused(graph, spec, part.model)
