"""Pages a second of one process that several callers use at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contender import Contender, Crowd
from benchmarks.measure import PAUSE, Measurement
from serving.errors import EngineError
from serving.evaluate import LabelledPage


@dataclass(frozen=True, slots=True)
class Throughput:
    """One contender with so many callers on one set.

    `differing`: pages that did not read as they do alone. `failed`: why there is no figure.
    """

    group: str
    contender: str
    callers: int
    pages_per_second: float
    differing: int
    failed: str = ""


def throughput(
    contenders: Sequence[Contender],
    pages: Sequence[LabelledPage],
    alone: Sequence[Measurement],
    callers: Sequence[int],
    *,
    pause: float = PAUSE,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Throughput]:
    """Every set by every contender in turn. alone: how each of them read the pages before.

    A contender that dies of it is not asked again.
    """
    texts = {(m.contender, m.page.path): m.texts for m in alone}
    dead: dict[str, str] = {}
    found = []
    for group in dict.fromkeys(page.group for page in pages):
        members = [page for page in pages if page.group == group]
        for count in callers:
            for contender in contenders:
                tell(f"{count} callers: {contender.name}, {group}")
                crowd = _crowd(contender, members, count, dead)
                expected = [texts[contender.name, page.path] for page in members]
                found.append(_result(group, contender.name, count, crowd, expected))
                time.sleep(pause)
    return found


def _crowd(
    contender: Contender, pages: Sequence[LabelledPage], callers: int, dead: dict[str, str]
) -> Crowd:
    if contender.name not in dead:
        try:
            return contender.read_at_once([page.path for page in pages], callers)
        except EngineError as error:
            dead[contender.name] = str(error)
    return Crowd((), 0.0, dead[contender.name])


def _result(
    group: str, name: str, callers: int, crowd: Crowd, expected: Sequence[tuple[str, ...]]
) -> Throughput:
    if crowd.failed:
        return Throughput(group, name, callers, 0.0, 0, crowd.failed)
    differing = sum(a != b for a, b in zip(crowd.texts, expected, strict=True))
    return Throughput(group, name, callers, len(expected) * 1e3 / crowd.ms, differing)
