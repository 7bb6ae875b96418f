"""`ocr-hpi build`: engines, measured on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.models import DEFAULT_PIPELINES, Device, models_option


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
    from serving.config.supported import check_supported
    from serving.devices import parse_devices
    from serving.machine import usable_cores
    from serving.plan.build import Builder
    from serving.plan.chosen import choose_device, record_device
    from serving.store import progress_on

    cores, progress = threads or usable_cores(), progress_on()
    for path in pipelines or DEFAULT_PIPELINES:
        config = load_config(path)
        check_supported(config)
        chosen = device or choose_device(models, config, cores)
        for place in parse_devices(chosen):
            plan, made = Builder(models, cores, progress, calibration, place).build(config)
            click.echo(f"{path} on {place}: {'built' if made else 'already built'}")
            for section, model in plan.models.items():
                click.echo(f"  {section}: {model.model} on {model.choice}")
        record_device(models, config, cores, chosen)
