"""`ocr-hpi evaluate`: accuracy of a pipeline on labelled pages, compared with another."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from serving.cli.options import max_pixels_option, models_option


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path), metavar="PIPELINE.yaml")
@click.option(
    "--data",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder with images and a truth.json, or a folder of such folders.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER.yaml",
    help="A second pipeline to compare with.",
)
@max_pixels_option
@models_option
def command(
    pipeline: Path, data: Path, against: Path | None, max_pixels: int, models: Path
) -> None:
    """Token and character F1 of a pipeline, by folder and in total.

    truth.json is [{"image": FILE, "lines": [{"text": TEXT}]}]. F1 is micro-averaged over bags of
    tokens, and of characters without white space, page by page; case is kept. The edit distance
    of the whole text, over the longer length, also counts what is read in another order.
    """
    from rich.console import Console
    from rich.table import Table

    from serving.evaluate import TOTAL, evaluate, labelled_pages

    pages = labelled_pages(data)
    yamls = [pipeline] if against is None else [pipeline, against]
    with Console(stderr=True).status("reading") as status:
        results = [
            evaluate(yaml, pages, models, max_pixels=max_pixels, on_progress=status.update)
            for yaml in yamls
        ]
    table = Table(
        "set", "pages", "pipeline", "token F1", "char F1", "char precision", "char recall",
        "edit distance",
    )  # fmt: skip
    for group in results[0]:
        for yaml, scores in zip(yamls, results, strict=True):
            score = scores[group]
            figures = (score.tokens.f1, score.characters.f1, score.characters.precision,
                       score.characters.recall, score.order)  # fmt: skip
            table.add_row(
                group, str(score.pages), str(yaml), *(f"{100 * figure:.2f}" for figure in figures)
            )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if len(results) == 2:
        first, second = (scores[TOTAL] for scores in results)
        tokens = 100 * (first.tokens.f1 - second.tokens.f1)
        characters = 100 * (first.characters.f1 - second.characters.f1)
        click.echo(
            f"{pipeline} against {against}: token F1 {tokens:+.2f}, character F1 {characters:+.2f}"
        )
