"""The pipeline end to end on each combination of shortlisted engines.

Objective: the highest throughput with as many callers as cores, among the combinations whose
single-request latency is at most 1.2 times the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

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
from serving.plan.timing import Measure, fastest, race, timed
from serving.types import Image

MAX_LATENCY_RATIO = 1.2
"""Single-request latency over that of the best combination."""
_PAGES = 2
_MAX_SECONDS = 30.0
"""Of each of the two races: a run takes seconds."""


def measure_combinations(
    config: PipelineConfig,
    parts: Mapping[str, PipelineModel],
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
                section: open_fused(graphs[section](spec), spec, parts[section].model)
                for section, spec in choice.items()
            }
            pipeline = replace(assemble(config, parts, engines, cores), hot_shapes=shapes)
            stack.callback(pipeline.close)
            pipeline.warm()
            for page in pages:
                pipeline.read(page)
            pipelines.append(pipeline)
        callers = Scheduler(cores, name="caller")
        stack.callback(callers.close)
        single = race([_single(pipeline, pages) for pipeline in pipelines], _MAX_SECONDS)
        concurrent = race(
            [_concurrent(pipeline, pages * cores, callers) for pipeline in pipelines], _MAX_SECONDS
        )
    limit = MAX_LATENCY_RATIO * min(single.ms) * (1 + single.noise)  # noise excludes nobody
    eligible = [index for index, ms in enumerate(single.ms) if ms <= limit]
    best = eligible[fastest([concurrent.ms[index] for index in eligible])]
    combinations = tuple(
        Combination(
            engines={section: str(spec) for section, spec in choice.items()},
            pages_per_second=round(len(pages) * cores * 1e3 / concurrent.ms[index], 3),
            latency_ms=round(single.ms[index] / len(pages), 3),
            chosen=index == best,
            noise=concurrent.noise,
        )
        for index, choice in enumerate(choices)
    )
    return combinations, choices[best]


def whole_pages(calibration: Calibration) -> list[Image]:
    """The pages that are read end to end, the user's first."""
    return spread((*calibration.own_pages, *calibration.pages), _PAGES)


def _single(pipeline: Pipeline, pages: list[Image]) -> Measure:
    return timed(lambda: [pipeline.read(page) for page in pages])


def _concurrent(pipeline: Pipeline, pages: list[Image], callers: Scheduler) -> Measure:
    return timed(lambda: callers.map(pipeline.read, pages))
