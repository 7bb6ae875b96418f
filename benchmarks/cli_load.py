"""`ocr-hpi load`: what the server bears, beside `load_pipeline` and PaddleX's serving."""

from __future__ import annotations

import datetime
import sys
import tempfile
from functools import partial
from pathlib import Path

import click

from benchmarks.cli_compare import Counts, data_options
from serving.cli.options import models_option

_SECONDS = click.FloatRange(min=0, min_open=True)


@click.command()
@data_options
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path),
    default=Path("configs/PP-OCRv4_mobile.yaml"),
    show_default=True,
    help="What is served; PaddleX gets its models and values.",
)
@click.option(
    "--paddlex",
    type=click.Path(exists=True, path_type=Path),
    metavar="PYTHON",
    help="A Python with paddlex[ocr,serving] and onnxruntime, to load PaddleX's serving too.",
)
@click.option("--clients", type=Counts(), default="1,4,32", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--phase", type=_SECONDS, default=10.0, show_default=True, help="Seconds of a closed load."
)
@click.option(
    "--seconds", type=_SECONDS, default=60.0, show_default=True,
    help="Seconds of the open load at twice the pages/s of the best closed load.",
)  # fmt: skip
@click.option(
    "--report", type=click.Path(file_okay=False, path_type=Path), default=Path("reports"),
    show_default=True, help="Folder for serve.json and serve.md.",
)  # fmt: skip
@models_option
def command(
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
    """Load a server of its own: pages a second, latencies, refusals, memory.

    Closed loads (each client sends anew when answered) in rounds, in turn with load_pipeline on
    the same bytes; then an open load at twice what it bears. Line orientation off for all.
    bash scripts/benchmark.sh --serve prepares all it needs, with --peers PaddleX's serving too.
    """
    from rich.console import Console
    from rich.table import Table

    from benchmarks import peers
    from benchmarks import serve_report as reports
    from benchmarks.rendered import rendered_pages
    from benchmarks.serve_run import Asked, run
    from benchmarks.serve_servers import PaddleX
    from serving.evaluate import labelled_pages
    from serving.machine import cpu_name, usable_cores

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pages = labelled_pages(data, groups) if data else rendered_pages(scratch)
        asked = Asked(
            pipeline,
            models,
            [page.path for page in pages],
            clients=clients,
            rounds=rounds,
            seconds=phase,
            open_seconds=seconds,
        )
        peer = None
        if paddlex is not None:
            [spec] = peers.paddlex_on(pipeline, models, paddlex, scratch / "peer", "onnxruntime")
            peer = partial(PaddleX, Path(spec.settings["yaml"]), paddlex)
        with Console(stderr=True).status("starting") as status:
            found = run(asked, scratch, paddlex=peer, tell=status.update)
    facts = {
        "pages": f"{len(pages)} of {data or 'those rendered here'}",
        "machine": f"{cpu_name()}, {usable_cores()} cores, shared with the load generator",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": f"{rounds} of {phase:g} s each, interleaved; medians",
    }
    paths = reports.write(report, found, facts)
    table = Table(*reports.HEAD)
    for row in found.closed:
        table.add_row(*reports.cells(row))
    # Into a file, as wide as the table needs.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for line in reports.words(found):
        click.echo(line)
    click.echo(f"written: {', '.join(map(str, paths))}")
