"""`ocr-hpi benchmark`: speed and accuracy, ours beside the peers'.

What subcommands that measure share: their options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serving.cli.options import DEFAULT_PIPELINES, models_option

if TYPE_CHECKING:
    from benchmarks.tables import Grid


Command = TypeVar("Command", bound=Callable[..., Any])


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """Whole numbers from 1 up, parted by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is not numbers parted by commas, for example 1,4,32", param, ctx)
        return tuple(map(int, parts))


def data_options(command: Command) -> Command:
    """`--data DIR` and `--set NAME`, which is `groups`."""
    command = click.option(
        "--set", "groups", multiple=True, metavar="NAME", help="Only these folders of it."
    )(command)
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with truth.json, or of such folders. Default: pages rendered here.",
    )(command)


@click.command()
@data_options
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    type=click.Path(path_type=Path),
    default=DEFAULT_PIPELINES,
    show_default=True,
    help="Our pipelines; the peers get the models and values of the first.",
)
@click.option(
    "--paddlex",
    type=click.Path(exists=True, path_type=Path),
    metavar="PYTHON",
    help="A Python with paddlex[ocr], paddlepaddle and onnxruntime: PaddleX beside ours.",
)
@click.option(
    "--rapidocr",
    type=click.Path(exists=True, path_type=Path),
    metavar="PYTHON",
    help="A Python with rapidocr, onnxruntime and openvino: RapidOCR beside ours.",
)
@click.option(
    "--concurrency",
    type=Counts(),
    default=(),
    help="Also pages a second with so many callers of one process, for example 1,4.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="How often all images are read. The first time is told apart: new shapes cost more.",
)
@click.option(
    "--soak",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Instead: a server of the first pipeline under mixed sizes, and its memory over time.",
)
@click.option(
    "--report", type=click.Path(file_okay=False, path_type=Path), default=Path("reports"),
    show_default=True, help="Folder for what was found: JSON, Markdown and a chart.",
)  # fmt: skip
@models_option
def command(
    pipelines: tuple[Path, ...],
    models: Path,
    report: Path,
    soak: float | None,
    **what: Any,
) -> None:
    """Milliseconds a page and F1 against the truth, line orientation off for all.

    Every image is given to all in turn, as a path: each decodes for itself. Each first reads two
    pages of every set unmeasured. Then, of our pipelines alone: time by stage, processor time
    outside the engines, and their efficiency. bash scripts/benchmark.sh --peers brings the peers.
    """
    if soak is None:
        _compare(report, pipelines=pipelines, models=models, **what)
    else:
        _soak(report, pipelines[0], models, soak)


def _compare(folder: Path, **what: Any) -> None:
    from rich.console import Console

    from benchmarks.compare import Comparison
    from benchmarks.report import write
    from benchmarks.tables import grids

    with Console(stderr=True).status("loading") as status:
        found = Comparison(**what).run(status.update)
    files = write(folder, found)
    _show(grids(found))
    click.echo(f"written: {', '.join(map(str, files))}")


def _soak(folder: Path, pipeline: Path, models: Path, minutes: float) -> None:
    from rich.console import Console

    from benchmarks.soak import soak
    from benchmarks.soak_report import tables, write

    with Console(stderr=True).status("starting the server") as status:
        found = soak(pipeline, models, minutes, tell=status.update)
    files = write(folder, found)
    _show(tables(found))
    click.echo(f"written: {', '.join(map(str, files))}")


def _show(grids: Iterable[Grid]) -> None:
    from rich.console import Console
    from rich.table import Table

    # Into a file, as wide as the table needs.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for grid in grids:
        table = Table(*grid.head, title=grid.title, caption=grid.note, title_justify="left",
                      caption_justify="left")  # fmt: skip
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
