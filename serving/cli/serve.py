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
    ORIGIN,
    PIPELINE,
    Parsed,
    max_pages_option,
    max_pixels_option,
    models_option,
    pipelines_option,
    setting,
)
from serving.cli.prepare import lacking, prepare
from serving.http.settings import MIB, Settings

if TYPE_CHECKING:
    from serving.download import HostPattern


_DEFAULT = Settings(pipelines={})


def _url_hosts(text: str) -> tuple[HostPattern, ...]:
    from serving.download import HostPattern

    return tuple(HostPattern.parse(part) for part in text.split(",") if part.strip())


@click.command()
@setting("--host", default=_DEFAULT.host, help="Address to listen on.")
@setting("--port", default=_DEFAULT.port, type=click.IntRange(0, 65535), help="0 takes a free one.")
@pipelines_option(
    "A pipeline YAML, served at /ocr/v1/NAME. May be given more than once; in the environment "
    "variable, commas separate them."
)
@setting(
    "--shadow",
    "shadows",
    multiple=True,
    type=PIPELINE,
    help="A pipeline YAML that reads some pages of the pipeline NAME again, while the server is "
    "idle. /metrics counts how far the two agree; answers do not change. May be given more than "
    "once; in the environment variable, commas separate them.",
)
@setting(
    "--shadow-share",
    default=_DEFAULT.shadow_share,
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
    help="Pages read at the same time in one worker, on as many cores. "
    "[default: usable cores / workers]",
)
@setting(
    "--memory",
    type=click.FloatRange(min=1),
    metavar="MB",
    help="Limit for all workers together, in MiB. Workers grow with every new shape of page; while "
    "new ones still fit beside them, those take over, as at a SIGHUP.  [default: 90 % of the "
    "container's limit, if it has one]",
)
@setting(
    "--max-body-mb",
    default=_DEFAULT.max_body / MIB,
    type=click.FloatRange(min=0.01),
    help="Largest request body, in MiB.",
)
@max_pixels_option
@max_pages_option(_DEFAULT.max_pages, "a request")
@setting(
    "--queue",
    default=_DEFAULT.queue,
    type=click.IntRange(min=0),
    help="Requests that may wait, in the whole server; more get 429 and are to come back later.",
)
@setting(
    "--timeout",
    default=_DEFAULT.timeout,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds a request may wait, plus 10 for each page.",
)
@setting(
    "--api-keys-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of API keys, one key per line, NAME:SHA256, as `ocr-hpi key NAME` makes it. Callers "
    "then send one, as Authorization: Bearer KEY or X-API-Key: KEY. None is needed for /, /docs, "
    "/openapi.json, /health and /v2/health with all below them, and the address of a job's result.",
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
    type=ORIGIN,
    help="A web origin whose pages may use this server from a browser (CORS), for example "
    "https://app.example.org, or *. May be given more than once; in the environment variable, "
    "commas separate them.  [default: none]",
)
@setting(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT.spool,
    help="Folder of the jobs (/api/v2/ocr/jobs): their documents and results. Made if needed.",
)
@setting(
    "--spool-mb",
    default=_DEFAULT.max_spool / MIB,
    type=click.FloatRange(min=0),
    help="Space for all jobs together, in MiB; 0 takes no jobs.",
)
@setting(
    "--spool-hours",
    default=_DEFAULT.spool_time / 3600,
    type=click.FloatRange(min=0, min_open=True),
    help="Hours after its last page at which a job is removed.",
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
    are JSON on stderr. SIGTERM finishes the requests in progress. SIGHUP loads changed YAML files,
    models, plans and keys while the old ones serve; if something does not load, the old ones keep
    serving, and the reason is in the log and in GET /ocr/v1. Once it serves, nothing is downloaded,
    converted or built: that is done before, by `ocr-hpi fetch` and `ocr-hpi build`, or by --build.
    """
    from serving.config.pipeline import shipped
    from serving.http.startup import StartupServer, bind
    from serving.machine import memory_limit, share, usable_cores

    for flag, specs in (("--pipeline", pipelines), ("--shadow", shadows)):
        names = [name for name, _ in specs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise click.UsageError(f"{flag}: the name {min(twice)} is given twice")
    if unknown := dict(shadows).keys() - dict(pipelines).keys():
        raise click.UsageError(f"--shadow: no --pipeline has the name {min(unknown)}")
    cores = usable_cores() if threads is None else threads * (workers or 1)
    limit = 0.9 * (memory_limit() or 0) if memory is None else memory * MIB
    started = Settings(
        pipelines=dict(pipelines),
        shadows=dict(shadows),
        cores=cores,
        workers=workers or 1,
        threads=threads or share(cores, workers or 1),
        memory=int(limit) or None,
        max_body=int(max_body_mb * MIB),
        max_spool=int(spool_mb * MIB),
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
