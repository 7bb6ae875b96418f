"""`ocr-hpi plan`: what was tried, what was chosen, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Column, Table

from serving.cli.options import DEVICE, models_option, pipelines_argument

if TYPE_CHECKING:
    from serving.plan.plan import BatchTrial, ModelPlan, Plan, Trial


@click.command()
@pipelines_argument
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Number of cores whose plan is shown.  [default: all usable]",
)
@click.option(
    "--device", type=DEVICE, help="Device whose plan is shown.  [default: what `build` chose]"
)
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


def _table(title: str, *columns: Column | str) -> Table:
    return Table(*columns, title=title, title_justify="left")


def _numbers(header: str) -> Column:
    return Column(header, justify="right")


def _style(chosen: bool) -> str | None:
    return "bold" if chosen else None


def _model_table(section: str, model: ModelPlan) -> Table:
    columns = "engine", _numbers("ms"), "agreement", "verdict", "reason"
    table = _table(f"{section}: {model.model}", *columns)
    for trial in model.trials:
        table.add_row(
            str(trial.spec),
            _number(trial.ms, 1),
            _agreement(trial),
            trial.verdict,
            trial.reason or _nodes(trial),
            style=_style(trial.verdict == "chosen"),
        )
    return table


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
    columns = map(_numbers, ("pages/s", "single request, ms", "small picture, ms"))
    table = _table("whole pages", "engines", *columns, "")
    for item in plan.combinations:
        table.add_row(
            "; ".join(f"{section}: {spec}" for section, spec in item.engines.items()),
            _number(item.pages_per_second, 2),
            _number(item.latency_ms, 0),
            _number(item.small_latency_ms, 0),
            "chosen" if item.chosen else "",
            style=_style(item.chosen),
        )
    return table


def _worker_table(plan: Plan) -> Table:
    columns = map(_numbers, ("processes", "pages/s together", "single request, ms"))
    title = "worker processes, which share the cores"
    table = _table(title, *columns, "MiB each", "", "reason")
    for trial in plan.worker_trials:
        table.add_row(
            str(trial.workers),
            _number(trial.pages_per_second, 2),
            _number(trial.latency_ms, 0),
            ", ".join(f"{kind} {size}" for kind, size in trial.memory_mb.items()),
            "chosen" if trial.chosen else "",
            trial.reason,
            style=_style(trial.chosen),
        )
    return table
