"""Options of the subcommands about models, and the models that pipelines name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PIPELINES = (Path("configs/PP-OCRv4_mobile.yaml"),)
"""The pipelines of the default server."""


class Device(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """Where to run: cpu, gpu, gpu:0 or gpu:0,1."""

    name = "DEVICE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The canonical form of the device."""
        from serving.devices import format_devices, parse_devices
        from serving.errors import ConfigError

        try:
            return format_devices(parse_devices(str(value)))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def models_option(command: Command) -> Command:
    """`--models DIR`."""
    return click.option(
        "--models",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("models"),
        show_default=True,
        envvar="OCR_HPI_MODELS",
        show_envvar=True,
        help="Folder of models and engines.",
    )(command)


def named_models(pipelines: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """(model_name, model_dir) of each model that the pipelines use, once each, in their order.

    Raises ConfigError.
    """
    from serving.config import load_config

    models = [model for path in pipelines for model in load_config(path).models()]
    return list(dict.fromkeys(models))
