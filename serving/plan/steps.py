"""What the steps of a build are expected to take, for the time that is said to be left."""

from __future__ import annotations

from collections.abc import Mapping

from serving.engines.base import EngineSpec

_TRIAL = {"TextDetection": 3.0, "TextLineOrientation": 0.4, "TextRecognition": 5.0}
"""Seconds of one candidate's trial, on 2 cores with PP-OCRv4 mobile."""
_REFERENCE, _TIMING = 1.5, 1.5
"""The reading of the reference, and the timing of those that race: so many trials' time."""

CONVERT, FUSE, RENDER, QUANTISE = 20.0, 1.0, 2.0, 12.0
COMPANY, PAGES, COLD = 4.0, 15.0, 2.0
WORKERS = 30.0
"""Start of a number of worker processes, and two rounds beside a smaller one."""


def expected_seconds(
    graphs: list[bool], specs: Mapping[str, list[EngineSpec]], known: set[str], workers: int = 0
) -> list[float]:
    """Seconds of each step in order.

    graphs: for each graph that is missing, whether Paddle's must be converted for it.
    specs: candidates by section. known: sections whose trials are on disk. workers: numbers of
    worker processes to measure.
    """
    steps = [CONVERT if converted else FUSE for converted in graphs] + [RENDER]
    for listed in specs.values():
        if any(spec.precision == "int8" for spec in listed):
            steps.append(QUANTISE)
    for section, listed in specs.items():
        if section not in known:
            one = _TRIAL[section]
            steps += [_REFERENCE * one, *[one] * len(listed), _TIMING * one]
    return [*steps, COMPANY, PAGES, COLD, *[WORKERS] * workers]
