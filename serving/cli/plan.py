"""`ocr-hpi plan`: what was tried, what was chosen, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.cli.options import DEVICE, models_option, pipelines_argument

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from serving.plan.plan import BatchTrial, ModelPlan, Plan, Trial


@click.command()
@pipelines_argument
@click.option(
    "--threads", type=click.IntRange(min=1), help="Cores of the plan.  [default: all usable]"
)
@click.option("--device", type=DEVICE, help="Of the plan.  [default: what `build` chose]")
@models_option
def command(
    pipelines: tuple[Path, ...],
    threads: int | None,
    device: str | None,
    models: Path,
) -> None:
    """Show the engine plan of pipelines as tables: every candidate, its time, its verdict."""
    from serving.config import load_config
    from serving.errors import BUILD
    from serving.plan.plan import find_plan

    configs = {path: load_config(path) for path in pipelines}
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    for path, config in configs.items():
        plan = find_plan(config, models, threads, device)
        _print_head(console, path, plan)
        if warning := plan.warning(f"{BUILD} {path}"):
            console.print(warning, style="bold")
        for section, model in plan.models.items():
            console.print(_model_table(section, model))
            if model.batch_trial is not None:
                console.print(_batches(model, model.batch_trial))
        console.print(_combination_table(plan))
        console.print(_worker_table(plan))
    console.print(_legend())


_LEGEND = {
    "engine": "backend, precision and, on a CPU, streams x threads: 2x4 is 2 parallel calls of 4 "
    "threads each",
    "ms": "for all pages or lines that are timed; the shortest of several runs",
    "agreement": "with float32 ONNX Runtime: H-mean of boxes, equal answers, or character errors",
    "verdict": "chosen; accepted: passed the gate; rejected: did not pass; slower: not judged; "
    "failed: does not run",
    "pages/s": "with a caller a core; a single request and a small picture are timed alone",
}


def _legend() -> Table:
    from rich.table import Table

    legend = Table.grid(padding=(0, 2))
    for word, meaning in _LEGEND.items():
        legend.add_row(word, meaning)
    return legend


def _print_head(console: Console, path: Path, plan: Plan) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    gate = ", ".join(f"{name} {value}" for name, value in plan.gate.items())
    where = f"{plan.cores} cores of {plan.machine['cpu']}"
    if "gpu" in plan.machine:
        where = "{gpu} (compute capability {capability}, driver {driver})".format(**plan.machine)
    console.print(f"{path}: made {plan.made} for {where}; {versions}")
    console.print(f"gate: {gate}")
    console.print("calibration: {lines} lines, {characters} characters".format(**plan.calibration))
    for section, cost in plan.cold_shape_ms.items():
        console.print(
            f"the first input of a shape that is not warmed costs {section} {cost:.0f} ms"
        )


def _table(title: str, columns: str, rows: Iterable[tuple[bool, Sequence[str]]]) -> Table:
    """columns: names parted by |; those of numbers begin with >. rows: whether chosen, cells."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns.split("|"):
        table.add_column(column.lstrip(">"), justify="right" if column[:1] == ">" else "left")
    for chosen, cells in rows:
        table.add_row(*cells, style="bold" if chosen else None)
    return table


def _model_table(section: str, model: ModelPlan) -> Table:
    rows = (
        (str(t.spec), _number(t.ms, 1), _agreement(t), t.verdict, t.reason or _nodes(t))
        for t in model.trials
    )
    title = f"{section}: {model.model}"
    return _table(
        title, "engine|>ms|agreement|verdict|reason", ((r[3] == "chosen", r) for r in rows)
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _batches(model: ModelPlan, batch_trial: BatchTrial) -> str:
    """The verdict on reading short lines in batches."""
    if batch_trial.reason:
        return f"lines are read one by one: {batch_trial.reason}"
    batch = model.choice.batch
    verdict = f"read in batches of up to {batch}" if batch > 1 else "read one by one"
    same = "the same" if batch_trial.parity else "not the same"
    ratio = batch_trial.time_ratio
    return f"short lines in batches take {ratio:.2f} of their time, read {same}: {verdict}"


def _nodes(trial: Trial) -> str:
    """Nodes of the graph by provider, where the backend reports them."""
    counts = {
        name.removeprefix("nodes_"): f"{count:.0f}"
        for name, count in trial.figures.items()
        if name.startswith("nodes_")
    }
    return "nodes: " + ", ".join(f"{by} {n}" for by, n in counts.items()) if counts else ""


def _agreement(trial: Trial) -> str:
    figures = trial.figures
    if "h_mean" in figures:
        return f"H-mean {figures['h_mean']:.4f}"
    if "agreement" in figures:
        return f"{figures['agreement']:.2%} equal"
    if "error_rate" in figures:
        return f"errors {figures['error_rate']:.2%}, equal lines {figures['equal_lines']:.1%}"
    return ""


def _combination_table(plan: Plan) -> Table:
    rows = []
    for item in plan.combinations:
        engines = "; ".join(f"{section}: {spec}" for section, spec in item.engines.items())
        latencies = _number(item.latency_ms, 0), _number(item.small_latency_ms, 0)
        figures = _number(item.pages_per_second, 2), *latencies
        rows.append((item.chosen, (engines, *figures, "chosen" if item.chosen else "")))
    columns = "engines|>pages/s|>single request, ms|>small picture, ms|"
    return _table("whole pages", columns, rows)


def _worker_table(plan: Plan) -> Table:
    rows = []
    for trial in plan.worker_trials:
        figures = _number(trial.pages_per_second, 2), _number(trial.latency_ms, 0)
        memory = ", ".join(f"{kind} {size}" for kind, size in trial.memory_mb.items())
        verdict = "chosen" if trial.chosen else ""
        rows.append((trial.chosen, (str(trial.workers), *figures, memory, verdict, trial.reason)))
    columns = ">processes|>pages/s together|>single request, ms|>MiB each||reason"
    return _table("worker processes, which share the cores", columns, rows)
