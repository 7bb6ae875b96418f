"""What the benchmark prints and writes: a row for each set and contender."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.benchmark.measure import Measurement
from serving.scores import Overlap, character_overlap, token_overlap


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one set. Times in ms a page; ratios are its time over ours, by image."""

    group: str
    contender: str
    pages: int
    ms_median: float
    ms_p95: float
    ratio_median: float
    ratio_p10: float
    ratio_p90: float
    token_f1: float
    character_f1: float
    peak_mb: float


def rows(measurements: Sequence[Measurement]) -> list[Row]:
    """A row for each set and contender. The first contender is the one ratios are taken to."""
    groups = dict.fromkeys(found.page.group for found in measurements)
    names = dict.fromkeys(found.contender for found in measurements)
    first = next(iter(names))
    found_rows = []
    for group in groups:
        base = {
            m.page.path: m.ms for m in measurements if (m.contender, m.page.group) == (first, group)
        }
        for name in names:
            found = [m for m in measurements if (m.contender, m.page.group) == (name, group)]
            found_rows.append(_row(group, name, found, [m.ms / base[m.page.path] for m in found]))
    return found_rows


def _row(group: str, name: str, found: Sequence[Measurement], ratios: Sequence[float]) -> Row:
    times = [m.ms for m in found]
    tokens = sum((token_overlap(m.page.texts, m.texts) for m in found), Overlap())
    characters = sum((character_overlap(m.page.texts, m.texts) for m in found), Overlap())
    return Row(
        group=group,
        contender=name,
        pages=len(found),
        ms_median=float(np.median(times)),
        ms_p95=float(np.percentile(times, 95)),
        ratio_median=float(np.median(ratios)),
        ratio_p10=float(np.percentile(ratios, 10)),
        ratio_p90=float(np.percentile(ratios, 90)),
        token_f1=100 * tokens.f1,
        character_f1=100 * characters.f1,
        peak_mb=max(m.peak_mb for m in found),
    )


HEAD = (
    "set", "contender", "pages", "ms a page", "p95", "times ours (p10 to p90)",
    "token F1", "char F1", "peak MB",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row as texts, under HEAD."""
    return (
        row.group,
        row.contender,
        str(row.pages),
        f"{row.ms_median:.0f}",
        f"{row.ms_p95:.0f}",
        f"{row.ratio_median:.2f} ({row.ratio_p10:.2f} to {row.ratio_p90:.2f})",
        f"{row.token_f1:.2f}",
        f"{row.character_f1:.2f}",
        f"{row.peak_mb:.0f}",
    )


def markdown(found: Iterable[Row], facts: dict[str, Any]) -> str:
    """The table, and under it what it was measured on."""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in found]
    return "\n".join([*lines, "", *(f"- {key}: {value}" for key, value in facts.items()), ""])


def write(
    folder: Path, measurements: Sequence[Measurement], found: Sequence[Row], facts: dict[str, Any]
) -> None:
    """benchmark.json (with every page's time and texts) and benchmark.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = [
        {"contender": m.contender, "set": m.page.group, "image": m.page.path.name, "ms": m.ms,
         "texts": m.texts}
        for m in measurements
    ]  # fmt: skip
    data = {"facts": facts, "rows": [asdict(row) for row in found], "pages": pages}
    text = json.dumps(data, ensure_ascii=False, indent=1)
    (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(found, facts), encoding="utf-8")
