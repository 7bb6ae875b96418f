"""Does a GPU read what the CPU reads, and how much faster? scripts/check_gpu.sh runs this."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import corpus
from serving.machine import usable_cores
from serving.ocr.pipeline import Pipeline
from serving.ocr.scheduler import Scheduler
from serving.scores import Overlap, character_overlap
from serving.types import Image, Page

_ROUNDS = 3
_MAX_LOSS = 0.003
"""Character F1 that the GPU may lose against the CPU."""
_MIN_AGREEMENT = 0.98
"""Character F1 of the GPU's texts against the CPU's."""
_MAX_SCORE_GAP = 1e-2
"""How far a line's score may differ when other lines share its batch (float16)."""
_CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    passed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Throughput in pages/s with so many callers, and the latency in ms of a single request."""

    callers: int
    throughput: float
    latency: float


def check_device(
    cpu: Pipeline, device: Pipeline, rendered: Sequence[corpus.Sample], own: Sequence[Image]
) -> Iterator[Check]:
    """Compare the pipeline on the device with the one on the CPU."""
    engines = [str(stage["engine"]["device"]) for stage in device.to_dict().values()]
    yield Check(len(set(engines)) == 1, f"engines in force: {', '.join(engines)}")
    images = [*(sample.image for sample in rendered), *own]
    reference, pages = ([pipeline.read(image) for image in images] for pipeline in (cpu, device))
    truth = [[line.text for line in sample.lines] for sample in rendered]
    base, f1 = (_f1(truth, read[: len(truth)]) for read in (reference, pages))
    yield Check(f1 >= base - _MAX_LOSS, f"character F1 on rendered pages: {f1:.4f}, CPU {base:.4f}")
    agreement = _f1([_texts(page) for page in reference], pages)
    yield Check(
        agreement >= _MIN_AGREEMENT, f"agreement with the CPU: {agreement:.4f} (character F1)"
    )
    yield _check_concurrency(device, images, pages)


def _check_concurrency(pipeline: Pipeline, images: Sequence[Image], alone: Sequence[Page]) -> Check:
    """A line reads the same, whichever other lines share its batch."""
    callers = Scheduler(_CONCURRENCY, name="caller")
    together = callers.map(pipeline.read, list(images))
    callers.close()
    changed = sum(_texts(a) != _texts(b) for a, b in zip(alone, together, strict=True))
    gap = max(
        (
            abs(line.score - other.score)
            for a, b in zip(alone, together, strict=True)
            for line, other in zip(a.lines, b.lines, strict=False)
        ),
        default=0.0,
    )
    return Check(
        changed == 0 and gap <= _MAX_SCORE_GAP,
        f"single and concurrent requests: {changed} of {len(images)} pages differ, "
        f"scores by {gap:.1e}",
    )


def measure_speed(pipelines: Sequence[Pipeline], images: Sequence[Image]) -> list[Speed]:
    """Direct calls, the pipelines in turn; as many callers as cores, and at least 4."""
    callers = max(4, usable_cores())
    latency: list[list[float]] = [[] for _ in pipelines]
    throughput: list[list[float]] = [[] for _ in pipelines]
    work = list(images) * 4
    for _ in range(_ROUNDS):
        for index, pipeline in enumerate(pipelines):
            start = time.perf_counter()
            for image in images:
                pipeline.read(image)
            latency[index].append((time.perf_counter() - start) * 1e3 / len(images))
            pool = Scheduler(callers, name="caller")
            start = time.perf_counter()
            pool.map(pipeline.read, work)
            throughput[index].append(len(work) / (time.perf_counter() - start))
            pool.close()
    return [
        Speed(callers, float(np.median(rates)), float(np.median(ms)))
        for rates, ms in zip(throughput, latency, strict=True)
    ]


def _texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


def _f1(truth: Sequence[Sequence[str]], pages: Sequence[Page]) -> float:
    total = Overlap()
    for texts, page in zip(truth, pages, strict=True):
        total += character_overlap(list(texts), _texts(page))
    return total.f1
