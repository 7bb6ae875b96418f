"""The benchmark's tables, as cells for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.profile import Profile
from benchmarks.report import Report, Row
from benchmarks.throughput import Throughput

TITLES = {
    "same": "The same model files and YAML values for all, line orientation off",
    "own": "Each as it comes, with its own defaults",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts. `note` says how to read it."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def grids(report: Report) -> list[Grid]:
    """All tables that have rows."""
    found = [_contenders(report.rows, table) for table in TITLES]
    found.append(_throughput(report.throughput))
    for name in dict.fromkeys(profile.pipeline for profile in report.profiles):
        mine = [profile for profile in report.profiles if profile.pipeline == name]
        found += [_stages(name, mine), _outside(name, mine), _efficiency(name, mine)]
    return [grid for grid in found if grid.rows]


def markdown(report: Report) -> str:
    """The tables, and under them what they were measured on."""
    lines = ["![ms a page and F1](benchmark.png)", ""]
    for grid in grids(report):
        lines += [f"**{grid.title}**", ""]
        lines += ["| " + " | ".join(grid.head) + " |", "| --- " * len(grid.head) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
        lines += ["", *([grid.note, ""] if grid.note else [])]
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in report.facts.items()), ""])


def _contenders(rows: Iterable[Row], table: str) -> Grid:
    return Grid(
        TITLES[table],
        ("set", "contender", "pages", "ms a page", "p95", "times ours (quartiles)",
         "first sight: ms, times", "token F1", "character F1", "peak MB", "start s"),
        [
            (
                row.group,
                row.contender,
                str(row.pages),
                f"{row.ms_median:.0f}",
                f"{row.ms_p95:.0f}",
                f"{row.ratio_median:.2f} ({row.ratio_p25:.2f} to {row.ratio_p75:.2f})",
                f"{row.first_ms:.0f}, {row.first_ratio:.2f}",
                f"{row.token_f1:.2f}",
                f"{row.character_f1:.2f}",
                f"{row.peak_mb:.0f}",
                f"{row.start_ms / 1e3:.1f}",
            )
            for row in rows
            if row.table == table
        ],
        "ms a page: the median. Times ours: the median, by image, of its time over the first "
        "row's. First sight: the same of the first round, in which most shapes are new to the "
        "engines. Start: loading, and the texts of a first page.",
    )  # fmt: skip


def _throughput(found: Iterable[Throughput]) -> Grid:
    def cell(item: Throughput) -> tuple[str, str]:
        if item.failed:
            return "-", f"fails: {item.failed}".replace("|", "/")
        return f"{item.pages_per_second:.2f}", f"{item.differing} differ" if item.differing else ""

    return Grid(
        "Callers of one process",
        ("set", "contender", "callers", "pages a second", "pages read otherwise than alone"),
        [(item.group, item.contender, str(item.callers), *cell(item)) for item in found],
    )


def _stages(name: str, profiles: Sequence[Profile]) -> Grid:
    names = [stage.name for stage in profiles[0].stages]
    return Grid(
        f"{name}: time by stage, ms a page",
        ("stage", *(profile.group for profile in profiles)),
        [
            (stage, *(f"{profile.stages[place].ms:.1f}" for profile in profiles))
            for place, stage in enumerate(names)
        ],
        "Means, of shapes that were met before. Lines are read side by side: `line: engine` is "
        "thread time, and `lines: engine` is how long they take together.",
    )


def _outside(name: str, profiles: Sequence[Profile]) -> Grid:
    return Grid(
        f"{name}: processor time outside engine calls, decoding included",
        ("set", "ms", "megapixels", "lines", "allowed ms", "share"),
        [
            (
                profile.group,
                f"{profile.outside.ms:.1f}",
                f"{profile.outside.megapixels:.1f}",
                str(profile.outside.lines),
                f"{profile.outside.allowed_ms:.1f}",
                f"{100 * profile.outside.share:.0f} %",
            )
            for profile in profiles
        ],
        "Of all pages of the set, on engines that answer from memory; the median of five rounds "
        "a page. Allowed: 8 ms a megapixel and 0.1 ms a line.",
    )


def _efficiency(name: str, profiles: Sequence[Profile]) -> Grid:
    return Grid(
        f"{name}: efficiency of the engines",
        ("set", "model", "engine", "GMAC a page", "GMAC/s", "matrix product GMAC/s", "share"),
        [
            (
                profile.group,
                item.section,
                item.engine,
                f"{item.gmac_a_page:.1f}",
                f"{item.rate:.1f}",
                f"{item.product_rate:.1f}",
                f"{100 * item.share:.0f} %",
            )
            for profile in profiles
            for item in profile.efficiency
        ],
        "Multiply-adds of a page at its own size and of each line at its own width, padding not "
        "counted, over the time of the engine calls; beside products of 512 x 512 matrices by the "
        "same engine settings on as many callers, between the pages.",
    )
