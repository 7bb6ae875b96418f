"""From a pipeline YAML and a folder of models to a pipeline that reads."""

from __future__ import annotations

from pathlib import Path

from serving.config.pipeline import PipelineConfig, load_config
from serving.config.supported import check_supported
from serving.engines.factory import open_engine
from serving.machine import usable_cores
from serving.parts import assemble, parts
from serving.pipeline import Pipeline
from serving.plan.build import plan_key
from serving.plan.candidates import candidates
from serving.plan.graphs import Graphs
from serving.plan.plan import Plan, load_plan


def open_pipeline(
    yaml: str | Path, *, models: Path = Path("models"), threads: int | None = None
) -> Pipeline:
    """Load the pipeline of a YAML file on the engines that its plan chose, hot shapes warmed.

    threads: processor cores to use; default: all that this process may.
    Raises ConfigError, ModelError, PlanError (not built for this) and EngineError.
    """
    config = load_config(yaml)
    plan = find_plan(config, models, threads)
    graphs = Graphs(models)
    found = {part.section: part for part in parts(config, models)}
    engines = {
        section: open_engine(graphs.find(part.folder, part.model), plan.models[section].choice)
        for section, part in found.items()
    }
    pipeline = assemble(config, found, engines, plan.cores)
    pipeline.warm({section: model.hot_shapes for section, model in plan.models.items()})
    return pipeline


def find_plan(config: PipelineConfig, models: Path, threads: int | None = None) -> Plan:
    """The plan that was made for these models, this machine and so many cores.

    Raises ConfigError, ModelError and PlanError, which names the command that makes one.
    """
    check_supported(config)
    cores = threads or usable_cores()
    found = {part.section: part for part in parts(config, models)}
    specs = {
        section: candidates(config.hpi(part.module), cores=cores) for section, part in found.items()
    }
    return load_plan(models, plan_key(config, found, specs, cores), pipeline=config.source)
