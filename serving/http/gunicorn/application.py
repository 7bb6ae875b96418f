"""What the master creates before the fork: Gunicorn's settings and hooks, and a generation."""

from __future__ import annotations

import logging
import math
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from serving.config.paddlex import PaddleXConfig, ServedConfig, load_served
from serving.config.pipeline import PipelineConfig
from serving.engines.base import OnBatch
from serving.errors import ConfigError, DeviceError, OcrError
from serving.http.admission import Admission
from serving.http.app import App, create_app
from serving.http.gunicorn.messages import SharedState, WorkerEvents
from serving.http.gunicorn.worker import Worker
from serving.http.keys import Keys, read_keys
from serving.http.logs import GunicornLogger
from serving.http.metrics import remove_metrics
from serving.http.registry import ServedPipeline
from serving.http.service import Service
from serving.http.settings import Settings
from serving.integrations.paddlex.served import check_served
from serving.machine import usable_cores
from serving.plan.load import check_plan
from serving.plan.plan import planned_latency, planned_workers

_LOG = logging.getLogger("serving.http")

_CONNECTIONS = 4096
_OTHER_FILES = 256
_SLOW = 1.2
"""A pipeline gives way to the fastest one if its page takes more than so many times as long."""
_NICENESS = 8
"""How: by so much the threads of its engines are nicer. Small images beside pages and documents of
two other pipelines then take 1.8 times as long at p99 as alone, in place of 3.0."""

Load = Callable[[str, ServedConfig, int, OnBatch], ServedPipeline]
"""Loads the pipeline of a name, in the worker of that slot, with an observer of its batches."""


@dataclass(eq=False)
class Generation:
    """The files that one set of workers serves, read once by the master.

    A worker that replaces a dead one gets the same YAML and keys, whatever is on disk by then, and
    must have loaded the same models and plans.
    """

    number: int
    configs: Mapping[str, ServedConfig]
    """By name, the first `--pipeline` first."""
    shadows: Mapping[str, PipelineConfig]
    """What reads some pages of the pipeline of that name again."""
    keys: Keys | None
    """The keys that are accepted; None: no key is needed."""
    planned: int
    """Worker processes that its plans recommend."""
    latencies: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds of a single page, by name of a pipeline, where that was measured."""
    loaded: str | None = None
    """Fingerprint of what its workers have loaded; None before the first is ready."""
    since: float = field(default_factory=time.monotonic)
    failures: int = 0
    """Workers in a row that could not serve."""


def read_generation(number: int, settings: Settings) -> Generation:
    """Read all that a SIGHUP reloads.

    Raises what `read_files` does, PlanError and, of a shadow, ModelError and DeviceError.
    """
    configs, shadows, keys = read_files(settings)
    for shadow in shadows.values():  # here, because what a worker cannot load is only logged
        try:
            check_plan(shadow, settings.models, settings.cores, settings.device)
        except DeviceError:
            if not settings.allow_cpu_fallback:
                raise
    ours = {name: each for name, each in configs.items() if isinstance(each, PipelineConfig)}
    options: dict[str, Any] = {
        "cores": settings.cores or usable_cores(),
        "device": settings.device,
        "cpu_fallback": settings.allow_cpu_fallback,
    }
    planned = planned_workers(settings.models, ours.values(), **options)
    return Generation(
        number,
        configs,
        shadows,
        keys,
        planned=planned if len(ours) == len(configs) else 1,  # PaddleX's memory was not measured
        latencies={
            name: planned_latency(settings.models, config, **options)
            for name, config in ours.items()
        },
    )


def read_files(
    settings: Settings,
) -> tuple[dict[str, ServedConfig], dict[str, PipelineConfig], Keys | None]:
    """The pipelines, the shadows and the keys, without a look at models or plans.

    Raises ConfigError, and EngineError where PaddleX is needed and not installed.
    """
    configs = {name: load_served(path) for name, path in settings.pipelines.items()}
    shadows = {name: _read_shadow(configs[name], path) for name, path in settings.shadows.items()}
    for config in (*configs.values(), *shadows.values()):
        check_served(config, settings.device)
    keys = read_keys(settings.api_keys_file) if settings.api_keys_file else None
    return configs, shadows, keys


def _read_shadow(served: ServedConfig, path: Path) -> PipelineConfig:
    shadow = load_served(path)
    if isinstance(served, PipelineConfig) and isinstance(shadow, PipelineConfig):
        return shadow
    raise ConfigError(
        f"--shadow: {path}: PaddleX runs one of the two pipelines, and it has no lines to compare"
    )


class Application(BaseApplication):
    """Inherited by every worker at its fork."""

    generation: Generation
    """What the next worker to be forked serves, and so, in a worker, its own."""

    def __init__(self, settings: Settings, load: Load, listener: socket.socket) -> None:
        self.settings = settings
        self._max_connections = _max_connections(settings.http_threads)
        self.events = WorkerEvents()
        self.state = SharedState()
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._load = load
        self._listener = listener.detach()
        self._admission = Admission(settings.permits)
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
            "worker_connections": self._max_connections,
            # Seconds without a sign of life from the worker's main loop, not from a request.
            "timeout": 120,
            "graceful_timeout": int(settings.timeout + settings.page_time),
            "keepalive": 15,
            "control_socket_disable": True,
            "sendfile": False,
            "forwarder_headers": "",  # no header sets SCRIPT_NAME or PATH_INFO
            "pidfile": str(settings.pidfile) if settings.pidfile else None,
            "logger_class": GunicornLogger,
            "loglevel": "warning",
            "post_worker_init": self._start_loading,
            "worker_exit": self._close,
        }
        if Path("/dev/shm").is_dir():  # noqa: S108  (heartbeats must not wait for a disk)  # nosec B108
            options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108 # nosec B108
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """In a worker: the app, with no pipelines yet."""
        self._app = create_app(
            self.settings,
            self._admission,
            self._reload_state,
            self._problem,
            self.generation.keys,
        )
        return self._app

    @property
    def longest_request(self) -> float:
        """Seconds that the longest request allowed may take."""
        return self.settings.timeout + self.settings.max_pages * self.settings.page_time

    @property
    def is_replaced(self) -> bool:
        """In a worker: whether a newer generation serves."""
        return bool(self.state.read()["generation"] > self.generation.number)

    def _reload_state(self) -> dict[str, Any]:
        """In a worker: its generation, and how the last reload went."""
        return {"generation": self.generation.number, "reload": self.state.read()["reload"]}

    def _problem(self) -> str | None:
        """In a worker: why no worker can serve, if that is so."""
        problem: str | None = self.state.read()["problem"]
        return problem

    def _start_loading(self, worker: Worker) -> None:
        """The worker answers /health meanwhile."""
        assert self._app is not None
        service = self._app.service
        service.takes_jobs = lambda: worker.alive and not worker.paused and not self.is_replaced
        self._loader = threading.Thread(
            target=self._load_all, args=(worker, service), name="loader", daemon=True
        )
        self._loader.start()

    def _load_all(self, worker: Worker, service: Service) -> None:
        """Load the pipelines and tell the master; then the shadows.

        The fastest first, as nobody may lower the niceness of a thread again. The hot shapes are
        warmed before where others serve meanwhile. Otherwise after: the first seconds are slower,
        but begin seconds earlier.
        """
        registry, warm_first = service.registry, worker.paused

        def load(name: str) -> ServedPipeline:
            def on_batch(module: str, lines: int) -> None:
                if registry.ready:  # the warm-up is not counted
                    service.metrics.engine_called(name, module, lines)

            if latency(name) > _SLOW * fastest:  # inherited by the threads of its engines
                niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICENESS
                try:
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
                except OSError as error:
                    _LOG.warning("%s does not give way to faster pipelines: %s", name, error)
            return self._load(name, self.generation.configs[name], worker.slot, on_batch)

        def latency(name: str) -> float:
            return self.generation.latencies.get(name, math.inf)

        fastest = min(map(latency, registry.names))
        time.sleep(worker.load_delay)
        try:
            registry.open(load, sorted(registry.names, key=latency), warm=warm_first)
        except OcrError as error:
            self.events.failed(str(error))
            return
        except BaseException as error:
            _LOG.error("a pipeline does not load", exc_info=True)
            self.events.failed(f"a pipeline does not load: {type(error).__name__}: {error}")
            return
        service.metrics.pipelines_loaded()
        self.events.ready(registry.identities)
        if not warm_first:
            try:
                registry.warm()
            except Exception:
                _LOG.error("a pipeline does not warm up; it serves all the same", exc_info=True)
        for name, config in self.generation.shadows.items():
            assert service.shadow is not None
            try:
                shadow = self._load(name, config, worker.slot, lambda *_: None)
            except Exception:  # its pages are counted as dropped
                _LOG.error("the shadow of %s does not load", name, exc_info=True)
            else:
                service.shadow.open(name, shadow)
                _LOG.info("shadow ready", extra={"fields": {"pipeline": name}})

    def _close(self, master: Arbiter, worker: Any) -> None:
        if worker.pid != os.getpid() or self._app is None:
            return
        if os.getppid() != worker.ppid:  # the master was killed
            remove_metrics()
        if self._loader is not None and self._loader.is_alive():
            os._exit(0)  # a library may crash when the interpreter ends while it loads
        self._app.service.close()


def load_built(
    settings: Settings, name: str, config: ServedConfig, slot: int, on_batch: OnBatch
) -> ServedPipeline:
    """The `Load` of the engines that were built for the settings' YAML."""
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


def _max_connections(threads: int) -> int:
    """Connections that a worker with so many threads may hold.

    Raises this process's limit of open files, as far as it is allowed. Raises ConfigError where it
    is too low.
    """
    needed = _CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < _OTHER_FILES + threads:
        raise ConfigError(
            f"this process may open {allowed} files, and a worker needs {_OTHER_FILES + threads}; "
            "raise the limit: `ulimit -n 4352`, or LimitNOFILE=4352 of the systemd service"
        )
    return allowed - _OTHER_FILES
