"""Options of the subcommands about models, and the models that pipelines name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import ValidationError

from serving.config.errors import problem
from serving.config.options import PDF_DPI, Options, PdfText
from serving.errors import ConfigError
from serving.imaging.formats import MAX_PIXELS

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PIPELINES = (Path("configs/PP-OCRv4_mobile.yaml"),)
"""The pipelines of the default server."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+")
_SERVED = f"accurate={DEFAULT_PIPELINES[0]}"


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """What `parse` makes of a text; its ValueError or ConfigError is wrong usage."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):  # click converts a default twice
            return value
        try:
            return self._parse(value)
        except (ConfigError, ValueError) as error:
            self.fail(str(error), param, ctx)


def _device(text: str) -> str:
    from serving.devices import format_devices, parse_devices

    return format_devices(parse_devices(text))


DEVICE = Parsed("DEVICE", _device)
"""Where to run: cpu, gpu, gpu:0 or gpu:0,1; its canonical form."""


class _Listed(Parsed):
    envvar_list_splitter = ","  # several in an environment variable


def _pipeline(text: str) -> tuple[str, Path]:
    name, equals, path = text.strip().partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is not NAME=YAML, for example {_SERVED}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} becomes part of an address: letters, digits and . _ -")
    return name, Path(path)


PIPELINE = _Listed("NAME=YAML", _pipeline)
"""As (name, path)."""


def _origin(text: str) -> str:
    """Flask-CORS takes a text with special characters as a regular expression."""
    if text not in ("*", "null") and not _ORIGIN.fullmatch(text):
        raise ValueError(
            f"{text!r} is no origin: give scheme and host, as https://app.example.org, or *"
        )
    return text


ORIGIN = _Listed("ORIGIN", _origin)


def setting(flag: str, *names: str, **options: Any) -> Callable[[Command], Command]:
    """An option that is also the environment variable OCR_HPI_<FLAG>."""
    envvar = "OCR_HPI_" + flag.removeprefix("--").replace("-", "_").upper()
    return click.option(flag, *names, envvar=envvar, show_envvar=True, show_default=True, **options)


def pipelines_option(help: str) -> Callable[[Command], Command]:
    """`--pipeline NAME=YAML`, as the server has it."""
    return setting(
        "--pipeline",
        "pipelines",
        multiple=True,
        type=PIPELINE,
        default=(_SERVED,),
        help=help,
    )


COUNT = click.IntRange(min=1)

pipelines_argument = click.argument(
    "pipelines",
    nargs=-1,
    metavar="[PIPELINE.yaml]...",
    type=click.Path(path_type=Path),
    callback=lambda ctx, param, paths: paths or DEFAULT_PIPELINES,
)

models_option = setting(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models"),
    help="Folder of models and engines.",
)

max_pixels_option = setting(
    "--max-pixels",
    default=MAX_PIXELS,
    type=COUNT,
    help="Most pixels a page may have; more is refused.",
)


def max_pages_option(default: int, of: str) -> Callable[[Command], Command]:
    """`--max-pages N`. of: what has so many pages."""
    help = f"Most pages {of} may have; more is refused."
    return setting("--max-pages", default=default, type=COUNT, help=help)


pdf_dpi_option = click.option(
    "--pdf-dpi",
    type=click.IntRange(36, 1200),
    default=PDF_DPI,
    show_default=True,
    help="Dots per inch at which PDFs are rendered.",
)

pdf_text_option = click.option(
    "--pdf-text",
    type=click.Choice(get_args(PdfText)),
    default="ignore",
    show_default=True,
    help="auto: take a PDF page's own text where it is complete, and read the other pages.",
)


def override_options(command: Command) -> Command:
    """An option for each field of Options: --text-det-thresh, --use-textline-orientation, ..."""
    for name, info in reversed(Options.model_fields.items()):
        flag = "--" + name.replace("_", "-")
        switch = bool in get_args(info.annotation)
        command = click.option(
            f"{flag}/--no-{flag[2:]}" if switch else flag,
            name,
            default=None,
            metavar=None if switch else _metavar(info.annotation),
            help=f"{info.description}  [default: as the YAML has it]",
        )(command)
    return command


def _metavar(annotation: Any) -> str | None:
    """INTEGER, FLOAT or [a|b], for what a field has beside None."""
    kind = get_args(annotation)[0]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return f"[{'|'.join(get_args(kind))}]"
    return {int: "INTEGER", float: "FLOAT"}.get(kind)


def checked_options(overrides: dict[str, Any]) -> Options:
    """What `override_options` were given. Raises UsageError."""
    try:
        return Options(**overrides)
    except ValidationError as error:
        item = error.errors()[0]
        flag = "--" + str(item["loc"][0]).replace("_", "-")
        raise click.UsageError(f"{flag}: {problem(item)}, not {item['input']!r}") from None


def named_models(pipelines: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """(model_name, model_dir) of each model that the pipelines use, once each, in their order.

    Raises ConfigError.
    """
    from serving.config.paddlex import load_served

    models = [model for path in pipelines for model in load_served(path).models()]
    return list(dict.fromkeys(models))
