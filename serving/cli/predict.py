"""`ocr-hpi predict`: read files without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.cli.options import DEFAULT_PIPELINES, models_option
from serving.errors import InputError

if TYPE_CHECKING:
    from serving.api import PageResult


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path),
    default=DEFAULT_PIPELINES[0],
    show_default=True,
    help="The pipeline YAML.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "paddlex"]),
    default="text",
    show_default=True,
    help="text: the lines. json: one object per page, with scores and boxes. paddlex: as PaddleX.",
)
@click.option(
    "--save-img",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for images of the pages with boxes and text drawn.",
)
@models_option
def command(
    paths: tuple[str, ...], pipeline: Path, form: str, save_img: Path | None, models: Path
) -> None:
    """Read images, PDFs, folders or URLs and print their text page by page.

    A file that cannot be read is reported on stderr; the rest is read, and the exit code is 1.
    """
    from serving import load_pipeline

    failed = False
    with load_pipeline(pipeline, models=models) as ocr:
        for path in paths:
            try:
                for result in ocr.predict(path):
                    _print(result, form)
                    if save_img is not None:
                        click.echo(f"saved {result.save_to_img(save_img)}", err=True)
            except InputError as error:
                message = str(error)
                click.echo(
                    f"Error: {message if path in message else f'{path}: {message}'}", err=True
                )
                failed = True
    if failed:
        raise click.exceptions.Exit(1)


def _print(result: PageResult, form: str) -> None:
    if form == "paddlex":
        result.print()
    elif form == "json":
        lines = [
            {"data": line.text, "score": line.score, "box": [list(point) for point in line.box]}
            for line in result.lines
        ]
        size = {"width": result.page.width, "height": result.page.height}
        page = {"path": result.name, "page": result.page_index or 0, **size, "lines": lines}
        click.echo(json.dumps(page, ensure_ascii=False))
    else:
        for line in result.lines:
            click.echo(line.text)
