"""Gunicorn's master, which swaps whole generations of workers. Written against gunicorn 27.

Gunicorn's own reload ends the old workers right after the fork, and a worker that fails to boot
ends the master. Here a new generation boots behind a closed door, reads the warm-up image and
reports; then its doors open, and only then are the old workers told to finish and end.
"""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from serving.errors import OcrError
from serving.http.gunicorn.application import Application
from serving.http.gunicorn.channel import WorkerEvent
from serving.http.gunicorn.generation import Generation, read_generation
from serving.http.gunicorn.worker import ENDS, Worker

_LOG = logging.getLogger("serving.http")

_LOAD_TIME = 900.0
"""Seconds for a new generation to load; the old one serves meanwhile."""
_RETRY = 10.0
"""Seconds until a worker that could not be replaced is tried again."""
_KILL = 10.0
"""Seconds for a worker without requests to end."""


class Master(Arbiter):
    """Hears its workers' reports; at most two generations of them live at a time."""

    def __init__(self, app: Application, first: Generation) -> None:
        super().__init__(app)
        self.failure: str | None = None
        """Why the server had to end."""
        self._application = app
        self._current = first
        self._next: Generation | None = None
        self._spawning = first
        self._wanted = False
        self._leaving: dict[int, float] = {}
        """Processes that were told to end, and when they are killed."""
        self._error: dict[str, str] | None = None
        self._retry_at = 0.0
        self._told = False
        self._stopping = False
        self.cfg.set("pre_fork", self._before_fork)
        self.cfg.set("child_exit", self._worker_gone)
        self._tell()

    def handle_hup(self) -> None:
        """Load everything anew, once what is under way has ended."""
        _LOG.info("reload asked for")
        self._wanted = True

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        # While something is under way, look often: people wait for it.
        settled = self._told and self._next is None and not self._leaving
        signals: list[int] = super().wait_for_signals(timeout if settled else 0.1)
        for report in self._application.reports.receive():
            self._hear(report)
        return signals

    def manage_workers(self) -> None:
        """Go on with the reload, then see to it that each generation has its workers."""
        self._advance()
        for generation in (self._current, self._next):
            if generation is None:
                continue
            pids = self._of(generation)
            for pid in pids[self.num_workers :]:
                self._terminate_worker(pid, self._application.patience)
            if generation is self._current and time.monotonic() < self._retry_at:
                continue
            for _ in range(self.num_workers - len(pids)):
                self._application.generation = self._spawning = generation
                self.spawn_worker()

    def spawn_worker(self) -> Any:
        """Fork, without losing a signal to a worker that has not its own handlers yet."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)

    def stop(self, graceful: bool = True) -> None:
        self._stopping = True
        super().stop(graceful)

    def _before_fork(self, master: Arbiter, worker: Worker) -> None:
        worker.generation = self._spawning
        worker.slot = free_slot(self._workers()[pid].slot for pid in self._of(self._spawning))
        if any(other.ready for other in self._workers().values()):
            worker.pause_accepting()

    def _hear(self, report: WorkerEvent) -> None:
        worker = self._workers().get(report.pid)
        if worker is None:
            if report.error is not None and not self._told:
                self._fail(report.error)
            return
        generation = worker.generation
        if report.pid in self._leaving:
            return
        if report.error is not None:
            self._reject_worker(worker, report.error)
        elif generation.loaded not in (None, report.loaded):
            self._reject_worker(
                worker, "models or plans changed on disk since the others loaded them"
            )
        else:
            generation.loaded = report.loaded
            worker.ready = True
            if generation is self._current:
                worker.resume_accepting()

    def _advance(self) -> None:
        """The next step of a reload, if its time has come."""
        now = time.monotonic()
        for pid in [pid for pid, end in self._leaving.items() if now > end]:
            self.kill_worker(pid, signal.SIGKILL)
        if not self._told and self._whole(self._current):
            self._told = True
            self._application.say_ready()
        if self._next is not None:
            if self._whole(self._next):
                self._swap(self._next)
            elif now > self._next.since + _LOAD_TIME:
                self._give_up(f"not loaded after {_LOAD_TIME:.0f} s")
        elif self._wanted and self._told and not self._leaving:
            self._begin()

    def _begin(self) -> None:
        self._wanted = False
        number = self._current.number + 1
        try:
            self._next = read_generation(number, self._application.settings)
        except OcrError as error:
            self._give_up(str(error))
        else:
            _LOG.info("loading anew", extra={"fields": {"generation": number}})
            if self._next.planned != self._current.planned:  # places and threads are of one number
                _LOG.warning(
                    "the plans say %d worker processes now, and said %d before; a reload keeps "
                    "the %d that there are: start the server anew for another number",
                    self._next.planned,
                    self._current.planned,
                    self.num_workers,
                )
            self._tell()

    def _swap(self, new: Generation) -> None:
        old, self._current, self._next, self._error = self._current, new, None, None
        self._retry_at = 0.0
        self._tell()  # first: the old ones look there how to end
        for pid in self._of(new):
            self._workers()[pid].resume_accepting()
        for pid in self._of(old):
            self._terminate_worker(pid, self._application.patience)
        _LOG.info("serving anew", extra={"fields": {"generation": new.number}})
        self._tell()

    def _give_up(self, reason: str) -> None:
        """The new generation cannot serve; the old one goes on."""
        failed, self._next = self._next, None
        for pid in self._of(failed) if failed else []:
            self._terminate_worker(pid, _KILL)
        self._record_error(
            f"the reload failed, and what was loaded before goes on serving: {reason}"
        )

    def _reject_worker(self, worker: Worker, reason: str) -> None:
        """A worker will not serve."""
        if worker.generation is self._next:
            self._give_up(reason)
        elif not self._told or not (self._serving() or self._next):
            self._fail(reason)
        else:
            self._terminate_worker(worker.pid, _KILL)
            self._retry_at = time.monotonic() + _RETRY
            self._record_error(f"a worker cannot be replaced, the others go on serving: {reason}")

    def _worker_gone(self, master: Arbiter, worker: Worker) -> None:
        worker.resume_accepting()
        if self._stopping:
            return
        if self._leaving.pop(worker.pid, None) is not None:
            self._tell()
            return
        if worker.generation is self._next or not worker.ready:
            self._reject_worker(
                worker, f"a worker ended while loading (process {worker.pid}); see the log"
            )
        elif not self._serving():
            self._current.loaded = None  # nobody is left to differ from

    def _terminate_worker(self, pid: int, seconds: float) -> None:
        """Let a worker finish what it has in work, for so long, and end."""
        if pid in self._workers():
            self._leaving[pid] = time.monotonic() + seconds
            self.kill_worker(pid, signal.SIGTERM)

    def _fail(self, reason: str) -> None:
        """End the server: what cannot load now will not load the next time either."""
        self.failure = self.failure or reason
        raise HaltServer(reason, 0)

    def _record_error(self, message: str) -> None:
        _LOG.error(message)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._error = {"time": at, "message": message[:1000]}
        self._tell()

    def _tell(self) -> None:
        """Let all workers know; GET /ocr/v1 shows it."""
        state = "loading" if self._next else "finishing" if self._leaving else "idle"
        self._application.board.write(
            {
                "generation": self._current.number,
                "reload": {"state": state, "error": self._error},
            }
        )

    def _workers(self) -> dict[int, Any]:
        return self.WORKERS

    def _of(self, generation: Generation) -> list[int]:
        """Its processes, the oldest last, without those that were told to end."""
        workers = self._workers()
        return sorted(
            (p for p in workers if workers[p].generation is generation and p not in self._leaving),
            key=lambda pid: -workers[pid].age,
        )

    def _serving(self) -> list[int]:
        return [pid for pid in self._of(self._current) if self._workers()[pid].ready]

    def _whole(self, generation: Generation) -> bool:
        """Whether all its workers are ready."""
        pids = self._of(generation)
        return len(pids) >= self.num_workers and all(self._workers()[pid].ready for pid in pids)


def free_slot(taken: Iterable[int]) -> int:
    """The least number that no worker has: by it workers share several GPUs out."""
    others = set(taken)
    return next(slot for slot in itertools.count() if slot not in others)
