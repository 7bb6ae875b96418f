"""What a phase of load showed: pages a second, latencies, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OK = 200
REFUSED = 429


@dataclass(frozen=True, slots=True)
class Closed:
    """Callers that send anew when they were answered. Latencies in ms, from sending to answer."""

    who: str
    clients: int
    pages_s: float
    median: float | None = None
    p95: float | None = None
    p99: float | None = None
    failed: int = 0
    """Answers other than 200, or none."""
    generator_cores: float | None = None
    """Cores that the load generator took."""


@dataclass(frozen=True, slots=True)
class Open:
    """Requests at a fixed rate, answered or not. Latencies in ms."""

    who: str
    rate: float
    seconds: float
    goodput: float
    """Pages read a second, within those seconds."""
    accepted: int
    accepted_p50: float | None
    accepted_p99: float | None
    """From when a request had to go out to its answer."""
    refused: int
    refused_p50: float | None
    refused_p99: float | None
    """From the body's last byte to the answer."""
    failed: int
    generator_cores: float
    memory: tuple[float, ...]
    """MiB of the server before, in the middle and after."""


def closed(who: str, clients: int, seconds: float, answer: dict[str, Any]) -> Closed:
    """From what the load generator answered."""
    calls = np.asarray(answer["calls"], float).reshape(-1, 4)
    good = calls[calls[:, 3] == OK]
    times = (good[:, 2] - good[:, 0]) * 1e3
    return Closed(
        who,
        clients,
        pages_a_second(good[:, 2].tolist(), seconds, answer["lap"]),
        _percentile(times, 50),
        _percentile(times, 95),
        _percentile(times, 99),
        len(calls) - len(good),
        answer["cpu"] / answer["wall"],
    )


def opened(
    who: str, rate: float, seconds: float, answer: dict[str, Any], memory: Sequence[float]
) -> Open:
    """From what the load generator answered."""
    calls = np.asarray(answer["calls"], float).reshape(-1, 4)
    good, refused = calls[calls[:, 3] == OK], calls[calls[:, 3] == REFUSED]
    waited = (good[:, 2] - good[:, 0]) * 1e3
    told = np.maximum(0.0, refused[:, 2] - refused[:, 1]) * 1e3
    return Open(
        who=who,
        rate=rate,
        seconds=seconds,
        goodput=float((good[:, 2] <= seconds).sum() / seconds),
        accepted=len(good),
        accepted_p50=_percentile(waited, 50),
        accepted_p99=_percentile(waited, 99),
        refused=len(refused),
        refused_p50=_percentile(told, 50),
        refused_p99=_percentile(told, 99),
        failed=len(calls) - len(good) - len(refused),
        generator_cores=answer["cpu"] / answer["wall"],
        memory=tuple(memory),
    )


def pages_a_second(done: Sequence[float], seconds: float, lap: int = 1) -> float:
    """From the first page done to the last one within `seconds`, in whole laps of `lap` pages.

    Before the first and after the last there is less in work than meant. Pages differ: part of a
    lap may be easier than the whole. Where those seconds were too short for a lap: what there is;
    for two pages: all pages, over the time to the last one.
    """
    times = sorted(time for time in done if time <= seconds)
    laps = (len(times) - 1) // lap
    last = laps * lap if laps > 0 else len(times) - 1
    if last < 1 or times[last] <= times[0]:
        return len(done) / max(done) if done else 0.0
    return last / (times[last] - times[0])


def together(rounds: Sequence[Closed]) -> Closed:
    """Several rounds of one phase: their medians; failures add up."""

    def middle(name: str) -> Any:
        values = [value for found in rounds if (value := getattr(found, name)) is not None]
        return float(np.median(values)) if values else None

    names = ("pages_s", "median", "p95", "p99", "generator_cores")
    return Closed(
        rounds[0].who,
        rounds[0].clients,
        failed=sum(found.failed for found in rounds),
        **{name: middle(name) for name in names},
    )


def _percentile(values: Any, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
