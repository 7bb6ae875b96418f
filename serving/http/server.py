"""Gunicorn, embedded: one master, workers that load after the fork, one clear end."""

from __future__ import annotations

import itertools
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from serving.errors import ConfigError, OcrError
from serving.http.app import App, create_app
from serving.http.logs import GunicornLogger, configure_logs
from serving.http.places import Places
from serving.http.registry import Reader, Registry
from serving.http.reports import Reports
from serving.http.settings import Settings
from serving.http.worker import Worker, load_in_background

_LOG = logging.getLogger("serving.http")

_CONNECTIONS = 4096
_OTHER_FILES = 256

Load = Callable[[str], Reader]
"""Loads the pipeline of a name. Called in each worker."""


def run(settings: Settings, load: Load | None = None) -> None:
    """Serve until a signal ends it. Prints `ready http://HOST:PORT` once all workers can read.

    load: loads a pipeline by its name; default: the settings' YAML on the engines built for it.
    SIGTERM finishes what is in work; SIGINT and SIGQUIT do not.
    Raises OcrError where the address is taken or a pipeline does not load.
    """
    listener = bind(settings.host, settings.port)
    configure_logs()
    application = _Application(settings, load, listener)
    master = Master(application)
    try:
        master.run()
    except SystemExit as end:
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


def _built(settings: Settings, slot: int) -> Load:
    def load(name: str) -> Reader:
        # Vendors' libraries start threads, which do not survive a fork: imported after it.
        from serving.assembly import open_pipeline

        yaml = settings.pipelines[name]
        return open_pipeline(
            yaml,
            models=settings.models,
            threads=settings.threads,
            device=settings.device,
            slot=slot,
            allow_cpu_fallback=settings.allow_cpu_fallback,
        )

    return load


class _Application(BaseApplication):
    """Gunicorn's view of the app: its settings, its hooks and how a worker gets it."""

    def __init__(self, settings: Settings, load: Load | None, listener: socket.socket) -> None:
        self.settings = settings
        self._load = load
        self.reports = Reports()
        self._places = Places(settings.places)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._listener = listener.detach()
        self._app: App | None = None
        self._loader: threading.Thread | None = None
        super().__init__()

    def load_config(self) -> None:
        settings = self.settings
        options: dict[str, Any] = {
            "bind": f"fd://{self._listener}",
            "worker_class": Worker,
            "workers": settings.workers,
            "threads": settings.http_threads,
            "worker_connections": _connections(),
            # Seconds without a sign of life of the worker's main loop, not of a request.
            "timeout": 120,
            "graceful_timeout": int(settings.timeout + settings.page_time),
            "keepalive": 15,
            "control_socket_disable": True,
            "logger_class": GunicornLogger,
            "loglevel": "warning",
            "pre_fork": _give_slot,
            "post_worker_init": self._worker_started,
            "worker_exit": self._worker_ended,
        }
        if Path("/dev/shm").is_dir():  # noqa: S108  (signs of life must not wait for a disk)
            options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """In a worker: the app, with no pipelines yet."""
        registry = Registry(tuple(self.settings.pipelines))
        try:
            self._app = create_app(self.settings, registry, self._places)
        except OcrError as error:
            self.reports.send(str(error))
            raise
        return self._app

    def _worker_started(self, worker: Worker) -> None:
        assert self._app is not None
        load = self._load or _built(self.settings, worker.slot)
        self._loader = load_in_background(self._app.service.registry, load, self.reports)

    def _worker_ended(self, master: Arbiter, worker: Any) -> None:
        if worker.pid != os.getpid() or self._app is None:
            return
        if self._loader is not None and self._loader.is_alive():
            os._exit(0)  # a library that is loading does not bear the interpreter's end
        self._app.service.close()


def _give_slot(master: Arbiter, worker: Any) -> None:
    """Number the worker with the least that is free: by it workers share several GPUs out."""
    others: Iterable[Any] = master.WORKERS.values()
    taken = {other.slot for other in others}
    worker.slot = next(slot for slot in itertools.count() if slot not in taken)


def _connections() -> int:
    """Connections that a worker may hold: Gunicorn's worker ends where files run out.

    Raises this process's limit of open files, within what it is allowed.
    """
    wanted = _CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        _CONNECTIONS if soft == resource.RLIM_INFINITY else min(_CONNECTIONS, soft - _OTHER_FILES)
    )


class Master(Arbiter):
    """Gunicorn's master, which hears its workers' reports. Written against gunicorn 27."""

    def __init__(self, app: _Application) -> None:
        super().__init__(app)
        self.failure: str | None = None
        """Why the server had to end."""
        self._application = app
        self._ready: set[int] = set()
        self._told = False
        self._stopping = False
        self.cfg.set("child_exit", self._worker_gone)

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        # Until all are ready, look often: people wait for the line.
        signals: list[int] = super().wait_for_signals(timeout if self._told else 0.1)
        for report in self._application.reports.receive():
            if report.error is not None:
                self._fail(report.error)
            self._ready.add(report.pid)
        if not self._told and self.WORKERS and self._ready.issuperset(self.WORKERS):
            self._told = True
            print(f"ready {self._application.url}", flush=True)
            _LOG.info("ready", extra={"fields": {"url": self._application.url}})
        return signals

    def stop(self, graceful: bool = True) -> None:
        self._stopping = True
        super().stop(graceful)

    def handle_hup(self) -> None:
        _LOG.warning("HUP is not served yet: restart to load changed files")

    def _worker_gone(self, master: Arbiter, worker: Any) -> None:
        if worker.pid not in self._ready and not self._stopping:
            self._fail(f"a worker ended before it was ready (process {worker.pid}); see the log")
        self._ready.discard(worker.pid)

    def _fail(self, reason: str) -> None:
        """End the server: a worker that cannot load now will not load the next time either."""
        self.failure = self.failure or reason
        raise HaltServer(reason, 0)
