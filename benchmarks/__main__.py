"""`python -m benchmarks compare | serve | mixed | soak | check-gpu`; scripts/benchmark.sh runs it.

Not installed with the package: a server needs none of this.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from serving.cli.options import DEFAULT_PIPELINES, models_option
from serving.errors import OcrError

if TYPE_CHECKING:
    from benchmarks.report import Table

Command = TypeVar("Command", bound=Callable[..., Any])

_POSITIVE = click.FloatRange(min=0, min_open=True)
_FILE = click.Path(path_type=Path)


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """Whole numbers from 1 up, separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is not a list of numbers, for example 1,4,32", param, ctx)
        return tuple(map(int, parts))


class Commands(click.Group):
    """Turns an error into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OcrError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Speed and accuracy of this project beside its peers."""


def data_options(command: Command) -> Command:
    """`--data DIR` and `--set NAME` (`groups`)."""
    command = click.option(
        "--set", "groups", multiple=True, metavar="NAME", help="Only these subfolders of it."
    )(command)
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with truth.json, or of such folders. Default: pages rendered here.",
    )(command)


def pipeline_option(command: Command) -> Command:
    """`--pipeline YAML`."""
    return click.option(
        "--pipeline", type=_FILE, default=DEFAULT_PIPELINES[0], show_default=True,
        help="What is served.",
    )(command)  # fmt: skip


def python_option(name: str, help: str) -> Callable[[Command], Command]:
    """The Python of a peer's environment."""
    path = click.Path(exists=True, path_type=Path)
    return click.option(name, type=path, metavar="PYTHON", help=help)


def report_option(command: Command) -> Command:
    """`--report DIR`."""
    return click.option(
        "--report", type=click.Path(file_okay=False, path_type=Path), default=Path("reports"),
        show_default=True, help="Folder for the results as JSON, Markdown and a chart.",
    )(command)  # fmt: skip


@main.command()
@data_options
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    type=_FILE,
    default=DEFAULT_PIPELINES,
    show_default=True,
    help="Our pipelines; the peers get the models and values of the first.",
)
@python_option(
    "--paddlex", "A Python with paddlex[ocr], paddlepaddle and onnxruntime, to compare PaddleX."
)
@python_option(
    "--rapidocr", "A Python with rapidocr, onnxruntime and openvino, to compare RapidOCR."
)
@python_option("--turboocr", "A Python with turboocr[cpu], to compare TurboOCR, --by-model only.")
@click.option(
    "--by-model",
    "model_by_model",
    is_flag=True,
    help="Peers for every pipeline whose models they run, each on its fastest engine for a CPU; a "
    "table by model. Ratios are to our pipeline with the same models. No profiles.",
)
@click.option(
    "--concurrency",
    type=Counts(),
    default=(),
    help="Also the throughput of one process with so many callers, for example 1,4.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="How often all images are read. The first round is shown apart: new shapes cost more.",
)
@report_option
@models_option
def compare(report: Path, **settings: Any) -> None:
    """Milliseconds a page and F1 against the truth, line orientation off for all.

    Every image is given to all systems in turn, as a path: each decodes it itself. Each first reads
    two pages of every dataset unmeasured. Then, of our pipelines alone: time by stage, processor
    time outside the engines, and efficiency. bash scripts/benchmark.sh --peers prepares the peers.
    """
    from benchmarks import charts
    from benchmarks import report as reports
    from benchmarks.compare import compare as run

    if settings["turboocr"] and not settings["model_by_model"]:
        raise click.UsageError("--turboocr needs --by-model")
    charts.new_figure()  # a missing matplotlib is reported before the work, not after
    with Console(stderr=True).status("loading") as status:
        comparison = run(**settings, progress=status.update)
    facts = reports.machine_facts() | {
        "pages": str(settings["data"] or "rendered by this project"),
        "rounds": str(settings["rounds"]),
    }
    files = reports.write_comparison(report, comparison, facts)
    _show(reports.comparison_tables(comparison), files)


@main.command()
@data_options
@pipeline_option
@python_option(
    "--paddlex", "A Python with paddlex[ocr,serving] and onnxruntime, to load PaddleX's server too."
)
@click.option(
    "--clients", "--in-flight", type=Counts(), default="1,4,32", show_default=True,
    help="Of the closed loops: each has one request in flight.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True,
    help="Rounds of the closed-loop loads, in turn; medians are shown.",
)  # fmt: skip
@click.option(
    "--phase",
    type=_POSITIVE,
    default=10.0,
    show_default=True,
    help="Seconds of each closed-loop load.",
)
@click.option(
    "--seconds",
    type=_POSITIVE,
    default=60.0,
    show_default=True,
    help="Seconds of the open-loop load at twice the best throughput.",
)
@report_option
@models_option
def serve(
    data: Path | None,
    groups: tuple[str, ...],
    pipeline: Path,
    paddlex: Path | None,
    clients: tuple[int, ...],
    rounds: int,
    phase: float,
    seconds: float,
    report: Path,
    models: Path,
) -> None:
    """Load test of a server started here: throughput, latency, refusals, memory.

    Closed-loop load (each client sends again once it was answered) in rounds, in turn with
    load_pipeline on the same images; then open-loop load at twice the best throughput. Line
    orientation off for all. bash scripts/benchmark.sh --serve prepares everything, with --peers
    PaddleX's server too.
    """  # fmt: skip
    from benchmarks import report as reports
    from benchmarks.rendered import rendered_pages
    from benchmarks.serve import load_test
    from serving.evaluate.labels import read_labels

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pages = read_labels(data, groups).pages if data else rendered_pages(scratch)
        with Console(stderr=True).status("starting") as status:
            result = load_test(
                pipeline, models, pages, scratch, clients=clients, rounds=rounds,
                seconds=phase, open_seconds=seconds, paddlex=paddlex,
                progress=status.update,
            )  # fmt: skip
    facts = reports.machine_facts() | {
        "load generator": "on the same cores",
        "pages": f"{len(pages)}, {data or 'rendered by this project'}",
        "rounds": f"{rounds} of {phase:g} s each, interleaved; medians",
    }
    files = reports.write_load_test(report, result, facts)
    _show(reports.load_tables(result), files)


@main.command()
@click.option(
    "--pipeline", "pipelines", multiple=True, type=_FILE, required=True,
    help="Served side by side: small images go to the first, pages to the second, long documents "
    "to the third.",
)  # fmt: skip
@click.option(
    "--seconds", type=_POSITIVE, default=60.0, show_default=True,
    help="Seconds of each open-loop load.",
)  # fmt: skip
@report_option
@models_option
def mixed(pipelines: tuple[Path, ...], seconds: float, report: Path, models: Path) -> None:
    """Mixed load on one server: small images, pages and long documents on three pipelines.

    Whether small images wait for the rest: their latency beside the others and alone, both at 70 %
    of the server's capacity. bash scripts/benchmark.sh --serve --mixed prepares everything.
    """
    from benchmarks import report as reports
    from benchmarks.mixed import KINDS, mixed_load

    if len(pipelines) != len(KINDS):
        raise click.UsageError(f"--pipeline: give {len(KINDS)}, for {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("starting") as status:
        result = mixed_load(
            pipelines, models, Path(folder), seconds=seconds, progress=status.update
        )
    facts = reports.machine_facts() | {"load generators": "on the same cores"}
    files = reports.write_mixed_load(report, result, facts)
    _show([reports.mixed_table(result)], files)


@main.command()
@pipeline_option
@click.option("--minutes", type=_POSITIVE, required=True, help="How long mixed sizes are read.")
@report_option
@models_option
def soak(pipeline: Path, minutes: float, report: Path, models: Path) -> None:
    """Soak test of a server started here: large inputs, then mixed sizes, and its memory.

    bash scripts/benchmark.sh --soak MINUTES prepares everything.
    """
    from benchmarks import charts
    from benchmarks import report as reports
    from benchmarks.soak import soak as run

    charts.new_figure()
    with Console(stderr=True).status("starting the server") as status:
        result = run(pipeline, models, minutes, progress=status.update)
    facts = reports.machine_facts() | {
        "pipeline": str(pipeline),
        "minutes": f"{minutes:g}, a client for each core, 200 pixels to 4000 x 6000",
        "memory": "of all the server's processes, shared pages counted once",
    }
    files = reports.write_soak(report, result, facts)
    _show(reports.soak_tables(result), files)


@main.command("check-gpu")
@click.argument("pipeline", type=_FILE, metavar="PIPELINE.yaml")
@click.option("--device", default="gpu:0", show_default=True)
@click.option("--images", type=_FILE, help="A folder of your pages, beside the rendered ones.")
@click.option(
    "--pages", type=click.IntRange(min=1), default=24, show_default=True,
    help="How many are rendered.",
)  # fmt: skip
@models_option
def check_gpu(pipeline: Path, device: str, images: Path | None, pages: int, models: Path) -> None:
    """Whether a GPU reads what the CPU reads, and how much faster.

    Exit code 0 if every check passes. bash scripts/check_gpu.sh prepares everything.
    """
    from contextlib import closing

    from benchmarks import corpus
    from benchmarks.gpu_check import check_device, measure_speed
    from serving.config import load_config
    from serving.imaging.source import load
    from serving.plan.load import open_pipeline

    config = load_config(pipeline)
    with (
        closing(open_pipeline(config, models=models, device="cpu")) as cpu,
        closing(open_pipeline(config, models=models, device=device)) as gpu,
    ):
        rendered = list(corpus.pages(seed=7, count=pages))
        own = [loaded.image for loaded in load(images)] if images else []
        checks = list(check_device(cpu, gpu, rendered, own))
        timed = [*(sample.image for sample in rendered[:12]), *own]
        speeds = measure_speed((cpu, gpu), timed)
    for check in checks:
        click.echo(f"{'passed' if check.passed else 'FAILED'} {check.text}")
    for name, speed in zip(("cpu", device), speeds, strict=True):
        click.echo(
            f"{name}: {speed.throughput:.1f} pages/s with {speed.callers} callers, "
            f"single request {speed.latency:.0f} ms"
        )
    click.echo(f"{device}: {speeds[1].throughput / speeds[0].throughput:.2f} times the throughput")
    if not all(check.passed for check in checks):
        raise click.ClickException(f"{device} does not read what the CPU reads")
    click.echo(f"verdict: {device} reads what the CPU reads")


def _show(tables: Iterable[Table], files: Iterable[Path]) -> None:
    from rich.table import Table as RichTable

    # Into a file, as wide as the table needs.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    for table in tables:
        grid = RichTable(*table.columns, title=table.title, caption=table.note,
                         title_justify="left", caption_justify="left")  # fmt: skip
        for row in table.rows:
            grid.add_row(*row)
        console.print(grid)
    click.echo(f"written: {', '.join(map(str, files))}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
