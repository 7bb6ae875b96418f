"""`ocr-hpi benchmark`: speed and accuracy, ours beside the peers'."""

from __future__ import annotations

import contextlib
import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from serving.cli.models import models_option


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with truth.json, or of such folders. Default: pages rendered here.",
)
@click.option("--set", "groups", multiple=True, metavar="NAME", help="Only these folders of it.")
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    type=click.Path(path_type=Path),
    default=[Path("configs/PP-OCRv4_mobile.yaml")],
    show_default=True,
    help="Our pipelines; the peers get the models and values of the first.",
)
@click.option(
    "--paddlex",
    type=click.Path(exists=True, path_type=Path),
    metavar="PYTHON",
    help="A Python with paddlex[ocr] and onnxruntime, to run PaddleX beside ours.",
)
@click.option(
    "--rapidocr",
    type=click.Path(exists=True, path_type=Path),
    metavar="PYTHON",
    help="A Python with rapidocr, onnxruntime and openvino, to run RapidOCR beside ours.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--report", type=click.Path(file_okay=False, path_type=Path), default=Path("reports"),
    show_default=True, help="Folder for benchmark.json and benchmark.md.",
)  # fmt: skip
@models_option
def command(
    data: Path | None,
    groups: tuple[str, ...],
    pipelines: tuple[Path, ...],
    paddlex: Path | None,
    rapidocr: Path | None,
    rounds: int,
    report: Path,
    models: Path,
) -> None:
    """Milliseconds a page and F1 against the truth, line orientation off for all.

    Every image is given to all in turn, as a path: each decodes for itself. Each first reads two
    pages of every set unmeasured. bash scripts/benchmark.sh --peers brings the peers.
    """
    from rich.console import Console
    from rich.table import Table

    from serving.benchmark import peers
    from serving.benchmark import report as reports
    from serving.benchmark.contender import Contender
    from serving.benchmark.labelled import labelled_pages, rendered_pages
    from serving.benchmark.measure import measure
    from serving.machine import cpu_name, usable_cores

    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pages = labelled_pages(data, groups) if data else rendered_pages(scratch)
        specs = [peers.ours(pipeline, models, Path(sys.executable)) for pipeline in pipelines]
        if paddlex is not None:
            specs.append(peers.paddlex(pipelines[0], models, paddlex, scratch))
        if rapidocr is not None:
            specs += [
                peers.rapidocr(pipelines[0], models, rapidocr, scratch, engine)
                for engine in ("onnxruntime", "openvino")
            ]
        contenders = []
        for spec in specs:
            contenders.append(stack.enter_context(contextlib.closing(Contender(spec))))
        status = stack.enter_context(Console(stderr=True).status("warming up"))
        found = measure(contenders, pages, rounds=rounds, tell=status.update)
    rows = reports.rows(found)
    facts: dict[str, Any] = {
        "machine": f"{cpu_name()}, {usable_cores()} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": rounds,
        **{c.name: f"{c.version}, ready in {c.start_ms:.0f} ms" for c in contenders},
    }
    reports.write(report, found, rows, facts)
    table = Table(*reports.HEAD)
    for row in rows:
        table.add_row(*reports.cells(row))
    # Into a file, as wide as the table needs.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    click.echo(f"written: {report / 'benchmark.json'}, {report / 'benchmark.md'}")
