"""`ocr-hpi serve`: the HTTP server."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.cli.options import (
    COUNT,
    DEVICE,
    PIPELINE,
    Parsed,
    max_pages_option,
    max_pixels_option,
    models_option,
    pipelines_option,
    setting,
)
from serving.cli.prepare import lacking, prepare

if TYPE_CHECKING:
    from serving.download import HostPattern


def _url_hosts(text: str) -> tuple[HostPattern, ...]:
    from serving.download import HostPattern

    return tuple(HostPattern.parse(part) for part in text.split(",") if part.strip())


@click.command()
@setting("--host", default="127.0.0.1", help="Address to listen on.")
@setting("--port", default=8868, type=click.IntRange(0, 65535), help="0 takes a free one.")
@pipelines_option("A pipeline YAML, served at /ocr/v1/NAME. May be given more than once.")
@setting(
    "--shadow",
    "shadows",
    multiple=True,
    type=PIPELINE,
    help="A pipeline YAML that reads some pages of the pipeline NAME again, while the server is "
    "idle. /metrics counts how far the two agree; answers do not change.",
)
@setting(
    "--shadow-share",
    default=0.05,
    type=click.FloatRange(0, 1, min_open=True),
    help="The share of its pages that a shadow reads.",
)
@setting("--device", type=DEVICE, help="cpu, gpu or gpu:0,1.  [default: what `build` chose]")
@setting(
    "--allow-cpu-fallback",
    is_flag=True,
    help="Read on the CPU, by its plan, where the plan's GPU cannot be used. Otherwise stop.",
)
@setting(
    "--workers",
    type=COUNT,
    help="Processes that share the cores, each with engines of its own. "
    "[default: as many as `build` measured best; 1 with --threads]",
)
@setting(
    "--threads",
    type=COUNT,
    help="Pages read side by side in one worker, on as many cores. "
    "[default: usable cores / workers]",
)
@setting(
    "--memory",
    type=click.FloatRange(min=1),
    metavar="MB",
    help="Of all workers together, MiB. They grow with every new shape of page; while new ones "
    "still fit beside them, those take over, as at a SIGHUP.  [default: 90 % of the container's "
    "limit, if it has one]",
)
@setting("--max-body-mb", default=20.0, type=click.FloatRange(min=0.01), help="Of a request, MiB.")
@max_pixels_option
@max_pages_option(200, "Of a request")
@setting(
    "--queue",
    default=32,
    type=click.IntRange(min=0),
    help="Requests that may wait, for the whole server; more are told to come back later.",
)
@setting(
    "--timeout",
    default=60.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds a request may wait, beside 10 a page.",
)
@setting(
    "--api-keys-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Ask for a key: a line a key, NAME:SHA256, as `ocr-hpi key NAME` makes it. Sent as "
    "Authorization: Bearer KEY or X-API-Key: KEY. Health, /, /docs and /openapi.json need none.",
)
@setting(
    "--allow-anonymous",
    is_flag=True,
    help="Listen beyond this machine without --api-keys-file, which is refused otherwise.",
)
@setting(
    "--allow-url-hosts",
    default=(),
    type=Parsed("HOST,...", _url_hosts),
    help="Hosts from which pictures are fetched, where a request has an http(s) URL in place of "
    "base64; for example: example.org,*.example.com,example.net:8443. Private and loopback "
    "addresses are refused, redirects are checked again.  [default: no URL is fetched]",
)
@setting(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web origin whose pages may use this server from a browser (CORS), for example "
    "https://app.example.org, or *. May be given more than once.  [default: none]",
)
@setting(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("spool"),
    help="Folder of the jobs (/api/v2/ocr/jobs): their documents and results. Made when needed.",
)
@setting(
    "--spool-mb",
    default=512.0,
    type=click.FloatRange(min=0),
    help="Of all jobs together, MiB; 0 takes no jobs.",
)
@setting(
    "--spool-hours",
    default=24.0,
    type=click.FloatRange(min=0, min_open=True),
    help="A job is removed so long after its last page.",
)
@models_option
@setting(
    "--pidfile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the master's process id there while the server runs, for kill -HUP and kill -TERM.",
)
@click.option(
    "--build",
    is_flag=True,
    help="First fetch and build what is missing or has changed; meanwhile the port answers "
    "/health/live, and 503 with the step to everything else. Always done for a pipeline that "
    "comes from the package, as configs/ does where the working folder has none.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Only check the options, the YAML files, the keys and the port; needs no model or plan.",
)
def command(
    pipelines: tuple[tuple[str, Path], ...],
    shadows: tuple[tuple[str, Path], ...],
    workers: int | None,
    threads: int | None,
    memory: float | None,
    max_body_mb: float,
    spool_mb: float,
    spool_hours: float,
    build: bool,
    check: bool,
    **settings: Any,
) -> None:
    """Serve pipelines over HTTP until a signal ends it.

    Prints `ready http://HOST:PORT` on stdout once every pipeline has read a warm-up image; logs
    are JSON on stderr. SIGTERM finishes the requests in work. SIGHUP loads changed YAML files,
    models, plans and keys while the old ones serve; what does not load leaves the old ones serving,
    with the reason in the log and in GET /ocr/v1. Once it serves, nothing is downloaded, converted
    or built: that is done before, by `ocr-hpi fetch` and `ocr-hpi build`, or here, with --build.
    """
    from serving.config.pipeline import shipped
    from serving.http.settings import Settings
    from serving.http.startup import StartupServer, bind
    from serving.machine import memory_limit, share, usable_cores

    for flag, specs in (("--pipeline", pipelines), ("--shadow", shadows)):
        names = [name for name, _ in specs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise click.UsageError(f"{flag}: the name {min(twice)} is given twice")
    if unknown := dict(shadows).keys() - dict(pipelines).keys():
        raise click.UsageError(f"--shadow: no --pipeline has the name {min(unknown)}")
    cores = usable_cores() if threads is None else threads * (workers or 1)
    limit = 0.9 * (memory_limit() or 0) if memory is None else memory * 1024 * 1024
    started = Settings(
        pipelines=dict(pipelines),
        shadows=dict(shadows),
        cores=cores,
        workers=workers or 1,
        threads=threads or share(cores, workers or 1),
        memory=int(limit) or None,
        max_body=int(max_body_mb * 1024 * 1024),
        max_spool=int(spool_mb * 1024 * 1024),
        spool_time=spool_hours * 3600,
        **settings,
    )
    if check:
        from serving.http.gunicorn.application import read_files

        read_files(started)
        bind(started).close()
        return
    signal.signal(signal.SIGTERM, _stop)  # process 1 of a container would ignore it
    signal.signal(signal.SIGHUP, lambda *_: None)  # all is read after the build anyway
    planned_cores = None if threads is None else cores
    with bind(started) as listener:
        with StartupServer(listener) as startup:
            from serving.http.gunicorn.application import read_files, read_generation

            yamls = (*started.pipelines.values(), *started.shadows.values())
            own = [path for path in yamls if build or shipped(path)]
            if todo := lacking(own, started.models, planned_cores, started.device):
                read_files(started)  # what is wrong there ends here, and not after a build
                prepare(
                    todo,
                    started.models,
                    threads=planned_cores,
                    device=started.device,
                    may_fail=started.allow_cpu_fallback,  # the server itself names what is missing
                    on_step=startup.report,
                )
            from serving.http.gunicorn.master import run

            first = read_generation(1, started)  # a wrong YAML or plan ends here
        if workers is None and threads is None:
            planned = first.planned
            started = replace(started, workers=planned, threads=share(cores, planned))
        run(started, first=first, listener=listener)


def _stop(*_: object) -> None:
    raise click.exceptions.Exit(128 + signal.SIGTERM)
