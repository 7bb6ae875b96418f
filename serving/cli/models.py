"""`ocr-hpi models`: what is here, what can be fetched, and which languages it reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.cli.options import models_option

if TYPE_CHECKING:
    from serving.models.manifest import KnownModel


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@models_option
def command(names: tuple[str, ...], models: Path) -> None:
    """List these MODELs, or all that are known or here, and what the recognisers read.

    A language is named when its letters are in the recogniser's dictionary. A model that is not
    here is not asked: fetch it first.
    """
    from rich.console import Console
    from rich.table import Table

    from serving.errors import ModelInvalid, ModelMissing
    from serving.models.store import Store

    store = Store(models)
    known = store.manifest.models
    table = Table("model", "kind", "here", "licence", "comes from")
    readers = []
    for name in names or [*known, *store.own()]:
        model = known.get(name)
        here = ""
        try:
            folder = store.folder(name)
            here = f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB"
            readers.append((name, folder, model))
        except ModelMissing:
            if model is None:
                raise
        except ModelInvalid as error:
            here = "incomplete"
            click.echo(str(error), err=True)
        kind, licence = (model.kind, model.licence) if model else ("your own", "")
        table.add_row(name, kind, here, licence, _origin(model))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for name, folder, model in readers:
        if model is None or model.kind == "text_recognition":
            _print_languages(name, folder)


def _origin(model: KnownModel | None) -> str:
    from serving.models.manifest import WheelSource

    if model is None:
        return ""
    first = model.sources[0]
    if isinstance(first, WheelSource):
        return f"{first.wheel}, {first.wheel.megabytes} MB"
    return "PaddleX's hosts"


def _print_languages(name: str, folder: Path) -> None:
    from serving.config.model import RecognitionModel, load_model
    from serving.errors import ModelInvalid
    from serving.models.languages import languages

    try:
        model = load_model(folder, name, "text_recognition")
    except ModelInvalid:  # a model of the user's of another kind
        return
    assert isinstance(model, RecognitionModel)
    found = languages(model.characters)
    click.echo(f"\n{name} reads {len(found.whole)} languages: {', '.join(found.whole)}")
    if found.partly:
        parts = (f"{language} without {letters}" for language, letters in found.partly.items())
        click.echo(f"  partly: {', '.join(parts)}")
    click.echo(f"  not: {', '.join(found.lacking)}")
