"""`ocr-hpi convert`: Paddle graphs to ONNX, ahead of `ocr-hpi build`, which does it as well."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.options import DEFAULT_PIPELINES, models_option, named_models


@click.command()
@click.argument(
    "pipelines", nargs=-1, metavar="[PIPELINE.yaml]...", type=click.Path(path_type=Path)
)
@click.option("--pending", is_flag=True, help="Only name the models that need it, one a line.")
@models_option
def command(pipelines: tuple[Path, ...], pending: bool, models: Path) -> None:
    """Convert the Paddle models of pipelines to ONNX, each checked against Paddle itself.

    Needs the build environment, .venv-build or $OCR_HPI_BUILD_PYTHON; scripts/build_engines.sh
    makes it. A model that is ONNX already is used as it is.
    """
    from serving.models.conversion import converted_path, needs_conversion, onnx_graph
    from serving.models.progress import progress_on
    from serving.models.store import Store

    store = Store(models)
    for name, model_dir in named_models(pipelines or DEFAULT_PIPELINES):
        folder = store.folder(name, model_dir)
        if pending:
            if needs_conversion(folder, store.engines):
                click.echo(name)
            continue
        before = converted_path(folder, store.engines).is_file()
        graph = onnx_graph(folder, store.engines, progress=progress_on())
        if graph.parent == folder:
            click.echo(f"{name}: is ONNX already")
        else:
            click.echo(f"{name}: {'already converted' if before else 'converted'}, {graph}")
