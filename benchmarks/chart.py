"""The benchmark as a picture: bars of ms a page by set, with F1 beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.report import Row

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
OURS, PEER = "#0b6e4f", "#b8c4ce"
HEADS = {"same": "same files and values", "own": "each as it comes"}
_WIDEST = 0.56
"""Of a panel's width, for its longest bar; labels and F1 stand beside it."""


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure on white. Raises ConfigError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"the chart needs matplotlib ({error}); run: "
            'python -m pip install "paddleocr-hpi-serving[benchmark]", or scripts/benchmark.sh'
        ) from None
    return Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")


def save(drawn: Any, path: Path) -> None:
    """Write it as PNG; no window, no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(drawn)
    drawn.savefig(path, format="png")


def draw(rows: Sequence[Row], machine: str, path: Path) -> None:
    """One panel a set: a bar a contender, shortest time first within its table."""
    groups = list(dict.fromkeys(row.group for row in rows))
    tables = [table for table in HEADS if any(row.table == table for row in rows)]
    counts = [sum(row.group == group for row in rows) + len(tables) + 1 for group in groups]
    drawn = figure(9.6, 0.8 + 0.28 * sum(counts))
    axes = drawn.subplots(len(groups), 1, squeeze=False, height_ratios=counts)[:, 0]
    for group, axis in zip(groups, axes, strict=True):
        _panel(axis, [row for row in rows if row.group == group], tables)
    drawn.suptitle(
        "Milliseconds a page (median), and as a multiple of ours",
        x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK,
    )  # fmt: skip
    drawn.supxlabel(machine, x=0.99, ha="right", fontsize=8, color=FAINT)
    save(drawn, path)


def _panel(axis: Any, rows: Sequence[Row], tables: Sequence[str]) -> None:
    longest = max(row.ms_median for row in rows)
    place, ticks = 0, {}
    for table in tables:
        head = {"va": "center", "fontsize": 8, "color": FAINT}
        if len(tables) > 1:
            axis.text(longest * 0.005, place, HEADS[table], **head)
        for share, name in ((0.86, "token F1"), (1.0, "character F1")):
            axis.text(share, place, name, ha="right", transform=axis.get_yaxis_transform(), **head)
        mine = sorted((row for row in rows if row.table == table), key=lambda row: row.ms_median)
        for step, row in enumerate(mine, 1):
            _bar(axis, place + step, row, longest)
            ticks[place + step] = row.contender
        place += len(mine) + 1
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=9, color=INK)
    axis.set_ylim(place - 0.4, -0.6)
    axis.set_xlim(0, longest / _WIDEST)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.axvline(0, color=FAINT, linewidth=0.8)
    title = f"{rows[0].group}, {rows[0].pages} pages"
    axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")


def _bar(axis: Any, place: int, row: Row, longest: float) -> None:
    ours = row.contender.startswith("ours")
    weight = "bold" if ours else "normal"
    axis.barh(place, row.ms_median, height=0.7, color=OURS if ours else PEER)
    text = {"va": "center", "fontsize": 8.5, "color": INK, "fontweight": weight}
    label = f"{row.ms_median:,.0f} ms   × {row.ratio_median:.2f}"
    axis.text(row.ms_median + longest * 0.012, place, label, **text)
    for share, value in ((0.86, row.token_f1), (1.0, row.character_f1)):
        axis.text(
            share, place, f"{value:.1f}", ha="right", transform=axis.get_yaxis_transform(), **text
        )
