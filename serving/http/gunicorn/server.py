"""Gunicorn, embedded: one master, workers that load after the fork, one clear end."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket

from serving.config.pipeline import PipelineConfig
from serving.errors import ConfigError, OcrError
from serving.http.gunicorn.application import Application, Load
from serving.http.gunicorn.generation import read_generation
from serving.http.gunicorn.master import Master
from serving.http.logs import configure_logs
from serving.http.metrics import fresh_folder
from serving.http.registry import Reader
from serving.http.settings import Settings

_LOG = logging.getLogger("serving.http")


def run(settings: Settings, load: Load | None = None) -> None:
    """Serve until a signal ends it. Prints `ready http://HOST:PORT` once all workers can read.

    load: loads a pipeline by its name; default: the settings' YAML on the engines built for it.
    SIGTERM finishes what is in work; SIGINT and SIGQUIT do not. SIGHUP loads all files anew.
    Raises OcrError where the address is taken or a pipeline does not load.
    """
    first = read_generation(1, settings)
    listener = bind(settings.host, settings.port)
    configure_logs()
    if first.keys is None and not _is_loopback(listener):
        _LOG.warning(
            "listening on %s without keys: whoever reaches it may use it; give --api-keys-file",
            settings.host,
        )
    application = Application(settings, load or _built(settings), listener)
    master, pid = Master(application, first), os.getpid()
    try:
        with fresh_folder():
            master.run()
    except SystemExit as end:
        if os.getpid() != pid:
            raise  # a worker's end; the reports are the master's to read
        late = (report.error for report in application.reports.receive() if report.error)
        failure = master.failure or next(late, None)
        if failure is not None:
            raise OcrError(failure) from None
        if end.code:
            raise OcrError(f"the server ended with status {end.code}; its log says why") from None


def bind(host: str, port: int) -> socket.socket:
    """The listening address, taken. Raises ConfigError: in use, not ours, not allowed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Otherwise a second server may take the same address until this one listens.
        listener.listen(2048)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {reason}; choose with --host and --port"
        ) from None
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _built(settings: Settings) -> Load:
    def load(name: str, config: PipelineConfig, slot: int) -> Reader:
        # Vendors' libraries start threads, which do not survive a fork: imported after it.
        from serving.plan.load import open_pipeline

        return open_pipeline(
            config,
            models=settings.models,
            threads=settings.cores,
            device=settings.device,
            slot=slot,
            workers=settings.workers,
            allow_cpu_fallback=settings.allow_cpu_fallback,
        )

    return load
