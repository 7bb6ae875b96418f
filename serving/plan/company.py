"""Short lines in calls of several: is that faster here, and does each still read the same?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from serving.batching import FairPool
from serving.engines.base import Engine, EngineSpec
from serving.plan.calibration import Image
from serving.plan.measure import GAIN, interleaved
from serving.plan.plan import Company

MOST = 4
"""Lines of one call, where it pays: 8 of 96 pixels gain 6 % over 4, and each number is a shape."""


def pays(company: Company) -> bool:
    """Whether lines shall be read together."""
    return company.same and company.times is not None and company.times <= GAIN


def measure_company(engine: Engine, lines: Sequence[Image], most: int = MOST) -> Company | None:
    """How the engine reads short lines, at most so many a call; None where too few are short.

    lines: (H, W, 3) uint8 as the recogniser fits them. Raises EngineError where it takes but one.
    """
    groups = _groups(lines, replace(engine.spec, batch=most))
    if not groups:
        return None
    one_by_one = [line[None] for group in groups for line in group]
    together = [np.stack(group) for group in groups]
    with closing(FairPool(engine.spec.streams, name="company")) as pool:
        pool.everywhere(lambda: [engine.run(call) for call in (*one_by_one, *together)])
        alone, grouped = interleaved(
            [lambda: pool.map(engine.run, one_by_one), lambda: pool.map(engine.run, together)]
        )
    times = max(new / old for new, old in zip(grouped, alone, strict=True))
    return Company(round(times, 3), all(_reads_the_same(engine, group) for group in groups))


def _groups(lines: Sequence[Image], spec: EngineSpec) -> list[list[Image]]:
    """One call of lines for every width of which several go together."""
    by_width: defaultdict[int, list[Image]] = defaultdict(list)
    for line in lines:
        by_width[line.shape[1]].append(line)
    groups = []
    for width, alike in sorted(by_width.items()):
        most = min(spec.together(width), len(alike))
        groups.append(alike[: 1 << (most.bit_length() - 1)])
    return [group for group in groups if len(group) > 1]


def _reads_the_same(engine: Engine, group: Sequence[Image]) -> bool:
    """In every number of them that a call may have."""
    alone = [engine.run(line[None]) for line in group]
    for step in range(1, len(group).bit_length()):
        ones = map(np.concatenate, zip(*alone[: 2**step], strict=True))
        together = engine.run(np.stack(group[: 2**step]))
        if not all(map(np.array_equal, ones, together)):
            return False
    return True
