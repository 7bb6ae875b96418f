"""Tables of what was measured, for the terminal and as Markdown, and the files of a report."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.compare import Comparison, Result, Throughput
from benchmarks.mixed import MixedLoad
from benchmarks.profile import Profile
from benchmarks.serve import LoadResult, OpenLoop
from benchmarks.soak import MAX_GROWTH, Soak
from serving.machine import cpu_name, usable_cores

_TITLES = {
    "same": "The same model files and YAML values for all, line orientation off",
    "default": "Each with its own defaults",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts; `note` explains it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def machine_facts() -> dict[str, str]:
    """What every report says of where and when it was measured."""
    return {
        "machine": f"{cpu_name()}, {usable_cores()} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write_comparison(folder: Path, comparison: Comparison, facts: Mapping[str, str]) -> list[Path]:
    """benchmark.json (with the time and the texts of every page), .md and .png."""
    facts = {**facts, **(comparison.versions or {})}
    pages = [
        {"system": m.system, "dataset": m.page.group, "image": m.page.path.name, "ms": m.ms,
         "texts": m.texts}
        for m in comparison.measurements
    ]  # fmt: skip
    data = {
        "graphs_mb": dict(comparison.graphs_mb),
        "results": [asdict(row) for row in comparison.results],
        "throughput": [asdict(row) for row in comparison.throughput],
        "profiles": [
            asdict(found)
            | {
                "efficiency": [asdict(e) | {"share": e.share} for e in found.efficiency],
                "overhead": asdict(found.overhead)
                | {"budget_ms": found.overhead.budget_ms, "share": found.overhead.share},
            }
            for found in comparison.profiles
        ],
        "pages": pages,
    }
    picture = folder / "benchmark.png"
    files = _write(picture, comparison_tables(comparison), data, facts)
    charts.draw_comparison(comparison.results, facts["machine"], picture)
    return [*files, picture]


def write_load_test(folder: Path, result: LoadResult, facts: Mapping[str, str]) -> list[Path]:
    """serve.json and serve.md."""
    data = {
        "http_efficiency": result.http_efficiency,
        "goodput_share": result.goodput_share,
        "word_f1": result.word_f1,
        "closed": [asdict(row) for row in result.closed],
        "open": asdict(result.open),
    }
    return _write(folder / "serve", load_tables(result), data, facts)


def write_mixed_load(folder: Path, result: MixedLoad, facts: Mapping[str, str]) -> list[Path]:
    """mixed.json and mixed.md."""
    data = asdict(result) | {"delay": result.delay, "starved": result.starved}
    return _write(folder / "mixed", [mixed_table(result)], data, facts)


def write_soak(folder: Path, result: Soak, facts: Mapping[str, str]) -> list[Path]:
    """soak.json (with the memory over time), .md and .png."""
    data = asdict(result) | {
        "quarters_mb": [result.quarter(number) for number in (1, 2, 3, 4)],
        "growth": result.growth,
        "stable": result.is_stable,
        "peak_mb": result.peak_mb,
    }
    picture = folder / "soak.png"
    files = _write(picture, soak_tables(result), data, facts)
    charts.draw_memory(result, picture)
    return [*files, picture]


def _write(
    path: Path, tables: Iterable[Table], data: Mapping[str, Any], facts: Mapping[str, str]
) -> list[Path]:
    """The JSON and the Markdown of a report whose picture, if it has one, is `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(".json"), path.with_suffix(".md")]
    text = json.dumps({"facts": facts, **data}, ensure_ascii=False, indent=1)
    files[0].write_text(text + "\n", encoding="utf-8")
    picture = path.name if path.suffix else None
    files[1].write_text(markdown(tables, facts, picture), encoding="utf-8")
    return files


def markdown(tables: Iterable[Table], facts: Mapping[str, str], picture: str | None = None) -> str:
    """The picture, the tables, and what they were measured on."""
    lines = [f"![chart]({picture})", ""] if picture else []
    for table in tables:
        lines += [f"**{table.title}**", ""]
        lines += ["| " + " | ".join(table.columns) + " |", "| --- " * len(table.columns) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in facts.items()), ""])


def comparison_tables(comparison: Comparison) -> list[Table]:
    """All tables that have rows."""
    tables = [_by_model(comparison)] if comparison.graphs_mb else []
    tables += [_results(comparison.results, setup) for setup in _TITLES]
    tables.append(_throughput(comparison.throughput))
    for name in dict.fromkeys(found.pipeline for found in comparison.profiles):
        profiles = [found for found in comparison.profiles if found.pipeline == name]
        tables += [_stages(name, profiles), _overhead(name, profiles), _efficiency(name, profiles)]
    return [table for table in tables if table.rows]


def _by_model(comparison: Comparison) -> Table:
    """A row for each model and system; the datasets are columns."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for row in comparison.results:
        rows.setdefault((row.model, row.system), []).append(row)
    datasets = [row.dataset for row in next(iter(rows.values()))]
    return Table(
        "By model: the same files and YAML values for all, line orientation off",
        ("model", "MB", "system", "peak MB",
         *(f"{name}: {text}" for name in datasets
           for text in ("ms a page (ratio)", "token, character, words F1"))),
        [
            (
                model,
                f"{comparison.graphs_mb[model]:.1f}",
                system.removesuffix(f", {model}"),
                f"{max(row.peak_mb for row in found):.0f}",
                *(
                    cell
                    for row in found
                    for cell in (
                        f"{row.ms_median:.0f} ({row.ratio_median:.2f})",
                        f"{row.token_f1:.2f}, {row.character_f1:.2f}, {row.word_f1:.2f}",
                    )
                ),
            )
            for (model, system), found in rows.items()
        ],
        "MB: of the ONNX files of detection and recognition. Peak: of a process that reads all "
        "pages. Ratio: the median of the system's time over ours with that model, page by page. "
        "Words: the mean over pages of the F1 of the sets of lower-cased tokens [a-z0-9]{2,}.",
    )  # fmt: skip


def _results(results: Iterable[Result], setup: str) -> Table:
    return Table(
        _TITLES[setup],
        ("dataset", "system", "pages", "ms a page", "p95", "ratio to ours (quartiles)",
         "first round: ms, ratio", "token F1", "character F1", "words F1", "peak MB", "start s"),
        [
            (
                row.dataset,
                row.system,
                str(row.pages),
                f"{row.ms_median:.0f}",
                f"{row.ms_p95:.0f}",
                f"{row.ratio_median:.2f} ({row.ratio_p25:.2f} to {row.ratio_p75:.2f})",
                f"{row.first_ms:.0f}, {row.first_ratio:.2f}",
                f"{row.token_f1:.2f}",
                f"{row.character_f1:.2f}",
                f"{row.word_f1:.2f}",
                f"{row.peak_mb:.0f}",
                f"{row.start_ms / 1e3:.1f}",
            )
            for row in results
            if row.setup == setup
        ],
        "ms a page: the median. Ratio: the median of the system's time over the first row's (with "
        "its model), page by page. Words F1: the mean over pages of the F1 of the sets of "
        "lower-cased tokens [a-z0-9]{2,}. In the first round most shapes are new to the engines. "
        "Start: loading, and the texts of a first page.",
    )  # fmt: skip


def _throughput(rows: Iterable[Throughput]) -> Table:
    def cells(row: Throughput) -> tuple[str, str]:
        if row.error:
            return "-", f"fails: {row.error}".replace("|", "/")
        return f"{row.pages_per_second:.2f}", str(row.changed or "")

    return Table(
        "Throughput of one process with concurrent callers",
        ("dataset", "system", "callers", "pages a second", "pages whose text changes"),
        [(row.dataset, row.system, str(row.callers), *cells(row)) for row in rows],
    )


def _stages(name: str, profiles: Sequence[Profile]) -> Table:
    names = [stage.name for stage in profiles[0].stages]
    return Table(
        f"{name}: time by stage, ms a page",
        ("stage", *(found.dataset for found in profiles)),
        [
            (stage, *(f"{found.stages[index].ms:.1f}" for found in profiles))
            for index, stage in enumerate(names)
        ],
        "Means, of shapes that the engines have met before. Lines are read side by side: thread "
        "time is the sum over them.",
    )


def _overhead(name: str, profiles: Sequence[Profile]) -> Table:
    return Table(
        f"{name}: processor time outside engine calls, decoding included",
        ("dataset", "ms", "megapixels", "lines", "budget ms", "share"),
        [
            (
                found.dataset,
                f"{found.overhead.ms:.1f}",
                f"{found.overhead.megapixels:.1f}",
                str(found.overhead.lines),
                f"{found.overhead.budget_ms:.1f}",
                f"{100 * found.overhead.share:.0f} %",
            )
            for found in profiles
        ],
        "Of all pages of the dataset, on engines that answer from memory; the median of five "
        "rounds for each page. Budget: 8 ms a megapixel and 0.1 ms a line.",
    )


def _efficiency(name: str, profiles: Sequence[Profile]) -> Table:
    return Table(
        f"{name}: efficiency of the engines",
        ("dataset", "model", "engine", "GMAC a page", "GMAC/s", "matrix product GMAC/s", "share"),
        [
            (
                found.dataset,
                item.section,
                item.engine,
                f"{item.gmac_per_page:.1f}",
                f"{item.rate:.1f}",
                f"{item.product_rate:.1f}",
                f"{100 * item.share:.0f} %",
            )
            for found in profiles
            for item in found.efficiency
        ],
        "Multiply-adds of each page at its own size and each line at its own width, padding not "
        "counted, over the time of the engine calls; beside products of 512 x 512 matrices on the "
        "same engine settings with as many callers, timed between the pages.",
    )


def load_tables(result: LoadResult) -> list[Table]:
    """Closed loops, then the open loop."""
    best = f"{100 * result.http_efficiency:.0f} % of load_pipeline's best"
    return [
        Table(
            "Closed-loop load",
            ("system", "clients", "pages/s", "p50 ms", "p95 ms", "p99 ms", "failed",
             "generator's cores"),
            [
                (
                    row.system,
                    str(row.clients),
                    f"{row.pages_per_second:.2f}",
                    *(_number(value) for value in (row.p50, row.p95, row.p99)),
                    str(row.failed),
                    _number(row.generator_cores, 2),
                )
                for row in result.closed
            ],
            f"Throughput over HTTP with 4 clients: {best}. Clients of load_pipeline are threads. "
            f"Words F1 over HTTP: {result.word_f1:.2f}.",
        ),
        _open_loop(result.open, result.goodput_share),
    ]  # fmt: skip


def _open_loop(row: OpenLoop, share: float) -> Table:
    return Table(
        f"Open-loop load: {row.rate:.1f} requests/s for {row.seconds:g} s",
        ("requests", "count", "p50 ms", "p99 ms"),
        [
            ("accepted", str(row.accepted), _number(row.accepted_p50), _number(row.accepted_p99)),
            ("refused", str(row.refused), _number(row.refused_p50, 1), _number(row.refused_p99, 1)),
            ("failed", str(row.failed), "", ""),
        ],
        f"Goodput {row.goodput:.2f} pages/s, {100 * share:.0f} % of the best closed loop. Latency: "
        "of accepted requests from when they were due, of refused ones from the body's last byte. "
        f"Load generator: {row.generator_cores:.2f} cores. Server's memory before, halfway and "
        f"after: {', '.join(f'{amount:.0f}' for amount in row.memory)} MiB.",
    )


def mixed_table(result: MixedLoad) -> Table:
    """The open loops, with the verdict."""
    starved = f"starved: {', '.join(result.starved)}" if result.starved else "nothing starves"
    return Table(
        f"Small images take {result.delay:.2f} times as long at p99 beside the others; {starved}",
        ("load", "requests", "pipeline", "of the server", "requests/s", "answered/s",
         "p50 ms", "p99 ms", "failed"),
        [
            (
                row.load,
                row.kind,
                row.pipeline,
                f"{100 * row.share:.0f} %",
                f"{row.figures.rate:.2f}",
                f"{row.figures.answered:.2f}",
                _number(row.figures.accepted_p50),
                _number(row.figures.accepted_p99),
                str(row.figures.failed + row.figures.refused),
            )
            for row in result.rows
        ],
        "Open loops; latency from when a request was due. Of the server: the rate over what a "
        "closed loop of that kind alone reaches.",
    )  # fmt: skip


def soak_tables(result: Soak) -> list[Table]:
    """Large inputs; memory by quarter, with the verdict."""
    return [
        Table(
            "Large inputs",
            ("input", "megapixels", "ms", "ms a megapixel", "server's peak MB"),
            [
                (
                    item.name,
                    f"{item.megapixels:.1f}",
                    f"{item.ms:.0f}",
                    f"{item.ms_per_megapixel:.0f}",
                    f"{item.peak_mb:.0f}",
                )
                for item in result.large
            ],
        ),
        Table(
            f"Memory {'is stable' if result.is_stable else 'grows'}: last quarter "
            f"{100 * result.growth:+.1f} % against the second",
            ("quarter", "median MB"),
            [(str(number), f"{result.quarter(number):.0f}") for number in (1, 2, 3, 4)],
            f"{result.pages} pages of mixed sizes; peak {result.peak_mb:.0f} MB; "
            f"limit {100 * MAX_GROWTH:.0f} %.",
        ),
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
