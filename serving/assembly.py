"""From a pipeline YAML and a folder of models to a pipeline that reads."""

from __future__ import annotations

from pathlib import Path

from serving.config.pipeline import PipelineConfig, load_config
from serving.config.supported import check_supported
from serving.engines.base import Engine
from serving.engines.factory import open_fused
from serving.machine import usable_cores
from serving.parts import Part, assemble
from serving.pipeline import Pipeline
from serving.plan.graphs import Graphs
from serving.plan.plan import Plan, load_plan
from serving.plan.subject import Subject, subject


def open_pipeline(
    yaml: str | Path, *, models: Path = Path("models"), threads: int | None = None
) -> Pipeline:
    """Load the pipeline of a YAML file on the engines that its plan chose, hot shapes warmed.

    threads: processor cores to use; default: all that this process may.
    Raises ConfigError, ModelError, PlanError (not built for this) and EngineError.
    """
    config = load_config(yaml)
    about = _subject(config, models, threads)
    plan = load_plan(models, about.key, pipeline=config.source)
    engines = {section: _open(Graphs(models), part, plan) for section, part in about.parts.items()}
    pipeline = assemble(config, about.parts, engines, plan.cores)
    pipeline.warm({section: model.hot_shapes for section, model in plan.models.items()})
    return pipeline


def _open(graphs: Graphs, part: Part, plan: Plan) -> Engine:
    spec = plan.models[part.section].choice
    return open_fused(graphs.file(part, plan.quantised, spec), spec, part.model)


def find_plan(config: PipelineConfig, models: Path, threads: int | None = None) -> Plan:
    """The plan that was made for these models, this machine and so many cores.

    Raises ConfigError, ModelError and PlanError, which names the command that makes one.
    """
    about = _subject(config, models, threads)
    return load_plan(models, about.key, pipeline=config.source)


def _subject(config: PipelineConfig, models: Path, threads: int | None) -> Subject:
    check_supported(config)
    return subject(config, models, threads or usable_cores())
