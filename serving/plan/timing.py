"""Racing candidates against one another on a noisy machine, and choosing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[], float]
"""Runs a candidate's work once and returns the milliseconds that count."""

GAIN = 0.95
"""A candidate displaces a simpler one only when it takes at most this share of its time."""
_CONTENDER = 3.0
"""Who takes up to so many times the shortest time may still win, and runs in every round."""
_MIN_RUNS, _MIN_SECONDS, _MAX_SECONDS = 5, 2.0, 12.0
"""Of a race: a shorter one may lie within one burst of other load, and none goes on for ever."""
_QUIET_RUNS = 3
"""Fewest runs while all runs of each candidate differ by no more than GAIN."""


@dataclass(frozen=True, slots=True)
class Race:
    """The result of a race. Candidates are in the order given, the simplest first."""

    winner: int
    ms: tuple[float, ...]
    """Shortest time of each: other load on the machine only adds."""
    noise: float = 0.0
    """By how much runs of the same work differ, where that left the race open; else 0."""


def race(
    candidates: Sequence[Measure],
    max_seconds: float = _MAX_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Race:
    """Run warm candidates in turn until the difference is larger than the noise.

    The noise is by how much the shortest quarter of the runs of one candidate differ, for those
    that may still win. Others pause after one run, and run twice more at the end: who was only hit
    by a burst comes back into the race.
    """
    start = clock()
    times = [[measure()] for measure in candidates]
    while True:
        contenders = _contenders(times)
        for index in contenders:
            times[index].append(candidates[index]())
        seconds = clock() - start
        quiet = all(GAIN * max(runs) <= min(runs) for runs in times)
        min_runs = _QUIET_RUNS if quiet else _MIN_RUNS
        few = seconds < _MIN_SECONDS or min(len(times[i]) for i in contenders) < min_runs
        if seconds < max_seconds and len(candidates) > 1 and (few or _judge(times).noise):
            continue
        others = set(range(len(candidates))).difference(contenders)
        for index in (*others, *others):
            times[index].append(candidates[index]())
        if seconds >= max_seconds or not others.intersection(_contenders(times)):
            return _judge(times)


def timed(work: Callable[[], object]) -> Measure:
    """Measures one run of `work`."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    return measure


def fastest(ms: Sequence[float]) -> int:
    """Index of the winner. ms: by candidate, the simplest first."""
    best = 0
    for challenger in range(1, len(ms)):
        if ms[challenger] <= GAIN * ms[best]:
            best = challenger
    return best


def _contenders(times: Sequence[Sequence[float]]) -> list[int]:
    limit = _CONTENDER * min(map(min, times))
    return [index for index, runs in enumerate(times) if min(runs) <= limit]


def _judge(times: Sequence[Sequence[float]]) -> Race:
    """The race so far. It is open while noise of more than 5 % may hide another winner."""
    ms = tuple(map(min, times))
    winner = fastest(ms)
    noises = {index: _noise(times[index]) for index in _contenders(times)}
    undisturbed = [time / (1 + noises.get(index, 0.0)) for index, time in enumerate(ms)]
    undisturbed[winner] = ms[winner]
    noise = max(noises.values(), default=0.0)
    closed = noise <= 1 - GAIN or fastest(undisturbed) == winner
    return Race(winner, ms, 0.0 if closed else round(noise, 3))


def _noise(runs: Sequence[float]) -> float:
    """By how much the shortest quarter of the runs, two at least, differ."""
    return sorted(runs)[max(1, len(runs) // 4)] / min(runs) - 1
