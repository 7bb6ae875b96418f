"""Deployments of a made-up plan, for tests that measure nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving.config import PipelineConfig
from serving.devices import parse_devices
from serving.engines.base import EngineSpec
from serving.machine import share, usable_cores
from serving.models.files import digest
from serving.plan.build import plan_inputs
from serving.plan.graphs import Graphs
from serving.plan.plan import ModelPlan, Plan, find_plan, requirements, save_plan


def deploy_like_default(
    folder: Path, built: Path, default: PipelineConfig, *others: PipelineConfig
) -> None:
    """Make the folder a store of `built`'s models: the default pipeline has its measured plan, the
    others as `plan_like_default` has it.
    """
    (folder / "engines").mkdir()
    for source in (*built.iterdir(), *(built / "engines").iterdir()):
        if source.name not in ("engines", "plans", ".lock", ".staging"):
            (folder / source.relative_to(built)).symlink_to(source)
    save_plan(folder, default, usable_cores(), "cpu", find_plan(default, built))
    plan_like_default(folder, built, default, *others)


def plan_like_default(
    folder: Path, built: Path, default: PipelineConfig, *others: PipelineConfig
) -> None:
    """Give the others a plan in a folder of `deploy_like_default`'s, with the default's engines,
    and ONNX Runtime for a model of another kind, because measuring takes minutes.
    """
    cores, plan = usable_cores(), find_plan(default, built)
    inputs = [plan_inputs(other, built, cores).parts for other in others]
    for parts in inputs:
        for part in parts.values():
            Graphs(built).build(part.folder, part.model)
    for other, parts in zip(others, inputs, strict=True):
        choices = {
            section: _float32(plan.models[section].choice)
            if section in plan.models
            else EngineSpec("onnxruntime")
            for section in parts
        }
        planned = {
            section: ModelPlan(part.model.name, digest(part.folder), (), choices[section])
            for section, part in parts.items()
        }
        needs = requirements(other, parts, choices, cores, "cpu")
        same = replace(plan, key="other", models=planned, requirements=needs)
        save_plan(folder, other, cores, "cpu", same)


def _float32(choice: EngineSpec) -> EngineSpec:
    """In place of int8, which needs a graph that takes a minute to make."""
    return replace(choice, precision="float32") if choice.precision == "int8" else choice


def deploy_unwarmed(folder: Path, built: Path, config: PipelineConfig) -> None:
    """The same for this pipeline alone, with its measured plan less the shapes to warm up."""
    deploy_like_default(folder, built, config)
    warm_nothing(folder, config)


def warm_nothing(folder: Path, config: PipelineConfig) -> None:
    """Let the engines of a plan meet every shape with a page: warming them up takes a server as
    much CPU time as all the rest of its start.
    """
    plan = find_plan(config, folder)
    models = {name: replace(model, hot_shapes=()) for name, model in plan.models.items()}
    save_plan(folder, config, usable_cores(), "cpu", replace(plan, models=models))


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
