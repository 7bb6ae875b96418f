"""`ocr-hpi`: one file for each subcommand, imported when it is called.

A new subcommand is a file `serving/cli/NAME.py` with a click command named `command`, and its line
in `_COMMANDS`.
"""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

import click

from serving.errors import OcrError

_COMMANDS = {
    "init": "Write the shipped pipelines into a folder, for editing.",
    "fetch": "Fetch the models that pipelines name into models/ and verify them.",
    "adopt": "Make a model folder from an export of PaddleOCR 2.",
    "models": "List the models: what is here, what can be fetched, and their languages.",
    "build": "Measure every engine on this machine and keep the fastest that reads the same.",
    "plan": "Show what was measured, what was chosen and why.",
    "doctor": "Check what engines can run on this machine, and how to fix what is missing.",
    "serve": "Serve pipelines over HTTP.",
    "bundle": "Pack wheels, models and graphs for a machine without a network.",
    "key": "Create an API key.",
    "predict": "Read images, PDFs and folders from the command line.",
    "bulk": "Read many documents to Parquet: here, on a Ray cluster or through running servers.",
    "evaluate": "Score pipelines on your own labelled images.",
    "swap": "Switch a running server to another pipeline, once that has proved as good.",
}
_DEBUG = "serving.debug"


class Commands(click.Group):
    """Loads a subcommand only when it is called, and turns errors into one clear line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they are used."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand. Every one has `--debug`, as the group itself has."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"serving.cli.{cmd_name}").command
        command.name = cmd_name
        if not any(option.name == "debug" for option in command.params):
            command.params.append(_debug_option())
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error ends with code 1 and one line, unless `--debug` is given. Ctrl-C: 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.meta.get(_DEBUG) or getattr(error, "errno", None) == errno.EPIPE:
                raise
            if isinstance(error, OSError) and error.errno is not None:
                from serving.disk import disk_error

                error = disk_error(error)
            if isinstance(error, OcrError):
                raise click.ClickException(str(error)) from error
            message = f"{type(error).__name__}: {error}"
            raise click.ClickException(
                f"{message} (unexpected; the same command with --debug shows where)"
            ) from error


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_DEBUG] = True  # shared by the group's context and the subcommand's

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show the traceback of an error.",
    )


@click.group(
    cls=Commands,
    params=[_debug_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="paddleocr-hpi-serving", prog_name="ocr-hpi")
def main() -> None:
    """PP-OCR models on the engine that is fastest on this machine and reads the same text.

    First fetch, then build, then serve. Exit codes: 0 done, 1 failed, 2 wrong
    usage, 130 ended by Ctrl-C.
    """
