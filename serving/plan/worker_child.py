"""One of several worker processes that are measured together. Run by crew.py as a module.

Speaks JSON lines. The first question says what to open: {"config", "source", "plan", "models",
"device", "workers", "pages": [FILE.npy, ...]}; then {"seconds": S} is answered by
{"pages_per_second"} of as many callers as the process has cores, and {} by {"latency_ms"} of a lone
page. Every answer has {"memory"}: bytes at most so far.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from serving.child import Parent
from serving.config.pipeline import PipelineConfig
from serving.machine import peak_memory, share
from serving.parts import parts
from serving.pipeline import Image, Pipeline
from serving.plan.opening import open_planned
from serving.plan.plan import Plan


def main() -> None:
    """Answers until the parent ends."""
    parent = Parent()
    questions = parent.questions()
    told = next(questions)
    plan = Plan.from_plain(told["plan"])
    pages = [np.load(path) for path in told["pages"]]
    pipeline = _open(told, plan)
    for page in pages:
        pipeline.read(page)
    callers = share(plan.cores, told["workers"])
    parent.answer(memory=peak_memory())
    for asked in questions:
        if "seconds" in asked:
            found = {"pages_per_second": _crowd(pipeline, pages, callers, asked["seconds"])}
        else:
            found = {"latency_ms": _lone(pipeline, pages)}
        parent.answer(**found, memory=peak_memory())


def _open(told: dict[str, Any], plan: Plan) -> Pipeline:
    config = PipelineConfig.model_validate({**told["config"], "source": told["source"]})
    models = Path(told["models"])
    found = {part.section: part for part in parts(config, models)}
    return open_planned(
        config, found, plan, models=models, device=told["device"], workers=told["workers"]
    )


def _crowd(pipeline: Pipeline, pages: Sequence[Image], callers: int, seconds: float) -> float:
    """Pages a second of so many callers, each of which goes on for so long."""
    numbers = itertools.count()

    def call(_: int) -> float:
        start, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            pipeline.read(pages[next(numbers) % len(pages)])
            done += 1
        return done / spent

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(call, range(callers)))


def _lone(pipeline: Pipeline, pages: Sequence[Image]) -> float:
    start = time.perf_counter()
    for page in pages:
        pipeline.read(page)
    return (time.perf_counter() - start) * 1e3 / len(pages)


if __name__ == "__main__":
    main()
