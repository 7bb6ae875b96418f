"""Start and end of the server: one master, workers that load after the fork."""

from __future__ import annotations

import logging
import os
import socket

from serving.config.paddlex import PaddleXConfig, ServedConfig
from serving.engines.base import OnBatch
from serving.errors import OcrError
from serving.http.gunicorn import check_version
from serving.http.gunicorn.application import Application, Generation, Load, read_generation
from serving.http.gunicorn.master import Master
from serving.http.logs import configure_logs
from serving.http.metrics import metrics_folder
from serving.http.registry import ServedPipeline
from serving.http.settings import Settings
from serving.http.startup import bind, is_loopback

_LOG = logging.getLogger("serving.http")


def run(
    settings: Settings,
    load: Load | None = None,
    first: Generation | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until a signal ends it. Prints `ready http://HOST:PORT` once all workers can answer.

    load: loads a pipeline by its name; default: the settings' YAML on the engines built for it.
    first: the files to serve at first; default: read now. listener: of `bind`; default: bound now.
    SIGTERM finishes the requests in progress; SIGINT and SIGQUIT do not. SIGHUP reloads all files.
    Raises OcrError where the address is in use or a pipeline does not load.
    """
    check_version()
    first = first or read_generation(1, settings)
    listener = listener or bind(settings)
    configure_logs()
    if first.keys is None and not is_loopback(listener):
        _LOG.warning(
            "listening on %s without API keys: everyone who can reach it can use it",
            settings.host,
        )
    application = Application(settings, load or _load_built(settings), listener)
    master, pid = Master(application, first), os.getpid()
    try:
        with metrics_folder():
            master.run()
    except SystemExit as end:
        if os.getpid() != pid:
            raise  # in a worker; its events are for the master
        late = (event.error for event in application.events.receive() if event.error)
        failure = master.failure or next(late, None)
        if failure is not None:
            raise OcrError(failure) from None
        if end.code:
            raise OcrError(f"the server ended with status {end.code}; see its log") from None


def _load_built(settings: Settings) -> Load:
    def load(name: str, config: ServedConfig, slot: int, on_batch: OnBatch) -> ServedPipeline:
        # After the fork: vendors' libraries start threads, which do not survive one.
        from serving.integrations.paddlex.served import PaddleXPipeline
        from serving.plan.load import open_pipeline

        if isinstance(config, PaddleXConfig):
            return PaddleXPipeline(config, settings.models, settings.workers)
        return open_pipeline(
            config,
            models=settings.models,
            threads=settings.cores,
            device=settings.device,
            slot=slot,
            on_batch=on_batch,
            workers=settings.workers,
            allow_cpu_fallback=settings.allow_cpu_fallback,
            warm=False,
        )

    return load
