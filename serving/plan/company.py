"""Short lines in calls of several: is that faster here, and does each still read the same?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.batching import FairPool
from serving.config.model import RecognitionModel
from serving.engines.base import Engine, EngineSpec, batch_sizes
from serving.engines.factory import open_fused
from serving.errors import EngineError
from serving.parts import Part
from serving.plan.calibration import Calibration, Image
from serving.plan.graphs import GraphOf
from serving.plan.measure import GAIN, interleaved
from serving.plan.plan import Company
from serving.stages.recognise import Recogniser

MOST = 4
"""Lines of one call, where it pays: 8 of 96 pixels gain 6 % over 4, and each number is a shape."""


def pays(company: Company) -> bool:
    """Whether lines shall be read together."""
    return company.same and company.times is not None and company.times <= GAIN


def lines_together(
    part: Part,
    specs: Sequence[EngineSpec],
    asked: int | None,
    graph: GraphOf,
    calibration: Calibration,
) -> list[tuple[EngineSpec, Company | None]]:
    """A recogniser's engines, each given as many short lines a call as pay, and how it reads them.

    asked: lines of one call that the YAML says; None: what pays.
    Raises EngineError where so many are asked for, and a line would read otherwise than alone.
    """
    found: list[tuple[EngineSpec, Company | None]] = []
    for spec in specs:
        if asked == 1 or spec.kind == "gpu":  # there the trials have it
            found.append((spec, None))
            continue
        company = _on(part, spec, graph(spec), calibration, asked or MOST)
        if asked and company is not None and not company.same:
            raise EngineError(
                f"{part.model.name}: {spec} does not read {asked} lines together as it reads "
                f"them alone; leave batch out of hpi_config.backend_config {company.reason}"
            )
        gains = not asked and company is not None and pays(company)
        found.append((replace(spec, batch=MOST) if gains else spec, company))
    return found


def _on(
    part: Part, spec: EngineSpec, graph: Path, calibration: Calibration, most: int
) -> Company | None:
    assert isinstance(part.model, RecognitionModel)
    with closing(open_fused(graph, spec, part.model)) as engine:
        reader = Recogniser(engine, part.model, restore_spaces=False)
        try:
            return measure_company(engine, [reader.fit(crop) for crop in calibration.crops], most)
        except EngineError as error:
            return Company(reason=str(error))


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
        there = replace(spec, batch=min(spec.batch, len(alike)))
        groups.append(alike[: there.together(width)])
    return [group for group in groups if len(group) > 1]


def _reads_the_same(engine: Engine, group: Sequence[Image]) -> bool:
    """In every number of them that a call may have."""
    alone = [engine.run(line[None]) for line in group]
    for size in batch_sizes(len(group))[1:]:
        ones = map(np.concatenate, zip(*alone[:size], strict=True))
        together = engine.run(np.stack(group[:size]))
        if not all(map(np.array_equal, ones, together)):
            return False
    return True
