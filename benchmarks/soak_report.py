"""What a soak found: tables, JSON and a chart of memory over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.chart import FAINT, GRID, INK, OURS, figure, save
from benchmarks.soak import GROWTH, Soak
from benchmarks.tables import Grid


def tables(found: Soak) -> list[Grid]:
    """Big inputs; memory by quarter with the verdict."""
    big = [
        (
            item.name,
            f"{item.megapixels:.1f}",
            f"{item.ms:.0f}",
            f"{item.ms_a_megapixel:.0f}",
            f"{item.peak_mb:.0f}",
        )
        for item in found.big
    ]
    verdict = "holds" if found.growth <= GROWTH else "grows"
    quarters = [(str(number), f"{found.quarter(number):.0f}") for number in (1, 2, 3, 4)]
    return [
        Grid(
            "Big inputs", ("input", "megapixels", "ms", "ms a megapixel", "server's peak MB"), big
        ),
        Grid(
            f"Memory {verdict}: last quarter {100 * found.growth:+.1f} % against the second",
            ("quarter", "median MB"),
            quarters,
            f"{found.pages} pages of mixed sizes; at most {found.peak_mb:.0f} MB; "
            f"allowed {100 * GROWTH:.0f} %.",
        ),
    ]


def write(folder: Path, found: Soak) -> Sequence[Path]:
    """soak.json, with the memory over time, and soak.png; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = asdict(found) | {
        "quarters_mb": [found.quarter(number) for number in (1, 2, 3, 4)],
        "growth": found.growth,
        "holds": found.growth <= GROWTH,
        "peak_mb": found.peak_mb,
    }
    files = [folder / "soak.json", folder / "soak.png"]
    files[0].write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    _draw(found, files[1])
    return files


def _draw(found: Soak, path: Path) -> None:
    """MB over minutes, and the medians of the quarters that are compared."""
    drawn = figure(8, 3.4)
    axis = drawn.subplots()
    minutes = [seconds / 60 for seconds, _ in found.memory]
    axis.plot(minutes, [mb for _, mb in found.memory], color=OURS, linewidth=1)
    end = minutes[-1]
    for number in (2, 4):
        level = found.quarter(number)
        span = (end * (number - 1) / 4, end * number / 4)
        axis.plot(span, (level, level), color=INK, linewidth=2)
        axis.annotate(
            f"{level:.0f} MB", (sum(span) / 2, level), (0, 6), textcoords="offset points",
            ha="center", fontsize=9, color=INK, fontweight="bold",
        )  # fmt: skip
    axis.set_ylim(0, found.peak_mb * 1.15)
    axis.set_xlim(0, end)
    axis.set_xlabel(f"minutes of mixed sizes, {found.pages} pages", fontsize=9, color=FAINT)
    axis.set_ylabel("MB of the server", fontsize=9, color=FAINT)
    axis.tick_params(labelsize=8, colors=FAINT, length=0)
    axis.grid(axis="y", color=GRID)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
    title = f"Memory: last quarter {100 * found.growth:+.1f} % against the second"
    axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    save(drawn, path)
