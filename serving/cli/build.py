"""`ocr-hpi build`: engines, measured on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.options import DEVICE, models_option, named_models, pipelines_argument


@click.command()
@pipelines_argument
@click.option(
    "--calibration",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of your own images, to measure on in addition to the rendered ones.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Cores to plan for.  [default: all usable]"
)
@click.option(
    "--device",
    type=DEVICE,
    envvar="OCR_HPI_DEVICE",
    show_envvar=True,
    help="cpu, gpu or gpu:0,1; `serve` follows it.  [default: gpu where one can be used, else cpu]",
)
@click.option(
    "--again", is_flag=True, help="Measure even where nothing has changed, as on a quiet machine."
)
@click.option(
    "--graphs-only",
    is_flag=True,
    help="Only convert and optimise: for an image or a bundle, whose plan is made where it serves.",
)
@click.option(
    "--pending-conversions",
    is_flag=True,
    help="Only list the models that must be converted from Paddle to ONNX, one per line.",
)
@models_option
def command(
    pipelines: tuple[Path, ...],
    calibration: Path | None,
    threads: int | None,
    device: str | None,
    again: bool,
    graphs_only: bool,
    pending_conversions: bool,
    models: Path,
) -> None:
    """Build the engine plan of pipelines: convert, measure every engine, keep the fastest.

    Each candidate must read the same text as float32 ONNX Runtime, within the accuracy gate. With
    nothing changed since the last build, nothing is built.
    """
    if pending_conversions:
        _list_pending(pipelines, models)
        return
    from serving.config.paddlex import PaddleXConfig, load_served
    from serving.config.pipeline import check_supported
    from serving.devices import parse_devices
    from serving.errors import BUILD
    from serving.integrations.paddlex.hook import made_graph
    from serving.machine import usable_cores
    from serving.models.store import Store
    from serving.plan.build import Builder
    from serving.plan.plan import select_device
    from serving.progress import progress_on

    cores, progress = threads or usable_cores(), progress_on()
    configs = {path: load_served(path) for path in pipelines}
    for config in configs.values():  # all before minutes of work on the first
        if not isinstance(config, PaddleXConfig):
            check_supported(config)
    for path, config in configs.items():
        if isinstance(config, PaddleXConfig):
            for name, folder in config.models():
                made_graph(Store(models).folder(name, folder), models)
            click.echo(
                f"{path}: its models are ready; PaddleX runs it, and there is nothing to measure: "
                "each takes the fastest engine that the plans of other pipelines found for it"
            )
            continue
        if graphs_only:
            Builder(models, cores, progress).build_graphs(config)
            click.echo(f"{path}: its graphs are ready")
            continue
        target = device or select_device(models, config, cores)
        builder = Builder(models, cores, progress, calibration, target, again)
        plan, made = builder.build(config)
        click.echo(f"{path} on {target}: {'built' if made else 'already built'}")
        for section, model in plan.models.items():
            click.echo(f"  {section}: {model.model} on {model.choice}")
        click.echo(f"  worker processes: {plan.workers * len(parse_devices(target))}")
        if warning := plan.warning(f"{BUILD} {path}"):
            click.echo(f"  {warning}")


def _list_pending(pipelines: tuple[Path, ...], models: Path) -> None:
    from serving.models.conversion import needs_conversion
    from serving.models.store import Store

    store = Store(models)
    for name, model_dir in named_models(pipelines):
        if needs_conversion(store.folder(name, model_dir), store.engines):
            click.echo(name)
