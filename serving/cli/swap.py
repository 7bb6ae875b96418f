"""`ocr-hpi swap`: another pipeline under a name that is served, judged before it serves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import requests

from serving.cli.evaluate import (
    by_option,
    confidence_option,
    data_option,
    print_figures,
    too_few,
    worse,
)
from serving.cli.options import (
    COUNT,
    DEVICE,
    PIPELINE,
    models_option,
    pipelines_option,
    setting,
)
from serving.cli.prepare import lacking, prepare
from serving.config.paddlex import PaddleXConfig, load_served
from serving.config.pipeline import shipped
from serving.disk import write_atomically
from serving.errors import ConfigError, HostUnreachable, NotReady
from serving.plan.plan import find_plan

_LOAD_TIME = 960.0
"""Seconds for the new generation: a little more than the master gives it."""


@click.command()
@click.argument("swap", type=PIPELINE, metavar="NAME=YAML")
@pipelines_option("As the server has it: the YAML file that it serves NAME from.")
@setting(
    "--pidfile",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="As the server has it.",
)
@click.option(
    "--url", default="http://127.0.0.1:8868", show_default=True, help="Address of the server."
)
@setting("--api-key", help="API key, if the server asks for one.")
@data_option(required=False)
@by_option
@confidence_option
@click.option("--threads", type=COUNT, help="Cores of the server's plans.  [default: all usable]")
@setting("--device", type=DEVICE, help="As the server has it.  [default: what `build` chose]")
@models_option
def command(
    swap: tuple[str, Path],
    pipelines: tuple[tuple[str, Path], ...],
    pidfile: Path,
    url: str,
    api_key: str | None,
    data: Path | None,
    by: float,
    confidence: float,
    threads: int | None,
    device: str | None,
    models: Path,
) -> None:
    """Let a running server serve NAME by another YAML: fetch, build, judge on labels, reload.

    It ends at the first step that fails, with the reason, and the server serves on as before. With
    --data, the new pipeline fails if it is worse than what serves now, as `ocr-hpi evaluate
    --fail-if-worse-than` judges. The file that NAME is served from then gets YAML's content, and
    what it had goes to FILE.previous: `ocr-hpi swap NAME=FILE.previous` takes it back.
    """
    from serving.evaluate.figures import MIN_UNITS, evaluate
    from serving.evaluate.labels import read_labels

    name, new = swap
    served = dict(pipelines).get(name)
    if served is None:
        raise click.UsageError(f"--pipeline: there is none of the name {name}")
    if shipped(served) or not served.is_file():
        raise click.UsageError(
            f"--pipeline: {served} is not a file here that the server reads; give NAME=FILE as the "
            "server has it (`ocr-hpi init` writes the shipped ones)"
        )
    load_served(new)
    content = new.read_bytes().decode()
    labels = read_labels(data) if data else None
    if labels and len(labels.pages) < MIN_UNITS:  # before minutes of building
        raise ConfigError(too_few())
    pid, state = _master(pidfile), partial(_state, url, api_key)
    if not _serves(state(), name, _plan_key(served, models, threads, device)):
        raise ConfigError(f"{served}: {_other_plan(name)}")
    if todo := lacking([new], models, threads, device):
        prepare(todo, models, threads=threads, device=device)
    if labels:
        found = evaluate([new, served], labels, models, threads=threads, device=device)
        print_figures(found)
        if failures := worse(found, by, confidence):
            raise click.ClickException(f"nothing has changed: {'; '.join(failures)}")
    before, key = state(), _plan_key(new, models, threads, device)
    file = served.resolve()
    previous = file.with_name(f"{file.name}.previous")
    old = {path: path.read_bytes().decode() for path in (file, previous) if path.exists()}

    def put_back() -> None:
        previous.unlink(missing_ok=True)
        for path, text in old.items():
            write_atomically(path, text)

    try:
        write_atomically(previous, old[file])
        write_atomically(file, content)
        os.kill(pid, signal.SIGHUP)
        reason = _wait(state, before, name, key)
    except BaseException:  # it may yet take the new content: let it load the old one again
        put_back()
        os.kill(pid, signal.SIGHUP)
        raise
    if reason:
        put_back()
        raise click.ClickException(f"nothing has changed: {reason}")
    is_back = new.resolve() == previous
    now = "reads as before the swap again" if is_back else f"now reads as {new} says"
    click.echo(f"{name} {now}; {previous} has what it read with until now")


def _master(pidfile: Path) -> int:
    """The server's process id. Raises ConfigError if it is not that of a server."""
    try:
        pid = int(pidfile.read_text())
        if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
        reason = f"process {pid} is not a server"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise ConfigError(
        f"--pidfile {pidfile}: {reason}; give the file that `ocr-hpi serve --pidfile` wrote"
    )


def _state(url: str, api_key: str | None) -> dict[str, Any]:
    """What GET /ocr/v1 answers. Raises HostUnreachable."""
    try:
        headers = {"X-API-Key": api_key} if api_key else {}
        answer = requests.get(f"{url.rstrip('/')}/ocr/v1", headers=headers, timeout=30)
        state: dict[str, Any] = answer.json()
        if answer.status_code != 200 or "generation" not in state:
            raise HostUnreachable(f"--url {url}: answers {answer.status_code}: {answer.text[:200]}")
    except (requests.RequestException, ValueError) as error:
        raise HostUnreachable(f"--url {url}: not a server of ocr-hpi: {error}") from error
    return state


def _wait(
    state: Callable[[], dict[str, Any]], before: dict[str, Any], name: str, key: str | None
) -> str | None:
    """Wait until a new generation serves the plan under the name, or return why it does not load.

    Raises NotReady after 16 minutes, and ConfigError if the new generation has another plan.
    """
    end = time.monotonic() + _LOAD_TIME
    while time.monotonic() < end:
        time.sleep(0.2)
        with suppress(HostUnreachable):  # a busy server answers late
            now = state()
            # Until then a worker of the generation before may answer, and an error may be of one
            # that is replaced, which ends no reload.
            is_over = now["reload"]["state"] == "idle"
            error = now["reload"]["error"]
            if now["generation"] > before["generation"]:
                if _serves(now, name, key):
                    return None
                if is_over:
                    raise ConfigError(f"nothing has changed: {_other_plan(name)}")
            elif is_over and error and error != before["reload"]["error"]:
                return str(error["message"])
    raise NotReady(f"nothing has changed: the server had not reloaded after {_LOAD_TIME:.0f} s")


def _plan_key(yaml: Path, models: Path, threads: int | None, device: str | None) -> str | None:
    """Of the plan of a YAML; None for one that PaddleX runs. Raises PlanError, ConfigError."""
    config = load_served(yaml)
    if isinstance(config, PaddleXConfig):
        return None
    return find_plan(config, models, threads, device).key


def _serves(state: dict[str, Any], name: str, key: str | None) -> bool:
    """Whether the server serves that plan under the name."""
    found = [item for item in state["pipelines"] if item["name"] == name]
    return any(item.get("plan", {}).get("key") == key for item in found)


def _other_plan(name: str) -> str:
    return (
        f"the server has another plan for {name}; compare --pipeline, --models, --threads, "
        "--device and --url with its own, or let it load the file as it is first: kill -HUP"
    )
