"""`ocr-hpi bulk`: read many documents to Parquet or JSON lines, and lose none."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from serving.cli.options import (
    COUNT,
    DEFAULT_PIPELINES,
    DEVICE,
    checked_options,
    max_pages_option,
    max_pixels_option,
    models_option,
    override_options,
    pdf_dpi_option,
    pdf_text_option,
    setting,
)
from serving.config.options import MAX_PAGES, PdfText

if TYPE_CHECKING:
    from serving.bulk.run import Executor, Progress
    from serving.bulk.shards import Form


@click.command()
@click.argument("source", metavar="INPUT")
@click.argument("output", metavar="OUTPUT", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path),
    help=f"The pipeline YAML.  [default: {DEFAULT_PIPELINES[0]}]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "jsonl"]),
    default="parquet",
    show_default=True,
    help="Format of the shards: Parquet or JSON Lines.",
)
@click.option("--column", help="Column of a Parquet INPUT with the documents' bytes or addresses.")
@click.option(
    "--shard-pages",
    type=COUNT,
    default=1000,
    show_default=True,
    help="Pages of a shard, the unit of commit: a killed run reads fewer than these again.",
)
@click.option(
    "--max-error-rate",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of pages that may fail. The run stops early once chance cannot explain more.",
)
@click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS",
    help="Read on the Ray cluster at HOST:PORT; auto is the cluster of this node. Needs the extra "
    "ray.",
)
@click.option(
    "--server",
    "servers",
    metavar="URL[,URL]",
    help="Read by running servers, as http://host:8868 or http://host:8868/ocr/v1/NAME.",
)
@setting(
    "--api-key", help="API key for --server; better in the environment than on the command line."
)
@click.option(
    "--price-per-hour",
    type=click.FloatRange(0),
    help="Price of all machines per hour, for the summary.",
)
@setting("--device", type=DEVICE, help="cpu, gpu or gpu:0,1.  [default: what `build` chose]")
@pdf_dpi_option
@pdf_text_option
@max_pixels_option
@max_pages_option(MAX_PAGES, "a document")
@override_options
@models_option
def command(
    source: str,
    output: Path,
    pipeline: Path | None,
    form: Form,
    column: str | None,
    shard_pages: int,
    max_error_rate: float,
    ray_address: str | None,
    servers: str | None,
    api_key: str | None,
    price_per_hour: float | None,
    device: str | None,
    pdf_dpi: int,
    pdf_text: PdfText,
    max_pixels: int,
    max_pages: int,
    models: Path,
    **overrides: Any,
) -> None:
    """Read the documents of INPUT into shards in the folder OUTPUT, one row per page.

    INPUT: a folder, a glob, a list of addresses (.txt), a tar archive, Parquet, or an address in an
    object store, as s3://bucket/folder. What cannot be read becomes a row with its error. The same
    command again reads what is not in OUTPUT yet. The exit code is 1 if more pages of OUTPUT failed
    than --max-error-rate allows.
    """
    options = checked_options(overrides)
    given = click.get_current_context().get_parameter_source("device")
    here = given is ParameterSource.COMMANDLINE
    if servers and (pipeline or here or ray_address):
        raise click.UsageError(
            "--server: the servers say pipeline and device; leave the others out"
        )

    from serving.bulk.inputs import Listing
    from serving.bulk.read import ReadSettings
    from serving.bulk.run import run
    from serving.bulk.shards import open_output
    from serving.config.pipeline import load_config
    from serving.imaging.formats import Limits
    from serving.progress import progress_on

    limits = Limits(max_pixels, max_pages)
    figures = "reading"

    def show(progress: Progress) -> None:
        nonlocal figures
        figures = _figures(progress)

    def executor(documents: int) -> Executor:
        if servers:
            from serving.bulk.server import ServerExecutor

            urls = servers.split(",")
            return ServerExecutor(urls, options, pdf_dpi, pdf_text, limits, api_key)
        config = load_config(pipeline or DEFAULT_PIPELINES[0])
        reading = ReadSettings(config, models, device, options, pdf_dpi, pdf_text, limits)
        if ray_address:
            from serving.bulk.ray import RayExecutor

            return RayExecutor(reading, ray_address, documents)
        from serving.bulk.local import LocalExecutor

        return LocalExecutor(reading)

    listing = Listing(column)
    listing.add_input(source)
    if output.absolute().is_relative_to(listing.source):
        raise click.UsageError(
            f"OUTPUT is in INPUT, {listing.source}: its shards would be read, too"
        )
    found = f"{len(listing.documents)} documents"
    if listing.left_out:
        found += f"; {listing.left_out} files left out: listed twice, or named as no image or PDF"
    click.echo(found, err=True)
    try:
        with closing(executor(len(listing.documents))) as reader:
            settings = {"input": listing.source, "column": column, **reader.settings}
            with (
                open_output(output, form, settings, shard_pages) as shards,
                progress_on().step(lambda: figures),
            ):
                done = run(
                    listing.documents,
                    shards,
                    reader,
                    max_error_rate=max_error_rate,
                    on_progress=show,
                )
                summary = _summary(done, price_per_hour)
                shards.write_summary(summary)
    except KeyboardInterrupt:
        click.echo("interrupted: the same command reads the rest", err=True)
        raise click.exceptions.Exit(130) from None
    click.echo(_text(summary), err=True)
    errors = (done.errors + done.errors_before).total()
    pages = done.pages + done.pages_before
    if errors > max_error_rate * pages:
        first = done.first_error or "in an earlier run; OUTPUT's rows have all"
        raise click.ClickException(
            f"{errors} of {pages} pages failed, more than --max-error-rate {max_error_rate:g}; the "
            f"first: {first}"
        )


def _summary(done: Progress, price_per_hour: float | None) -> dict[str, Any]:
    seconds = done.seconds
    summary: dict[str, Any] = {
        "documents": done.documents,
        "pages": done.pages,
        "pages_before": done.pages_before,
        "errors": dict(done.errors),
        "errors_before": dict(done.errors_before),
        "seconds": round(seconds, 1),
        "pages_per_second": round(done.pages / seconds, 2),
        "hours": round(seconds / 3600, 4),
    }
    if price_per_hour is not None:
        summary["cost"] = round(seconds / 3600 * price_per_hour, 4)
    return summary


def _text(summary: dict[str, Any]) -> str:
    """For example `1980 pages read, 20 failed (20 undecodable), 4.9 pages/s, 0.11 hours`."""
    errors = summary["errors"]
    parts = [f"{summary['pages'] - sum(errors.values())} pages read"]
    if errors:
        kinds = ", ".join(f"{count} {code}" for code, count in errors.items())
        parts.append(f"{sum(errors.values())} failed ({kinds})")
    if summary["pages_before"]:
        failed = sum(summary["errors_before"].values())
        of_them = f" ({failed} of them failed)" if failed else ""
        parts.append(f"{summary['pages_before']} already there{of_them}")
    parts += [f"{summary['pages_per_second']:g} pages/s", f"{summary['hours']:g} hours"]
    if "cost" in summary:
        parts.append(f"cost {summary['cost']:g}")
    return ", ".join(parts)


def _figures(progress: Progress) -> str:
    """For example `90 of 400 documents, 1200 pages, 3 failed, 4.9 pages/s, 0:12:30 left`."""
    left = progress.seconds_left
    return (
        f"{progress.before + progress.begun} of {progress.documents} documents, "
        f"{progress.pages} pages, {progress.errors.total()} failed, "
        f"{progress.pages / progress.seconds:.1f} pages/s"
        + (f", {timedelta(seconds=round(left))} left" if left is not None else "")
    )
