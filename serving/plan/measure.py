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


def interleaved(
    works: Sequence[Work], *, repeats: int = 3, tick: Callable[[], object] = lambda: None
) -> list[list[float]]:
    """Milliseconds of each work: a median a round, the works in turn within every repeat.

    Each work runs once unmeasured first. `tick` is called after every call, for progress.
    """
    for work in works:
        work()
        tick()
    rounds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        times: list[list[float]] = [[] for _ in works]
        for _ in range(repeats):
            for place, work in enumerate(works):
                start = time.perf_counter()
                work()
                times[place].append((time.perf_counter() - start) * 1e3)
                tick()
        for place, found in enumerate(times):
            rounds[place].append(statistics.median(found))
    return rounds


def fastest(rounds: Sequence[Sequence[float]]) -> int:
    """Index of the winner; `rounds` are milliseconds by round, the simplest candidate first."""
    best = 0
    for challenger in range(1, len(rounds)):
        pairs = zip(rounds[challenger], rounds[best], strict=True)
        if all(new <= GAIN * old for new, old in pairs):
            best = challenger
    return best
