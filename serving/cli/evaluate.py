"""`ocr-hpi evaluate`: accuracy of a pipeline on labelled images, compared with another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.cli.options import Command, Parsed, max_pixels_option, models_option

if TYPE_CHECKING:
    from serving.evaluate.figures import Evaluation


def _bound(text: str) -> tuple[str, float]:
    """FIGURE=VALUE, as (figure, value)."""
    from serving.evaluate.figures import FIGURES, TIMES

    figure, _, bound = text.partition("=")
    known = [name for name in FIGURES if name not in TIMES]
    if figure not in known:
        raise ValueError(f"{figure!r} is none of {', '.join(known)}")
    try:
        number = float(bound)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"{text!r}: give a value from 0 to 1, as in char_f1=0.95")
    return figure, number


def data_option(*, required: bool) -> Callable[[Command], Command]:
    return click.option(
        "--data",
        required=required,
        type=click.Path(path_type=Path),
        help="Labels: a file, a folder with a truth.json, Label.txt or rec_gt.txt, or a folder of "
        "such folders.",
    )


by_option = click.option(
    "--by",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Percentage points by which it may be worse.",
)
confidence_option = click.option(
    "--confidence",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0.5, 0.999),
    help="How sure it must be that it is worse, for all these figures together.",
)


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path), metavar="PIPELINE.yaml")
@data_option(required=True)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER.yaml",
    help="A second pipeline to compare with.",
)
@click.option(
    "--fold",
    multiple=True,
    type=click.Choice(["case", "width"]),
    help="Treat upper case, or full-width forms, like their counterparts. May be given twice.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Write a page of figures, confusions and pictures, with FILE.json and FILE.csv beside it.",
)
@click.option(
    "--fail-below",
    "bounds",
    multiple=True,
    type=Parsed("FIGURE=VALUE", _bound),
    help="Exit with code 1 if a figure over all labels is below this fraction, as in "
    "char_f1=0.95. May be given more than once.",
)
@click.option(
    "--fail-if-worse-than",
    "rival",
    type=click.Path(path_type=Path),
    metavar="OTHER.yaml",
    help="Compare with it, and exit with code 1 if det_hmean, char_f1, token_f1, rec_accuracy or "
    "rec_ned is worse by more than --by, with --confidence.",
)
@by_option
@confidence_option
@max_pixels_option
@models_option
def command(
    pipeline: Path,
    data: Path,
    against: Path | None,
    fold: tuple[str, ...],
    report: Path | None,
    bounds: tuple[tuple[str, float], ...],
    rival: Path | None,
    by: float,
    confidence: float,
    max_pixels: int,
    models: Path,
) -> None:
    """Accuracy of a pipeline on labels, by set and in total, beside that of another one.

    Pages are read whole, crops of lines by the recogniser alone. A difference has a 95 % bootstrap
    interval over pages or lines. A wrong label is named, left out and counted. Labels are
    PaddleOCR's or PPOCRLabel's text files, COCO-Text, or a truth.json, which is [{"image": FILE,
    "lines": [{"text": TEXT, "poly": [[X, Y], ...]}]}]; poly may be left out.
    """
    from rich.console import Console

    from serving.evaluate.figures import evaluate
    from serving.evaluate.labels import read_labels

    if rival is not None and against not in (None, rival):
        raise click.UsageError("--against and --fail-if-worse-than name different pipelines")
    if report is not None:
        if report.suffix != ".html":
            raise click.UsageError(f"--report {report}: give a name that ends in .html")
        report.parent.mkdir(parents=True, exist_ok=True)
    other = against or rival
    labels = read_labels(data)
    with Console(stderr=True).status("reading") as status:
        found = evaluate(
            [pipeline] if other is None else [pipeline, other],
            labels,
            models,
            fold=fold,
            max_pixels=max_pixels,
            on_progress=status.update,
        )
    print_figures(found)
    if report is not None:
        from serving.evaluate.report import write_report

        write_report(found, report)
        click.echo(f"report: {report}, {report.with_suffix('.json')}, {report.with_suffix('.csv')}")
    failures = below(found, bounds)
    if rival is not None:
        failures += worse(found, by, confidence)
    if failures:
        raise click.ClickException("; ".join(failures))


def print_figures(found: Evaluation) -> None:
    """The figures as a table, and what differs beyond noise."""
    from rich.console import Console
    from rich.table import Table

    from serving.evaluate.figures import MIN_UNITS, TIMES

    table = Table("set", "figure", *found.pipelines)
    if compared := len(found.pipelines) == 2:
        table.add_column("difference, 95 %")
    for group in (*found.groups, None):
        if group is None and len(found.groups) == 1:
            break
        differences = found.differences(group)
        size = len(found.pages) if group is None else found.groups[group]
        for name, values in found.figures(group).items():
            cells = [f"{value:.1f}" if name in TIMES else f"{100 * value:.2f}" for value in values]
            if name in differences:
                value, low, high = (100 * part for part in differences[name])
                cells.append(f"{value:+.2f} ({low:+.2f} to {high:+.2f})")
            table.add_row(f"{group or 'total'} ({size})", name, *cells)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)
    if found.problems:
        click.echo(f"left out: {len(found.problems)}, for example {found.problems[0]}")
    if compared:
        changes = [f"{name} is {change}" for name, change in found.changes().items()]
        few = f"under {MIN_UNITS} pages or lines cannot tell a difference from noise"
        none = "no difference beyond noise" if found.differences() else few
        click.echo(f"{' against '.join(found.pipelines)}: {', '.join(changes) or none}")


def below(found: Evaluation, bounds: tuple[tuple[str, float], ...]) -> list[str]:
    """Why `--fail-below` fails."""
    from serving.errors import ConfigError

    figures, failures = found.figures(), []
    for name, bound in bounds:
        if name not in figures:
            raise ConfigError(f"--fail-below {name}: these labels give only {', '.join(figures)}")
        if figures[name][0] < bound:
            failures.append(f"{name} is {figures[name][0]:.4f}, below {bound}")
    return failures


def too_few() -> str:
    """What is said where labels cannot tell a difference from noise."""
    from serving.evaluate.figures import MIN_UNITS

    return f"too few labels to compare: give {MIN_UNITS} pages or lines"


def worse(found: Evaluation, by: float, confidence: float) -> list[str]:
    """Why the first pipeline fails beside the second. Raises ConfigError for too few labels."""
    from serving.errors import ConfigError

    differences, figures = found.differences(), found.figures()
    if not differences:
        raise ConfigError(too_few())
    return [
        f"{name} is {100 * figures[name][0]:.2f}, worse by more than {by:g} points than "
        f"{100 * figures[name][1]:.2f} of {found.pipelines[1]} (95 %: "
        f"{100 * differences[name].low:+.2f} to {100 * differences[name].high:+.2f})"
        for name, change in found.changes(by / 100, confidence).items()
        if change == "worse"
    ]
