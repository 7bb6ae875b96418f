"""The pipeline end to end on each combination of shortlisted engines.

Objective: the highest throughput with as many callers as cores, among the combinations whose
single-request latency is at most 1.2 times the best, of whole pages and of a small picture: of
several streams all read the lines of a page, but one alone, on its share of the cores, finds them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from serving.config.pipeline import PipelineConfig
from serving.engines.base import EngineSpec
from serving.engines.factory import open_fused
from serving.imaging.resize import resize
from serving.models.pipeline_models import PipelineModel
from serving.ocr.pipeline import Pipeline, assemble
from serving.ocr.scheduler import Scheduler
from serving.plan.bench import spread
from serving.plan.calibration import Calibration
from serving.plan.graphs import GraphOf
from serving.plan.plan import Combination
from serving.plan.shapes import hot_shapes
from serving.plan.timing import GAIN, Measure, Race, fastest, race, timed
from serving.types import Image

MAX_LATENCY_RATIO = 1.2
"""Single-request latency over that of the best combination."""
_PAGES = 2
_SMALL, _LINES, _LINE_HEIGHT = 560, 9, 32
"""The small picture, about as those on the web: side, lines, and their height, in pixels."""
_MAX_SECONDS = 20.0
"""Of the race that decides: a run takes a second or two. Latencies only have to keep a bound."""


def measure_combinations(
    config: PipelineConfig,
    parts: Mapping[str, PipelineModel],
    graphs: Mapping[str, GraphOf],
    shortlist: Mapping[str, list[EngineSpec]],
    calibration: Calibration,
    cores: int,
) -> tuple[tuple[Combination, ...], dict[str, EngineSpec]]:
    """Every combination's figures, and the engines of the best one by section."""
    choices = [
        dict(zip(shortlist, specs, strict=True)) for specs in itertools.product(*shortlist.values())
    ]
    page, picture = whole_pages(calibration)[0], small_picture(calibration)
    with ExitStack() as stack:
        pipelines = []
        for choice in choices:
            engines = {
                section: open_fused(graphs[section](spec), spec, parts[section].model)
                for section, spec in choice.items()
            }
            shapes = {
                section: hot_shapes(parts[section], calibration, spec)
                for section, spec in choice.items()
            }
            pipeline = replace(assemble(config, parts, engines, cores), hot_shapes=shapes)
            stack.callback(pipeline.close)
            pipeline.warm()
            for image in (page, picture):  # whose sizes may not be among the hot ones
                pipeline.read(image)
            pipelines.append(pipeline)
        callers = Scheduler(cores, name="caller")
        stack.callback(callers.close)
        single = race([_single(pipeline, page) for pipeline in pipelines])
        small = race([_single(pipeline, picture) for pipeline in pipelines])
        concurrent = race(
            [_concurrent(pipeline, [page] * cores, callers) for pipeline in pipelines],
            _MAX_SECONDS,
        )
    best = best_combination([single, small], concurrent.ms)
    combinations = tuple(
        Combination(
            engines={section: str(spec) for section, spec in choice.items()},
            pages_per_second=round(cores * 1e3 / concurrent.ms[index], 3),
            latency_ms=round(single.ms[index], 3),
            small_latency_ms=round(small.ms[index], 3),
            chosen=index == best,
            noise=concurrent.noise,
        )
        for index, choice in enumerate(choices)
    )
    return combinations, choices[best]


def whole_pages(calibration: Calibration) -> list[Image]:
    """The pages that are read end to end, the user's first."""
    return spread((*calibration.own_pages, *calibration.pages), _PAGES)


def small_picture(calibration: Calibration) -> Image:
    """A few lines of the calibration set, one below the other."""
    picture = np.full((_SMALL, _SMALL, 3), 255, np.uint8)
    for row, line in enumerate(spread(calibration.crops, _LINES)):
        width = min(_SMALL, _LINE_HEIGHT * line.shape[1] // line.shape[0])
        top = (2 * row + 1) * _SMALL // (2 * _LINES) - _LINE_HEIGHT // 2
        picture[top : top + _LINE_HEIGHT, :width] = resize(line, _LINE_HEIGHT, width)
    return picture


def best_combination(latencies: Sequence[Race], concurrent_ms: Sequence[float]) -> int:
    """Index of the one with the highest throughput of those whose every latency is in bounds.

    Of those whose throughput is less than 5 % lower, the one with the lowest latency.
    """
    ratios = [
        # Noise excludes nobody.
        max(race.ms[index] / (min(race.ms) * (1 + race.noise)) for race in latencies)
        for index in range(len(concurrent_ms))
    ]
    limit = max(MAX_LATENCY_RATIO, min(ratios))  # each may be too slow somewhere
    eligible = [index for index, ratio in enumerate(ratios) if ratio <= limit]
    best = min(concurrent_ms[index] for index in eligible)
    close = [index for index in eligible if GAIN * concurrent_ms[index] <= best]
    return close[fastest([ratios[index] for index in close])]


def _single(pipeline: Pipeline, page: Image) -> Measure:
    return timed(lambda: pipeline.read(page))


def _concurrent(pipeline: Pipeline, pages: list[Image], callers: Scheduler) -> Measure:
    return timed(lambda: callers.map(pipeline.read, pages))
