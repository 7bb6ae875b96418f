"""Gives each image to every contender in turn, so that a noisy machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contender import Contender, Reading, Table
from serving.evaluate import LabelledPage

PAUSE = 0.3
"""Seconds between two contenders: OpenMP's threads spin for 0.2 s after a call, on all cores."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """How a contender read a page."""

    contender: str
    page: LabelledPage
    texts: tuple[str, ...]
    ms: float
    """The median of the rounds after the first; of a single round, that one."""
    first_ms: float
    """Of the first round, in which engines meet most shapes for the first time."""
    peak_mb: float
    table: Table = "same"


def measure(
    contenders: Sequence[Contender],
    pages: Sequence[LabelledPage],
    *,
    rounds: int = 1,
    warm_up: int = 2,
    pause: float = PAUSE,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Measurement]:
    """Reads every page by every contender, `rounds` times.

    Each reads the first `warm_up` pages of every set beforehand, unmeasured. The order of the
    contenders rotates from image to image. A contender keeps no page: a second round reads anew.
    """
    for page in warm_up_pages(pages, warm_up):
        for contender in contenders:
            contender.read(page.path)
    readings: dict[tuple[int, int], list[Reading]] = {}
    for turn in range(rounds * len(pages)):
        index = turn % len(pages)
        page = pages[index]
        tell(f"{turn + 1} of {rounds * len(pages)}: {page.group}/{page.path.name}")
        for step in range(len(contenders)):
            who = (turn + step) % len(contenders)
            readings.setdefault((who, index), []).append(contenders[who].read(page.path))
            time.sleep(pause)
    return [
        Measurement(
            contenders[who].name,
            pages[index],
            found[-1].texts,
            median([reading.ms for reading in found[1:] or found]),
            found[0].ms,
            max(reading.peak_mb for reading in found),
            contenders[who].table,
        )
        for (who, index), found in sorted(readings.items())
    ]


def warm_up_pages(pages: Sequence[LabelledPage], count: int) -> list[LabelledPage]:
    """The first `count` pages of every set."""
    groups = dict.fromkeys(page.group for page in pages)
    return [
        page
        for group in groups
        for page in [other for other in pages if other.group == group][:count]
    ]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
