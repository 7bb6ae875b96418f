"""Compares systems on labelled pages: latency, accuracy and memory, then throughput.

Every page is given to all systems in turn, so that a noisy machine slows all of them alike. Before
it, untimed, a system reads the page before it again: on a virtual machine whose host takes memory
back, a page after 3 idle seconds takes 3 times as long, and after 10 seconds 8 times, whatever the
system; that would hide what the systems themselves take.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.profile import Profile, profile
from benchmarks.rendered import rendered_pages
from benchmarks.systems import (
    ConcurrentReading,
    Reading,
    Setup,
    System,
    by_model,
    graphs_mb,
    ours,
    peers,
)
from serving.errors import EngineError
from serving.evaluate.labels import LabelledPage, read_labels
from serving.scores import Overlap, character_overlap, token_overlap

_PAUSE = 0.3
"""Seconds between two systems: OpenMP's threads spin for 0.2 s after a call, on all cores."""

_WORD = re.compile(r"[a-z0-9]{2,}")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """How a system read a page."""

    system: str
    page: LabelledPage
    texts: tuple[str, ...]
    ms: float
    """The median of the rounds after the first; of a single round, that one."""
    first_ms: float
    """Of the first round, in which engines meet most shapes for the first time."""
    peak_mb: float
    setup: Setup = "same"
    model: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One system on one dataset. Ratios: its time over the first system's with its model, page by
    page."""

    setup: Setup
    dataset: str
    system: str
    pages: int
    ms_median: float
    ms_p95: float
    ratio_median: float
    ratio_p25: float
    ratio_p75: float
    first_ms: float
    """The median of the first round."""
    first_ratio: float
    token_f1: float
    character_f1: float
    word_f1: float
    """Mean over pages; see `word_f1`."""
    peak_mb: float
    model: str
    """Where systems are compared model by model, the pipeline that it is from."""
    start_ms: float
    """From the start of its process, Python's own excluded, to the texts of a first page."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """One system on one dataset, with several threads calling it."""

    dataset: str
    system: str
    callers: int
    pages_per_second: float
    changed: int
    """Pages whose texts differ from those of a single caller."""
    error: str = ""
    """Why there is no figure."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one run measured."""

    results: Sequence[Result]
    measurements: Sequence[Measurement]
    throughput: Sequence[Throughput] = ()
    profiles: Sequence[Profile] = ()
    versions: Mapping[str, str] | None = None
    """By system."""
    graphs_mb: Mapping[str, float] = field(default_factory=dict)
    """By model, where systems are compared model by model: MB of its ONNX files."""


def compare(
    pipelines: Sequence[Path],
    models: Path,
    *,
    data: Path | None = None,
    groups: Sequence[str] = (),
    paddlex: Path | None = None,
    rapidocr: Path | None = None,
    turboocr: Path | None = None,
    model_by_model: bool = False,
    rounds: int = 2,
    concurrency: Sequence[int] = (),
    progress: Progress = lambda _: None,
) -> Comparison:
    """Start every system, measure it, then profile our own pipelines alone on the machine.

    data: folder of labelled pages, and `groups` its subfolders; without it, pages are rendered.
    model_by_model: peers for each pipeline, not for the first alone, and no profiles.
    Raises ConfigError for the data, PlanError and EngineError for a system.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pages = read_labels(data, groups).pages if data else rendered_pages(scratch)
        specs, sizes = [], {}
        if model_by_model:
            for path in pipelines:
                (folder := scratch / f"{path.stem}.peers").mkdir()
                specs += by_model(path, models, paddlex, rapidocr, turboocr, folder)
                sizes[path.stem] = graphs_mb(path, models)
        else:
            specs += [ours(path, models) for path in pipelines]
            specs += peers(pipelines[0], models, paddlex, rapidocr, scratch)
        systems: list[System] = []
        with ExitStack() as running:
            for spec in specs:
                progress(f"loading {spec.name}")
                systems.append(running.enter_context(closing(System(spec))))
            measurements = measure(systems, pages, rounds=rounds, progress=progress)
            same = [system for system in systems if system.setup == "same"]
            concurrent = throughput(same, pages, measurements, concurrency, progress=progress)
        profiles = [
            found
            for path in (() if model_by_model else pipelines)
            for found in profile(path, pages, models, progress=progress)
        ]  # fmt: skip
    return Comparison(
        results(measurements, {system.name: system.start_ms for system in systems}),
        measurements,
        concurrent,
        profiles,
        {system.name: system.version for system in systems},
        sizes,
    )


def measure(
    systems: Sequence[System],
    pages: Sequence[LabelledPage],
    *,
    rounds: int = 1,
    warm_up: int = 2,
    pause: float = _PAUSE,
    wake: bool = True,
    progress: Progress = lambda _: None,
) -> list[Measurement]:
    """Have every system read every page, `rounds` times.

    Before that, each reads the first `warm_up` pages of every dataset unmeasured. The order of the
    systems rotates from page to page.

    wake: before each page, a system reads the page before it again, unmeasured.
    """
    for members in _by_dataset(pages).values():
        for page in members[:warm_up]:
            for system in systems:
                system.read(page.path)
    readings: dict[tuple[int, int], list[Reading]] = {}
    for step in range(rounds * len(pages)):
        index = step % len(pages)
        page = pages[index]
        progress(f"{step + 1} of {rounds * len(pages)}: {page.group}/{page.path.name}")
        for offset in range(len(systems)):
            number = (step + offset) % len(systems)
            if wake:
                systems[number].read(pages[max(index - 1, 0)].path)
            readings.setdefault((number, index), []).append(systems[number].read(page.path))
            time.sleep(pause)
    return [
        Measurement(
            systems[number].name,
            pages[index],
            taken[-1].texts,
            float(np.median([reading.ms for reading in taken[1:] or taken])),
            taken[0].ms,
            max(reading.peak_mb for reading in taken),
            systems[number].setup,
            systems[number].model,
        )
        for (number, index), taken in sorted(readings.items())
    ]


def throughput(
    systems: Sequence[System],
    pages: Sequence[LabelledPage],
    alone: Sequence[Measurement],
    callers: Sequence[int],
    *,
    pause: float = _PAUSE,
    progress: Progress = lambda _: None,
) -> list[Throughput]:
    """Every dataset with every number of callers, the systems in turn.

    alone: how each system read the pages with one caller. A system whose process died is not
    called again.
    """
    texts = {(m.system, m.page.path): m.texts for m in alone}
    errors: dict[str, str] = {}
    found = []
    for dataset, members in _by_dataset(pages).items():
        paths = [page.path for page in members]
        for count in callers:
            for system in systems:
                progress(f"{count} callers: {system.name}, {dataset}")
                reading = _read_concurrently(system, paths, count, errors)
                if reading.error:
                    result = Throughput(dataset, system.name, count, 0.0, 0, reading.error)
                else:
                    changed = sum(
                        texts[system.name, path] != read
                        for path, read in zip(paths, reading.texts, strict=True)
                    )
                    rate = len(paths) * 1e3 / reading.ms
                    result = Throughput(dataset, system.name, count, rate, changed)
                found.append(result)
                time.sleep(pause)
    return found


def _read_concurrently(
    system: System, paths: Sequence[Path], callers: int, errors: dict[str, str]
) -> ConcurrentReading:
    if system.name not in errors:
        try:
            return system.read_concurrently(paths, callers)
        except EngineError as error:
            errors[system.name] = str(error)
    return ConcurrentReading((), 0.0, errors[system.name])


def results(measurements: Sequence[Measurement], start_ms: Mapping[str, float]) -> list[Result]:
    """One for each setup, dataset and system; start_ms by system.

    Ratios are to the first system with the same model, whatever the setup.
    """
    base: dict[tuple[str, Path], Measurement] = {}
    for m in measurements:
        base.setdefault((m.model, m.page.path), m)
    members: dict[tuple[Setup, str, str], list[Measurement]] = {}
    for setup in ("same", "default"):
        for dataset in _by_dataset([m.page for m in measurements]):
            for m in measurements:
                if (m.setup, m.page.group) == (setup, dataset):
                    members.setdefault((m.setup, dataset, m.system), []).append(m)
    return [_result(*key, found, base, start_ms[key[2]]) for key, found in members.items()]


def _result(
    setup: Setup,
    dataset: str,
    system: str,
    found: Sequence[Measurement],
    base: Mapping[tuple[str, Path], Measurement],
    start_ms: float,
) -> Result:
    times = [m.ms for m in found]
    same = [base[m.model, m.page.path] for m in found]
    ratios = [m.ms / first.ms for m, first in zip(found, same, strict=True)]
    first_ratios = [m.first_ms / first.first_ms for m, first in zip(found, same, strict=True)]
    tokens = sum((token_overlap(m.page.texts, m.texts) for m in found), Overlap())
    characters = sum((character_overlap(m.page.texts, m.texts) for m in found), Overlap())
    low, middle, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    return Result(
        setup=setup,
        dataset=dataset,
        system=system,
        pages=len(found),
        ms_median=float(np.median(times)),
        ms_p95=float(np.percentile(times, 95)),
        ratio_median=middle,
        ratio_p25=low,
        ratio_p75=high,
        first_ms=float(np.median([m.first_ms for m in found])),
        first_ratio=float(np.median(first_ratios)),
        token_f1=100 * tokens.f1,
        character_f1=100 * characters.f1,
        word_f1=100 * float(np.mean([word_f1(m.page.texts, m.texts) for m in found])),
        peak_mb=max(m.peak_mb for m in found),
        model=found[0].model,
        start_ms=start_ms,
    )


def word_f1(truth: Iterable[str], read: Iterable[str]) -> float:
    """What OCR engines publish for FUNSD, of one page: F1, 0 to 1, of the sets of lower-cased
    tokens of two or more Latin letters or digits. They take its mean over pages."""
    expected, found = (set(_WORD.findall("\n".join(lines).lower())) for lines in (truth, read))
    return Overlap(len(expected & found), len(expected), len(found)).f1


def _by_dataset(pages: Sequence[LabelledPage]) -> dict[str, list[LabelledPage]]:
    members: dict[str, list[LabelledPage]] = {}
    for page in pages:
        members.setdefault(page.group, []).append(page)
    return members
