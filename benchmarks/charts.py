"""The charts of a report: ms a page by dataset with F1 beside, and memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import Result
from benchmarks.soak import Soak
from serving.errors import ConfigError

_INK, _FAINT, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_OURS, _PEER = "#0b6e4f", "#b8c4ce"
_HEADINGS = {"same": "same files and values", "default": "own defaults"}
_BAR_SPACE = 0.56
"""Share of a panel's width for the longest bar; labels and F1 follow."""
_F1_COLUMNS = (0.86, 1.0)


def new_figure(width: float = 1, height: float = 1) -> Any:
    """An empty matplotlib figure on white. Raises ConfigError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"the chart needs matplotlib ({error}); run: "
            'python -m pip install -e ".[benchmark]", or bash scripts/benchmark.sh'
        ) from None
    return Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def draw_comparison(results: Sequence[Result], machine: str, path: Path) -> None:
    """A panel for each dataset: a bar for each system, the fastest first within its setup."""
    datasets = list(dict.fromkeys(row.dataset for row in results))
    setups = [setup for setup in _HEADINGS if any(row.setup == setup for row in results)]
    counts = [sum(row.dataset == name for row in results) + len(setups) + 1 for name in datasets]
    figure = new_figure(9.6, 0.8 + 0.28 * sum(counts))
    axes = figure.subplots(len(datasets), 1, squeeze=False, height_ratios=counts)[:, 0]
    for dataset, axis in zip(datasets, axes, strict=True):
        _panel(axis, [row for row in results if row.dataset == dataset], setups)
    figure.suptitle(
        "Milliseconds a page (median), and as a multiple of ours",
        x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK,
    )  # fmt: skip
    figure.supxlabel(machine, x=0.99, ha="right", fontsize=8, color=_FAINT)
    _save(figure, path)


def _panel(axis: Any, results: Sequence[Result], setups: Sequence[str]) -> None:
    longest = max(row.ms_median for row in results)
    line, ticks = 0, {}
    for setup in setups:
        style = {"va": "center", "fontsize": 8, "color": _FAINT}
        if len(setups) > 1:
            axis.text(longest * 0.005, line, _HEADINGS[setup], **style)
        for x, name in zip(_F1_COLUMNS, ("token F1", "character F1"), strict=True):
            axis.text(x, line, name, ha="right", transform=axis.get_yaxis_transform(), **style)
        bars = sorted((row for row in results if row.setup == setup), key=lambda r: r.ms_median)
        for step, row in enumerate(bars, 1):
            _bar(axis, line + step, row, longest)
            ticks[line + step] = row.system
        line += len(bars) + 1
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=9, color=_INK)
    axis.set_ylim(line - 0.4, -0.6)
    axis.set_xlim(0, longest / _BAR_SPACE)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.axvline(0, color=_FAINT, linewidth=0.8)
    title = f"{results[0].dataset}, {results[0].pages} pages"
    axis.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")


def _bar(axis: Any, line: int, row: Result, longest: float) -> None:
    ours = row.system.startswith("ours")
    weight = "bold" if ours else "normal"
    axis.barh(line, row.ms_median, height=0.7, color=_OURS if ours else _PEER)
    style = {"va": "center", "fontsize": 8.5, "color": _INK, "fontweight": weight}
    label = f"{row.ms_median:,.0f} ms   × {row.ratio_median:.2f}"
    axis.text(row.ms_median + longest * 0.012, line, label, **style)
    for x, value in zip(_F1_COLUMNS, (row.token_f1, row.character_f1), strict=True):
        axis.text(
            x, line, f"{value:.1f}", ha="right", transform=axis.get_yaxis_transform(), **style
        )


def draw_memory(soak: Soak, path: Path) -> None:
    """MB over minutes, and the medians of the quarters that are compared."""
    figure = new_figure(8, 3.4)
    axis = figure.subplots()
    minutes = [seconds / 60 for seconds, _ in soak.memory]
    axis.plot(minutes, [mb for _, mb in soak.memory], color=_OURS, linewidth=1)
    end = minutes[-1]
    for number in (2, 4):
        level = soak.quarter(number)
        span = (end * (number - 1) / 4, end * number / 4)
        axis.plot(span, (level, level), color=_INK, linewidth=2)
        axis.annotate(
            f"{level:.0f} MB", (sum(span) / 2, level), (0, 6), textcoords="offset points",
            ha="center", fontsize=9, color=_INK, fontweight="bold",
        )  # fmt: skip
    axis.set_ylim(0, soak.peak_mb * 1.15)
    axis.set_xlim(0, end)
    axis.set_xlabel(f"minutes of mixed sizes, {soak.pages} pages", fontsize=9, color=_FAINT)
    axis.set_ylabel("MB of the server", fontsize=9, color=_FAINT)
    axis.tick_params(labelsize=8, colors=_FAINT, length=0)
    axis.grid(axis="y", color=_GRID)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
    title = f"Memory: last quarter {100 * soak.growth:+.1f} % against the second"
    axis.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")
    _save(figure, path)
