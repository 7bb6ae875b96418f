"""Does a GPU read as the processor does, and how much faster? `scripts/check_gpu.sh` runs this.

python -m benchmarks.devices PIPELINE.yaml [--device gpu:0] [--models DIR] [--images DIR]
Exit code 0 when all checks hold, 1 when one does not or something fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import corpus
from benchmarks.measure import median
from serving.errors import OcrError
from serving.imaging.source import load
from serving.machine import usable_cores
from serving.ocr.pipeline import Pipeline
from serving.ocr.scheduler import Scheduler
from serving.plan.load import open_pipeline
from serving.scores import Overlap, character_overlap
from serving.types import Page

Image = npt.NDArray[np.uint8]

_ROUNDS = 3
_LOSS = 0.003
"""Character F1 that the GPU may lose against the processor."""
_SCORE = 1e-2
"""By how much a line's score may differ between alone and in a crowd (float16; DESIGN 3)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class Speed:
    """`pages`: a second, with so many callers; `ms`: of a lone page."""

    callers: int
    pages: float
    ms: float


def check_device(
    first: Pipeline, second: Pipeline, rendered: Sequence[corpus.Sample], own: Sequence[Image]
) -> Iterator[Check]:
    """Hold the second pipeline, on the device in question, against the first."""
    engines = [str(part["engine"]["device"]) for part in second.to_dict().values()]
    yield Check(len(set(engines)) == 1, f"engines in force: {', '.join(engines)}")
    images = [*(sample.image for sample in rendered), *own]
    ours, theirs = ([pipeline.read(image) for image in images] for pipeline in (first, second))
    truth = [[line.text for line in sample.lines] for sample in rendered]
    base, other = (_f1(truth, pages) for pages in (ours, theirs))
    yield Check(
        other >= base - _LOSS, f"character F1 on rendered pages: {other:.4f}, processor {base:.4f}"
    )
    alike = _f1([_texts(page) for page in ours], theirs)
    yield Check(alike >= 0.98, f"characters that both read alike: {alike:.4f} (F1)")
    yield _alone_and_in_a_crowd(second, images, theirs)


def measure_speed(pipelines: Sequence[Pipeline], images: Sequence[Image]) -> list[Speed]:
    """Direct calls, the pipelines in turn; as many callers as cores, or as saturate a GPU."""
    counts = [max(4, usable_cores()) for _ in pipelines]
    lone: list[list[float]] = [[] for _ in pipelines]
    crowd: list[list[float]] = [[] for _ in pipelines]
    for _ in range(_ROUNDS):
        for place, pipeline in enumerate(pipelines):
            start = time.perf_counter()
            for image in images:
                pipeline.read(image)
            lone[place].append((time.perf_counter() - start) * 1e3 / len(images))
            callers = Scheduler(counts[place], name="caller")
            work = list(images) * 4
            start = time.perf_counter()
            callers.map(pipeline.read, work)
            crowd[place].append(len(work) / (time.perf_counter() - start))
            callers.close()
    return [
        Speed(count, median(pages), median(ms))
        for count, pages, ms in zip(counts, crowd, lone, strict=True)
    ]


def _alone_and_in_a_crowd(
    pipeline: Pipeline, images: Sequence[Image], alone: Sequence[Page]
) -> Check:
    callers = Scheduler(8, name="caller")
    crowd = callers.map(pipeline.read, list(images))
    callers.close()
    changed = sum(_texts(a) != _texts(b) for a, b in zip(alone, crowd, strict=True))
    gap = max(
        (
            abs(line.score - other.score)
            for a, b in zip(alone, crowd, strict=True)
            for line, other in zip(a.lines, b.lines, strict=False)
        ),
        default=0.0,
    )
    return Check(
        changed == 0 and gap <= _SCORE,
        f"alone and in a crowd: {changed} of {len(images)} pages differ, scores by {gap:.1e}",
    )


def _texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


def _f1(truth: Sequence[Sequence[str]], pages: Sequence[Page]) -> float:
    total = Overlap()
    for wanted, page in zip(truth, pages, strict=False):
        total += character_overlap(list(wanted), _texts(page))
    return total.f1


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, measure, print the verdict; the exit code."""
    parser = argparse.ArgumentParser(prog="check_gpu.sh", description=__doc__.partition("\n")[0])
    parser.add_argument("yaml", type=Path)
    parser.add_argument("--device", default="gpu:0")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--images", help="a folder of your own pages, beside the rendered ones")
    parser.add_argument("--pages", type=int, default=24, help="rendered pages")
    told = parser.parse_args(arguments)
    try:
        first, second = (
            open_pipeline(told.yaml, models=told.models, device=device)
            for device in ("cpu", told.device)
        )
        rendered = list(corpus.pages(seed=7, count=told.pages))
        own = [image for _, _, image in load(told.images)] if told.images else []
        checks = list(check_device(first, second, rendered, own))
        images = [*(sample.image for sample in rendered[:12]), *own]
        speeds = measure_speed((first, second), images)
        first.close()
        second.close()
    except OcrError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for check in checks:
        print(f"{'holds ' if check.holds else 'FAILS '} {check.text}")
    for name, speed in zip(("cpu", told.device), speeds, strict=True):
        print(
            f"{name}: {speed.pages:.1f} pages/s with {speed.callers} callers, "
            f"{speed.ms:.0f} ms a lone page"
        )
    print(f"{told.device} is {speeds[1].pages / speeds[0].pages:.2f} times as fast")
    good = all(check.holds for check in checks)
    print("verdict: it reads as the processor does" if good else "verdict: it does NOT hold")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
