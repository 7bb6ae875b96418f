"""`ocr-hpi init`: the shipped pipelines, for editing."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.argument(
    "folder", metavar="[DIR]", default="configs", type=click.Path(file_okay=False, path_type=Path)
)
def command(folder: Path) -> None:
    """Write the shipped pipelines into DIR, by default configs. A file that is there is kept."""
    from serving.cli.options import DEFAULT_PIPELINES
    from serving.config.pipeline import SHIPPED
    from serving.disk import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    for own in sorted(SHIPPED.glob("*.yaml")):
        target = folder / own.name
        if os.path.lexists(target):  # a link to nothing, too
            click.echo(f"{target}: kept, it was there before")
        else:
            write_atomically(target, own.read_text(encoding="utf-8"))
            click.echo(f"{target}: written")
    default = folder / DEFAULT_PIPELINES[0].name
    click.echo(f"edit one, then: ocr-hpi serve --build --pipeline accurate={default}")
