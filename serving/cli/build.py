"""`ocr-hpi build`: engines, measured on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.options import DEFAULT_PIPELINES, Device, models_option


@click.command()
@click.argument(
    "pipelines", nargs=-1, metavar="[PIPELINE.yaml]...", type=click.Path(path_type=Path)
)
@click.option(
    "--calibration",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder of your own images, to measure on beside the rendered ones.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Cores to plan for.  [default: all usable]"
)
@click.option(
    "--device",
    type=Device(),
    envvar="OCR_HPI_DEVICE",
    show_envvar=True,
    help="cpu, gpu or gpu:0,1; `serve` follows it.  [default: gpu where one can be used, else cpu]",
)
@models_option
def command(
    pipelines: tuple[Path, ...],
    calibration: Path | None,
    threads: int | None,
    device: str | None,
    models: Path,
) -> None:
    """Build the engine plan of pipelines: convert, measure every engine, keep the fastest.

    Each candidate must read the same text as float32 ONNX Runtime, within the accuracy gate. With
    nothing changed since the last time, nothing is built.
    """
    from serving.config import load_config
    from serving.config.pipeline import check_supported
    from serving.devices import check_alike, parse_devices
    from serving.machine import share, usable_cores
    from serving.models.progress import progress_on
    from serving.plan.build import Builder
    from serving.plan.plan import save_deployment, select_device

    cores, progress = threads or usable_cores(), progress_on()
    for path in pipelines or DEFAULT_PIPELINES:
        config = load_config(path)
        check_supported(config)
        chosen = device or select_device(models, config, cores)
        places = parse_devices(chosen)
        check_alike(places)
        builder = Builder(models, share(cores, len(places)), progress, calibration, places[0])
        plan, made = builder.build(config)
        workers = plan.workers * len(places)
        save_deployment(models, config, cores, chosen, workers)
        click.echo(f"{path} on {chosen}: {'built' if made else 'already built'}")
        for section, model in plan.models.items():
            click.echo(f"  {section}: {model.model} on {model.choice}")
        click.echo(f"  worker processes: {workers}")
