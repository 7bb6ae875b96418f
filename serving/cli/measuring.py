"""What subcommands that measure share: their options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """Whole numbers from 1 up, parted by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is not numbers parted by commas, for example 1,4,32", param, ctx)
        return tuple(map(int, parts))


def data_options(command: Command) -> Command:
    """`--data DIR` and `--set NAME`, which is `groups`."""
    command = click.option(
        "--set", "groups", multiple=True, metavar="NAME", help="Only these folders of it."
    )(command)
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with truth.json, or of such folders. Default: pages rendered here.",
    )(command)
