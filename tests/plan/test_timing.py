"""Races on a machine that others use too, with a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from serving.plan.timing import GAIN, Race, fastest, race

Slow = Callable[[random.Random, int, float], float]
"""By how much a run is slowed: by candidate and by the seconds since the start."""


def run(ms: list[float], slow: Slow, seed: int) -> Race:
    """A race of candidates that take so many ms on a quiet machine."""
    rng, now = random.Random(seed), 0.0

    def measure(index: int) -> float:
        nonlocal now
        took = ms[index] * (1 + abs(rng.gauss(0, 0.01))) * slow(rng, index, now)
        now += took / 1e3
        return took

    candidates = [lambda index=index: measure(index) for index in range(len(ms))]
    return race(candidates, clock=lambda: now)


def quiet(rng: random.Random, index: int, now: float) -> float:
    return 1.0


def other_load(rng: random.Random, index: int, now: float) -> float:
    """Every second run is slowed, by up to four times."""
    return 1.0 if rng.random() < 0.5 else rng.uniform(1.0, 4.0)


def machine_slow_for_a_while(rng: random.Random, index: int, now: float) -> float:
    """A second in which whoever runs takes up to three times as long."""
    return rng.uniform(1.2, 3.0) if now < 1 else 1.0


def on_one(victim: int, seconds: float) -> Slow:
    """One candidate alone is slowed for a while."""
    return lambda rng, index, now: 3.0 if index == victim and now < seconds else 1.0


def one_at_random(victim: int) -> Slow:
    """One candidate alone is slowed, in half of its runs."""
    return lambda rng, index, now: (
        rng.uniform(1.2, 4.0) if index == victim and rng.random() < 0.5 else 1.0
    )


RIVALS = [[400.0, 370.0, 220.0, 178.0], [213.0, 150.0], [100.0, 50.0, 45.0, 130.0], [30.0, 25.0]]
NOISES = [
    quiet,
    other_load,
    machine_slow_for_a_while,
    *(on_one(victim, 1.0) for victim in range(4)),
    *(one_at_random(victim) for victim in range(4)),
]


@pytest.mark.parametrize("ms", RIVALS)
@pytest.mark.parametrize("slow", NOISES)
def test_noise_does_not_choose_the_engine(ms: list[float], slow: Slow) -> None:
    winner = ms.index(min(ms))
    chosen = [run(ms, slow, seed).winner for seed in range(100)]
    assert chosen.count(winner) >= 95


@pytest.mark.parametrize("slow", NOISES)
def test_of_two_within_5_percent_the_simpler_one_stays(slow: Slow) -> None:
    chosen = [run([100.0, 98.5, 160.0], slow, seed).winner for seed in range(100)]
    assert chosen.count(0) >= 95


def test_a_quiet_race_is_short_and_without_noise() -> None:
    calls: list[int] = []

    def count(rng: random.Random, index: int, now: float) -> float:
        calls.append(index)
        return 1.0

    assert run([600.0, 500.0, 2000.0], count, seed=0).noise == 0
    assert [calls.count(index) for index in range(3)] == [3, 3, 3]


def test_noise_that_leaves_the_race_open_is_told() -> None:
    """Slower and slower: no time is ever reached twice."""
    result = run([100.0, 85.0], lambda rng, index, now: 1 + now / 4, seed=0)
    assert result.noise > 0.1
    assert run([100.0, 20.0], lambda rng, index, now: 1 + now / 4, seed=0).noise == 0


@pytest.mark.parametrize(
    ("ms", "winner"),
    [([10, 9.6], 0), ([10, 9.5], 1), ([10, 9, 8.8], 1), ([10, 9, 8], 2), ([10, 9.6, 9.2], 2)],
)
def test_a_candidate_displaces_a_simpler_one_only_when_clearly_faster(
    ms: list[float], winner: int
) -> None:
    assert GAIN == 0.95
    assert fastest(ms) == winner
