"""Fetching and building before other work, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from serving.errors import BUILD, CLONE, FETCH

_END_TIME = 5.0
"""Seconds for a child to end at SIGTERM."""


def lacking(
    pipelines: Iterable[Path], models: Path, threads: int | None, device: str | None
) -> list[Path]:
    """Those that cannot be served without a build; says on stderr what they lack."""
    from serving.config.paddlex import PaddleXConfig, load_served
    from serving.errors import DeviceError, ModelError, PlanError
    from serving.plan.load import check_plan

    found = []
    for path in pipelines:
        config = load_served(path)
        if isinstance(config, PaddleXConfig):
            continue  # it has no plan
        try:
            check_plan(config, models, threads, device)
        except (DeviceError, ModelError, PlanError) as error:
            click.echo(f"preparing {path}: {error}", err=True)
            found.append(path)
    return found


def prepare(
    pipelines: Sequence[Path],
    models: Path,
    *,
    threads: int | None = None,
    device: str | None = None,
    graphs_only: bool = False,
    may_fail: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> None:
    """`ocr-hpi fetch`, then `ocr-hpi build`, in children: the caller loads none of what they need.

    In a clone these are its scripts, which make the environment of a conversion, too. Exits with 1
    where a child fails, which has said why; may_fail: not where that is the build.
    on_step: called with each line of theirs, unless stderr is a terminal, which they draw on.
    """
    build = ["--graphs-only"] if graphs_only else []
    build += [] if threads is None else ["--threads", str(threads)]
    build += [] if device is None else ["--device", device]
    # The clone has what comes from the package under the same name.
    yamls = [str(path.absolute() if path.exists() else path) for path in pipelines]
    for name, script, options in (("fetch", FETCH, []), ("build", BUILD, build)):
        program = script.split() if CLONE else [sys.executable, "-P", "-m", "serving.cli", name]
        code = _run([*program, "--models", str(models.absolute()), *options, *yamls], on_step)
        if code and not (name == "build" and may_fail):
            raise click.exceptions.Exit(1)


def _run(command: Sequence[str], on_step: Callable[[str], None]) -> int:
    """The command's exit code; its output goes to stderr. It ends with this call, all of it."""
    terminal = sys.stderr.isatty()
    with subprocess.Popen(
        command,
        cwd=CLONE,
        stdout=2 if terminal else subprocess.PIPE,
        stderr=None if terminal else subprocess.STDOUT,
        text=True,
        errors="replace",
        # Bash does not pass a signal on to what it runs. A terminal stops what writes to it from
        # another group (stty tostop), and sends Ctrl-C to all of its own.
        process_group=-1 if terminal else 0,
    ) as child:
        try:
            for line in child.stdout or ():
                click.echo(line, nl=False, err=True)
                on_step(line.strip())
            return child.wait()
        except BaseException:
            send = child.send_signal if terminal else partial(os.killpg, child.pid)
            with suppress(ProcessLookupError):
                send(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_END_TIME)
                send(signal.SIGKILL)
            raise
