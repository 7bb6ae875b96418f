"""Timing candidates against one another on a noisy machine, and choosing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Work = Callable[[], object]

GAIN = 0.95
"""A candidate displaces a simpler one only when it takes at most this share of its time ..."""
ROUNDS = 2
"""... in each of the interleaved rounds."""
SLOWER = 1.2
"""A candidate whose first time is this multiple of a simpler one's is not judged."""
_HOPELESS = 1.5
"""A work whose first time is this multiple of the quickest one's is not repeated."""


def interleaved(works: Sequence[Work], *, repeats: int = 3) -> list[list[float]]:
    """Milliseconds of each work by round, the median of its repeats; works alternate.

    The works are warm. Each runs once first: a hopeless one keeps that time for every round.
    """
    first = [milliseconds(work) for work in works]
    limit = _HOPELESS * min(first)
    remaining = [index for index, ms in enumerate(first) if ms <= limit]
    rounds = [[ms] * ROUNDS for ms in first]
    for number in range(ROUNDS):
        times: dict[int, list[float]] = {index: [] for index in remaining}
        for _ in range(repeats):
            for index in remaining:
                times[index].append(milliseconds(works[index]))
        for index, measured in times.items():
            rounds[index][number] = statistics.median(measured)
    return rounds


def milliseconds(work: Work) -> float:
    """Of one run."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def fastest(rounds: Sequence[Sequence[float]]) -> int:
    """Index of the winner. rounds: milliseconds by candidate, the simplest first, and round."""
    best = 0
    for challenger in range(1, len(rounds)):
        pairs = zip(rounds[challenger], rounds[best], strict=True)
        if all(new <= GAIN * old for new, old in pairs):
            best = challenger
    return best
