"""Timing candidates against one another on a noisy machine, and choosing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Work = Callable[[], object]

GAIN = 0.95
"""A candidate displaces a simpler one only when it takes at most this share of its time ..."""
ROUNDS = 2
"""... in each of so many interleaved rounds."""


SLOWER = 1.2
"""A candidate that takes so many times a simpler one's time when first measured is out."""
HOPELESS = 1.5
"""A work that takes so many times the quickest one's time when first measured is not repeated."""


def interleaved(works: Sequence[Work], *, repeats: int = 3) -> list[list[float]]:
    """Milliseconds of each work: a median a round, the works in turn within every repeat.

    The works are warm. Each runs once to drop the hopeless, whose one figure stands for every
    round.
    """
    first = [milliseconds(work) for work in works]
    limit = HOPELESS * min(first)
    racing = [place for place, spent in enumerate(first) if spent <= limit]
    rounds: list[list[float]] = [[spent] * ROUNDS for spent in first]
    for turn in range(ROUNDS):
        times: dict[int, list[float]] = {place: [] for place in racing}
        for _ in range(repeats):
            for place in racing:
                times[place].append(milliseconds(works[place]))
        for place, found in times.items():
            rounds[place][turn] = statistics.median(found)
    return rounds


def milliseconds(work: Work) -> float:
    """One run of a work."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def fastest(rounds: Sequence[Sequence[float]]) -> int:
    """Index of the winner; `rounds` are milliseconds by round, the simplest candidate first."""
    best = 0
    for challenger in range(1, len(rounds)):
        pairs = zip(rounds[challenger], rounds[best], strict=True)
        if all(new <= GAIN * old for new, old in pairs):
            best = challenger
    return best
