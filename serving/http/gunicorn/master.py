"""Gunicorn's master, which replaces all workers at a SIGHUP: a new generation takes over.

| state     | current generation        | next generation             | ends when |
| --------- | ------------------------- | --------------------------- | --------- |
| starting  | loads                     |                             | all are ready: `ready` is printed; one raises an error: the server ends |
| idle      | serves                    |                             | a SIGHUP, or its workers have grown: the next one serves the same |
| loading   | serves                    | loads, accepts no connections | all are ready: it becomes the current one; one fails, or 15 minutes pass: idle, with the error |
| finishing | serves                    |                             | the workers of the generation before have answered their requests and ended |

A worker that crashes while it loads, or that fails once the server has been ready, is replaced at
once by one that answers /health and 503 with the reason, and loads after a delay that doubles.

Why processes, and not new pipelines loaded beside the old ones in each worker: a model that crashes
while it loads would end every worker, with all requests in progress; here it ends a process that
serves nobody. Nor must workers agree on the moment to swap, or on what to do when one of them
fails. It costs the memory of both generations while they overlap, as the other way would.
"""  # noqa: E501  (a table)

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from prometheus_client.multiprocess import mark_process_dead

from serving.errors import ConfigError, OcrError
from serving.http.gunicorn import check_version
from serving.http.gunicorn.application import (
    Application,
    Generation,
    Load,
    load_built,
    read_generation,
)
from serving.http.gunicorn.messages import WorkerEvent
from serving.http.gunicorn.worker import BLOCKED_AT_FORK, Worker
from serving.http.logs import configure_logs
from serving.http.metrics import metrics_folder
from serving.http.settings import Settings
from serving.http.startup import bind, is_loopback
from serving.machine import is_stopped, resident_memory

_LOG = logging.getLogger("serving.http")

_LOAD_TIME = 900.0
"""Seconds for a new generation to load."""
_SPAWN_DELAY = 1.0
"""Seconds until a process is started again that could not be, or that ended at once."""
_MAX_LOAD_DELAY = 60.0
"""Seconds at most until a worker loads again what could not be loaded."""
_KILL_DELAY = 10.0
"""Seconds for a worker without requests to end."""
_SETTLING = 10.0
"""Seconds after it was ready in which a worker warms up."""
_GROWN = 1.25
"""Workers that hold so many times what they then held are replaced, ..."""
_ROOM = 1.5
"""... once so many times as much, or less, is left of the memory allowed."""
_RENEWAL_INTERVAL = 300.0
"""Seconds between two replacements of workers that have grown."""
_STOP_TIME = 5.0
"""Seconds that a worker may be stopped by a signal; its callers wait, and nothing else helps."""

_STOPS: dict[int, str] = {
    signal.SIGTERM: "stopping once the requests in progress are answered",
    signal.SIGINT: "stopping at once",
    signal.SIGQUIT: "stopping at once",
}
"""What is logged of the signals that end the server."""


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
    application = Application(settings, load or partial(load_built, settings), listener)
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
        if master.signalled:
            _LOG.info("stopped")


class Master(Arbiter):
    """Starts, replaces and ends workers; at most two generations of them live at a time."""

    # Gunicorn ends the server when a worker exits with one of these: none does.
    WORKER_BOOT_ERROR = APP_LOAD_ERROR = 256

    def __init__(self, application: Application, first: Generation) -> None:
        super().__init__(application)
        self.failure: str | None = None
        """Why the server had to end."""
        self.signalled = False
        """Whether it ends because of a signal."""
        self._application = application
        self._current = first
        self._next: Generation | None = None
        self._ready = False
        self._stopping = False
        self._reload_requested = False
        self._error: dict[str, str] | None = None
        self._problem: str | None = None
        """Why no worker can serve at the moment."""
        self._spawn_at = 0.0
        self._renew_at = 0.0
        self.cfg.set("pre_fork", self._before_fork)
        self.cfg.set("child_exit", self._worker_exited)
        self._publish_state()

    # What Gunicorn calls

    def handle_hup(self) -> None:
        """Reload once the reload in progress, if there is one, has ended."""
        _LOG.info("reload requested")
        self._reload_requested = True

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        """Wait for signals, and handle the events of workers meanwhile."""
        busy = self._next is not None or not all(worker.ready for worker in self._workers())
        signals: list[int] = super().wait_for_signals(0.1 if busy else timeout)
        for number in signals:
            if message := _STOPS.get(number):
                self.signalled = True
                name = signal.Signals(number).name
                _LOG.info(message, extra={"fields": {"signal": name}})
        for event in self._application.events.receive():
            self._handle_event(event)
        return signals

    def manage_workers(self) -> None:
        """Take the next step of a reload, then start or end workers up to their number."""
        self._continue()
        for generation in (self._current, self._next):
            if generation is None:
                continue
            workers = self._workers_of(generation)
            for worker in workers[self.num_workers :]:
                self._terminate_worker(worker, self._application.longest_request)
            if time.monotonic() < self._spawn_at:
                continue
            for _ in range(self.num_workers - len(workers)):
                self._application.generation = generation
                try:
                    self.spawn_worker()
                except OSError as error:  # no memory, no processes, no room for its heartbeat file
                    self.cfg.set("worker_tmp_dir", None)
                    self._spawn_at = time.monotonic() + _SPAWN_DELAY
                    self._record_error(f"a worker process cannot be started: {error.strerror}")
                    break

    def spawn_worker(self) -> Any:
        """Fork, with signals blocked until the worker has handlers of its own."""
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_AT_FORK)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_FORK)

    def start(self) -> None:
        try:
            super().start()
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"--pidfile: {error}") from error

    def stop(self, graceful: bool = True) -> None:
        self._stopping = True
        super().stop(graceful)

    def reap_workers(self) -> None:
        for worker in self._workers():
            worker.ended = how_it_ended(worker.pid)
        super().reap_workers()

    def _before_fork(self, master: Arbiter, worker: Worker) -> None:
        generation = worker.generation = self._application.generation
        if generation.failures:
            worker.load_delay = min(2.0 ** (generation.failures - 1), _MAX_LOAD_DELAY)
        worker.spawned = time.monotonic()
        worker.slot = free_number(other.slot for other in self._workers_of(worker.generation))
        worker.number = free_number(other.number for other in self._workers())
        worker.paused = any(other.accepts for other in self._workers())

    def _worker_exited(self, master: Arbiter, worker: Worker) -> None:
        mark_process_dead(worker.number)  # its gauges: what it had in progress has ended with it
        if self._stopping:
            return
        if worker.kill_at is not None:
            self._publish_state()
        elif not worker.ready:
            reason = f"a worker ended while loading (process {worker.pid}, {worker.ended})"
            if worker.generation is self._next:
                self._abort_reload(reason)
                return
            if time.monotonic() < worker.spawned + worker.load_delay:  # not even that far
                self._spawn_at = time.monotonic() + _SPAWN_DELAY
            self._worker_failed(worker.generation, reason)
        else:
            _LOG.error("a worker ended (process %d, %s): replacing it", worker.pid, worker.ended)
            if not self._serving():
                self._current.loaded = None  # no worker is left that a new one could differ from
                self._problem = f"the worker ended ({worker.ended}), another one is loading"
                self._publish_state()

    # Events of workers

    def _handle_event(self, event: WorkerEvent) -> None:
        worker: Any = self.WORKERS.get(event.pid)
        if worker is None:
            if event.error is not None and not self._ready:
                self._fail(event.error)
        elif worker.kill_at is not None:
            return
        elif event.error is not None:
            self._reject_worker(worker, event.error)
        elif worker.generation.loaded not in (None, event.loaded):
            reason = "models or plans have changed on disk since the other workers loaded them"
            self._reject_worker(worker, reason)
        else:
            worker.generation.loaded = event.loaded
            worker.ready = True
            worker.settled_at = time.monotonic() + _SETTLING
            if worker.generation is self._current:
                self._let_accept(worker)
                self._problem = None
                if self._current.failures and self._all_ready(self._current):
                    _LOG.info("all workers are ready again")
                    self._current.failures, self._error = 0, None
                self._publish_state()

    def _reject_worker(self, worker: Worker, reason: str) -> None:
        """Handle a worker that cannot serve."""
        if worker.generation is self._next:
            self._abort_reload(reason)
        elif not self._ready:
            self._fail(reason)
        else:
            self._terminate_worker(worker, _KILL_DELAY)
            self._worker_failed(worker.generation, reason)

    def _worker_failed(self, generation: Generation, reason: str) -> None:
        """A worker of the current generation cannot serve: the next one tries again, but later."""
        generation.failures += 1
        others = self._serving()
        if not others:
            generation.loaded = None
            self._problem = reason
        meanwhile = "the others keep serving" if others else "requests get 503 until one can serve"
        self._record_error(f"a worker cannot serve, {meanwhile}: {reason}; trying again")

    def _fail(self, reason: str) -> None:
        """End the server: what raised an error now would raise it the next time too."""
        self.failure = self.failure or reason
        raise HaltServer(reason, 0)

    # A reload, step by step

    def _continue(self) -> None:
        now = time.monotonic()
        for worker in self._workers():
            if not is_stopped(worker.pid):
                worker.stopped = now
            elif now > worker.stopped + _STOP_TIME:
                _LOG.error("a worker (process %d) was stopped by a signal: killing it", worker.pid)
                self.kill_worker(worker.pid, signal.SIGKILL)
            if worker.ready and now < worker.settled_at:
                worker.fresh_memory = resident_memory(worker.pid)
            if worker.kill_at is not None and now > worker.kill_at:
                self.kill_worker(worker.pid, signal.SIGKILL)
        if not self._ready and self._all_ready(self._current):
            self._ready = True
            print(f"ready {self._application.url}", flush=True)
            _LOG.info("ready", extra={"fields": {"url": self._application.url}})
        if self._next is not None:
            if self._all_ready(self._next):
                self._swap(self._next)
            elif now > self._next.since + _LOAD_TIME:
                self._abort_reload(f"not loaded after {_LOAD_TIME:.0f} s")
        elif self._ready and not self._ending():
            if self._reload_requested:
                self._start_reload()
            elif now > self._renew_at and self._have_grown():
                self._start_renewal()

    def _start_reload(self) -> None:
        self._reload_requested = False
        number = self._current.number + 1
        try:
            self._next = read_generation(number, self._application.settings)
        except OcrError as error:
            self._abort_reload(str(error))
            return
        except Exception as error:  # whatever a file does, what was loaded before keeps serving
            _LOG.error("a reload raised an error that is a bug", exc_info=True)
            self._abort_reload(f"{type(error).__name__}: {error}")
            return
        _LOG.info("loading", extra={"fields": {"generation": number}})
        if self._next.planned != self._current.planned:  # the queue and the threads depend on it
            _LOG.warning(
                "the plans recommend %d worker processes now, and %d before; a reload keeps %d: "
                "restart the server to change their number",
                self._next.planned,
                self._current.planned,
                self.num_workers,
            )
        self._publish_state()

    def _have_grown(self) -> bool:
        """Whether new workers just fit beside the serving ones, which hold more by their shapes."""
        limit, now = self._application.settings.memory, time.monotonic()
        if limit is None or not self._all_ready(self._current):
            return False
        workers = self._serving()
        if now < max(worker.settled_at for worker in workers):
            return False
        fresh = sum(worker.fresh_memory for worker in workers)
        held = sum(resident_memory(worker.pid) for worker in workers)
        if held < max(_GROWN * fresh, limit - _ROOM * fresh):
            return False
        if held + fresh <= limit:
            return True
        self._renew_at = now + _RENEWAL_INTERVAL
        _LOG.warning(
            "the workers hold %d of %d MiB, and new ones take %d: too little to replace them; "
            "allow --memory or the container %d MiB, or use fewer --workers",
            held >> 20,
            limit >> 20,
            fresh >> 20,
            int((_GROWN + _ROOM) * fresh / 0.9) >> 20,
        )
        return False

    def _start_renewal(self) -> None:
        """Load what is served again, from the same files, in new workers."""
        now = time.monotonic()
        self._renew_at = now + _RENEWAL_INTERVAL
        number = self._current.number + 1
        self._next = replace(self._current, number=number, since=now, failures=0)
        _LOG.info(
            "the workers have grown: replacing them", extra={"fields": {"generation": number}}
        )
        self._publish_state()

    def _swap(self, new: Generation) -> None:
        old, self._current, self._next, self._error = self._current, new, None, None
        self._spawn_at, self._problem = 0.0, None
        self._publish_state()  # first: the old workers look there how to end
        for worker in self._workers_of(new):
            self._let_accept(worker)
        for worker in self._workers_of(old):
            self._terminate_worker(worker, self._application.longest_request)
        _LOG.info("serving", extra={"fields": {"generation": new.number}})
        self._publish_state()

    def _abort_reload(self, reason: str) -> None:
        failed, self._next = self._next, None
        if failed is not None:
            for worker in self._workers_of(failed):
                self._terminate_worker(worker, _KILL_DELAY)
        self._record_error(f"the reload failed, what was loaded before keeps serving: {reason}")

    def _record_error(self, message: str) -> None:
        _LOG.error(message)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._error = {"time": now, "message": message[:1000]}
        self._publish_state()

    def _publish_state(self) -> None:
        """Write what the workers know of the master; GET /ocr/v1 shows it."""
        state = "loading" if self._next else "finishing" if self._ending() else "idle"
        reload = {"state": state, "error": self._error}
        problem = None if self._serving() else self._problem
        self._application.state.write(
            {"generation": self._current.number, "reload": reload, "problem": problem}
        )

    # Workers

    def _let_accept(self, worker: Worker) -> None:
        if worker.paused:
            worker.paused = False
            self.kill_worker(worker.pid, signal.SIGUSR2)

    def _terminate_worker(self, worker: Worker, seconds: float) -> None:
        """Let a worker finish its requests and end; kill it after so many seconds."""
        if worker.pid in self.WORKERS:
            worker.kill_at = time.monotonic() + seconds
            self.kill_worker(worker.pid, signal.SIGTERM)

    def _workers(self) -> list[Any]:
        return list(self.WORKERS.values())

    def _workers_of(self, generation: Generation) -> list[Worker]:
        """Its workers, newest first, without those that are ending."""
        return sorted(
            (w for w in self._workers() if w.generation is generation and w.kill_at is None),
            key=lambda worker: -worker.age,
        )

    def _ending(self) -> list[Worker]:
        """Those told to end, and those that will be: of a generation that has been replaced."""
        kept = self._current, self._next
        return [
            worker
            for worker in self._workers()
            if worker.kill_at is not None or not any(worker.generation is one for one in kept)
        ]

    def _serving(self) -> list[Worker]:
        return [worker for worker in self._workers_of(self._current) if worker.ready]

    def _all_ready(self, generation: Generation) -> bool:
        workers = self._workers_of(generation)
        return len(workers) >= self.num_workers and all(worker.ready for worker in workers)


def how_it_ended(pid: int) -> str:
    """How a child process ended that has not been reaped yet."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        ended = None
    if ended is None:
        return "ended"
    if ended.si_code == os.CLD_EXITED:
        return f"exit status {ended.si_status}"
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(ended.si_status, f"signal {ended.si_status}")
    hint = {"SIGKILL": ", out of memory?", "SIGBUS": ", is /dev/shm or a disk full?"}.get(name, "")
    return f"killed by {name}{hint}"


def free_number(taken: Iterable[int]) -> int:
    """The lowest number, from 0, that is not taken."""
    numbers = set(taken)
    return next(number for number in itertools.count() if number not in numbers)
