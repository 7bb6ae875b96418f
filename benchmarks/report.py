"""What the benchmark found: rows by table, set and contender, written as JSON, Markdown, PNG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import Table
from benchmarks.measure import Measurement
from benchmarks.profile import Profile
from benchmarks.throughput import Throughput
from serving.scores import Overlap, character_overlap, token_overlap


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one set. Times in ms a page; ratios are its time over ours, by image."""

    table: Table
    group: str
    contender: str
    pages: int
    ms_median: float
    ms_p95: float
    ratio_median: float
    ratio_p25: float
    ratio_p75: float
    first_ms: float
    """The median of the first round ..."""
    first_ratio: float
    """... and its ratio to ours of that round."""
    token_f1: float
    character_f1: float
    peak_mb: float
    start_ms: float
    """From its start, with Python running, to the texts of a first page."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the benchmark."""

    facts: dict[str, Any]
    rows: Sequence[Row]
    measurements: Sequence[Measurement]
    throughput: Sequence[Throughput] = ()
    profiles: Sequence[Profile] = field(default_factory=tuple)


def rows(measurements: Sequence[Measurement], start_ms: dict[str, float]) -> list[Row]:
    """A row for each table, set and contender. Ratios are to the first contender, in both tables.

    start_ms: by contender.
    """
    first = measurements[0].contender
    base = {m.page.path: m for m in measurements if m.contender == first}
    by_row: dict[tuple[Table, str, str], list[Measurement]] = {}
    for table in ("same", "own"):
        for group in dict.fromkeys(m.page.group for m in measurements):
            for m in measurements:
                if (m.table, m.page.group) == (table, group):
                    by_row.setdefault((m.table, group, m.contender), []).append(m)
    return [_row(*key, found, base, start_ms[key[2]]) for key, found in by_row.items()]


def _row(
    table: Table,
    group: str,
    name: str,
    found: Sequence[Measurement],
    base: Mapping[Path, Measurement],
    start_ms: float,
) -> Row:
    times = [m.ms for m in found]
    ratios = [m.ms / base[m.page.path].ms for m in found]
    first = [m.first_ms for m in found]
    first_ratios = [m.first_ms / base[m.page.path].first_ms for m in found]
    tokens = sum((token_overlap(m.page.texts, m.texts) for m in found), Overlap())
    characters = sum((character_overlap(m.page.texts, m.texts) for m in found), Overlap())
    low, middle, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    return Row(
        table=table,
        group=group,
        contender=name,
        pages=len(found),
        ms_median=float(np.median(times)),
        ms_p95=float(np.percentile(times, 95)),
        ratio_median=middle,
        ratio_p25=low,
        ratio_p75=high,
        first_ms=float(np.median(first)),
        first_ratio=float(np.median(first_ratios)),
        token_f1=100 * tokens.f1,
        character_f1=100 * characters.f1,
        peak_mb=max(m.peak_mb for m in found),
        start_ms=start_ms,
    )


def write(folder: Path, report: Report) -> list[Path]:
    """benchmark.json (with every page's time and texts), .md and .png; returns the files."""
    from benchmarks.chart import draw
    from benchmarks.tables import markdown

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"benchmark.{kind}" for kind in ("json", "md", "png")]
    files[0].write_text(
        json.dumps(_plain(report), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    files[1].write_text(markdown(report), encoding="utf-8")
    draw(report.rows, str(report.facts["machine"]), files[2])
    return files


def _plain(report: Report) -> dict[str, Any]:
    pages = [
        {"contender": m.contender, "set": m.page.group, "image": m.page.path.name, "ms": m.ms,
         "texts": m.texts}
        for m in report.measurements
    ]  # fmt: skip
    return {
        "facts": report.facts,
        "rows": _list(report.rows),
        "throughput": _list(report.throughput),
        "profiles": [
            asdict(found)
            | {
                "efficiency": [asdict(e) | {"share": e.share} for e in found.efficiency],
                "outside": asdict(found.outside)
                | {"allowed_ms": found.outside.allowed_ms, "share": found.outside.share},
            }
            for found in report.profiles
        ],
        "pages": pages,
    }


def _list(found: Iterable[Any]) -> list[dict[str, Any]]:
    return [asdict(item) for item in found]
