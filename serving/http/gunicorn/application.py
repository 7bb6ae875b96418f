"""Gunicorn's view of the app: its settings, its hooks and how a worker gets it.

What one set of workers serves, read once by the master and inherited by every fork.

A worker that is replaced loads what its siblings loaded, not what lies on the disk by then: the
checked YAML is in here, and `loaded` tells whether the models and plans are still the same.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from serving.config.pipeline import PipelineConfig
from serving.http.admission import Admission
from serving.http.app import App, create_app
from serving.http.gunicorn.channel import SharedState, WorkerEvents
from serving.http.gunicorn.generation import Generation
from serving.http.gunicorn.worker import Worker, load_in_background
from serving.http.logs import GunicornLogger
from serving.http.registry import Reader, Registry
from serving.http.settings import Settings

_LOG = logging.getLogger("serving.http")

_CONNECTIONS = 4096
_OTHER_FILES = 256

Load = Callable[[str, PipelineConfig, int], Reader]
"""Loads the pipeline of a name, in the worker of that number."""


class Application(BaseApplication):
    """What the master makes before the fork and every worker inherits."""

    generation: Generation
    """What the worker that is forked next serves, and so, in a worker, its own."""

    def __init__(self, settings: Settings, load: Load, listener: socket.socket) -> None:
        self.settings = settings
        self._load = load
        self.reports = WorkerEvents()
        self.board = SharedState()
        self._places = Admission(settings.places)
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
        self._app = create_app(
            self.settings, registry, self._places, self._state, self.generation.keys
        )
        return self._app

    @property
    def patience(self) -> float:
        """Seconds that a worker may take to finish what it has in work."""
        return self.settings.timeout + self.settings.max_pages * self.settings.page_time

    @property
    def superseded(self) -> bool:
        """In a worker: whether another generation serves by now."""
        return bool(self.board.read()["generation"] > self.generation.number)

    def say_ready(self) -> None:
        """In the master: every pipeline of every worker has answered."""
        print(f"ready {self.url}", flush=True)
        _LOG.info("ready", extra={"fields": {"url": self.url}})

    def _state(self) -> dict[str, Any]:
        """In a worker: which generation it is of, and how the last reload went."""
        return {"generation": self.generation.number, "reload": self.board.read()["reload"]}

    def _worker_started(self, worker: Worker) -> None:
        assert self._app is not None
        configs, service = self.generation.configs, self._app.service
        self._loader = load_in_background(
            service,
            lambda name: self._load(name, configs[name], worker.slot),
            self.reports,
        )

    def _worker_ended(self, master: Arbiter, worker: Any) -> None:
        if worker.pid != os.getpid() or self._app is None:
            return
        if self._loader is not None and self._loader.is_alive():
            os._exit(0)  # a library that is loading does not bear the interpreter's end
        self._app.service.close()


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
