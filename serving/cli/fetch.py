"""`ocr-hpi fetch`: models into the store."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.options import DEFAULT_PIPELINES, models_option, named_models


@click.command()
@click.argument("what", nargs=-1, metavar="[PIPELINE.yaml | MODEL]...")
@click.option("--model", "names", multiple=True, metavar="NAME", help="A model, by its name.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="Take the one model that is named from this folder, archive (tar, zip) or wheel.",
)
@click.option(
    "--mirror",
    metavar="URL",
    envvar="OCR_HPI_MIRROR",
    show_envvar=True,
    help="Use this server before all other sources and instead of the official hosts: "
    "URL/NAME_infer.tar, or an address with {package} and {file} in it.",
)
@click.option(
    "--prefer",
    type=click.Choice(["onnx", "paddle"]),
    help="Try sources with this kind of graph first; onnx needs no conversion.  "
    "[default: onnx where nothing is there to convert with]",
)
@click.option(
    "--accept-new-hash",
    is_flag=True,
    help="Accept official files that differ from those of the first fetch.",
)
@models_option
def command(
    what: tuple[str, ...],
    names: tuple[str, ...],
    source: Path | None,
    mirror: str | None,
    prefer: str | None,
    accept_new_hash: bool,
    models: Path,
) -> None:
    """Fetch the models that pipelines name into the store and verify them.

    Without arguments: those of the default server, configs/PP-OCRv4_mobile.yaml. A model that is
    already there is left alone. A failed fetch leaves nothing behind.
    """
    from serving.models.conversion import can_convert
    from serving.models.files import model_files
    from serving.models.store import Store
    from serving.progress import progress_on

    pipelines = [Path(item) for item in what if item.endswith((".yaml", ".yml"))]
    requested = [*names, *(item for item in what if not item.endswith((".yaml", ".yml")))]
    if source is not None and (len(requested) != 1 or pipelines):
        raise click.UsageError("--from takes exactly one model: ocr-hpi fetch --from PATH NAME")
    if not pipelines and not requested:
        pipelines = list(DEFAULT_PIPELINES)

    store = Store(models)
    for name, folder in named_models(pipelines):
        if folder is None:
            requested.append(name)
        else:
            model_files(folder)  # raises for an incomplete one
            click.echo(f"{name}: your own, in {folder}")
    for name, result in store.fetch_all(
        list(dict.fromkeys(requested)),
        source=source,
        mirror=mirror,
        prefer=prefer or (None if can_convert() else "onnx"),  # type: ignore[arg-type]  # click.Choice has checked it
        accept_new_hash=accept_new_hash,
        progress=progress_on(),
    ):
        click.echo(f"{name}: {result}")
