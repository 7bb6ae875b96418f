"""The pipeline end to end on each combination of shortlisted engines.

Objective: most pages a second with as many callers as cores, among the combinations whose
latency for a lone page is at most 1.2 times the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack

from serving.config.pipeline import PipelineConfig
from serving.engines.base import EngineSpec
from serving.engines.factory import open_fused
from serving.models.pipeline_models import PipelineModel
from serving.ocr.pipeline import Pipeline, assemble
from serving.ocr.scheduler import Scheduler
from serving.plan.bench import spread
from serving.plan.calibration import Calibration
from serving.plan.graphs import GraphOf
from serving.plan.plan import Combination
from serving.plan.shapes import Shapes
from serving.plan.timing import Work, fastest, interleaved
from serving.types import Image

LATENCY = 1.2
"""Most that a lone page may take, against the best combination."""
_PAGES = 2


def measure_combinations(
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    graphs: Mapping[str, GraphOf],
    shortlist: Mapping[str, list[EngineSpec]],
    shapes: Mapping[str, Shapes],
    calibration: Calibration,
    cores: int,
) -> tuple[tuple[Combination, ...], dict[str, EngineSpec]]:
    """Every combination's figures, and the engines of the best one by section."""
    choices = [
        dict(zip(shortlist, specs, strict=True)) for specs in itertools.product(*shortlist.values())
    ]
    pages = whole_pages(calibration)
    with ExitStack() as stack:
        pipelines = []
        for choice in choices:
            engines = {
                section: open_fused(graphs[section](spec), spec, found[section].model)
                for section, spec in choice.items()
            }
            pipeline = assemble(config, found, engines, cores)
            stack.callback(pipeline.close)
            pipeline.warm(shapes)
            for page in pages:
                pipeline.read(page)
            pipelines.append(pipeline)
        callers = Scheduler(cores, name="caller")
        stack.callback(callers.close)
        lone = interleaved([_lone(pipeline, pages) for pipeline in pipelines], repeats=1)
        crowd = interleaved(
            [_crowd(pipeline, pages * cores, callers) for pipeline in pipelines], repeats=1
        )
    quickest = min(map(min, lone))
    bearable = [place for place, rounds in enumerate(lone) if min(rounds) <= LATENCY * quickest]
    best = bearable[fastest([crowd[place] for place in bearable])]
    combinations = tuple(
        Combination(
            engines={section: str(spec) for section, spec in choice.items()},
            pages_per_second=round(len(pages) * cores * 1e3 / min(crowd[place]), 3),
            latency_ms=round(min(lone[place]) / len(pages), 3),
            chosen=place == best,
        )
        for place, choice in enumerate(choices)
    )
    return combinations, choices[best]


def whole_pages(calibration: Calibration) -> list[Image]:
    """The pages that are read end to end, the user's before the rendered ones."""
    return spread((*calibration.own_pages, *calibration.pages), _PAGES)


def _lone(pipeline: Pipeline, pages: list[Image]) -> Work:
    return lambda: [pipeline.read(page) for page in pages]


def _crowd(pipeline: Pipeline, pages: list[Image], callers: Scheduler) -> Work:
    return lambda: callers.map(pipeline.read, pages)
