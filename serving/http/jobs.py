"""Jobs: documents that are read in the background, spooled on disk.

A job is a folder of the spool. Its name is its id, and their order is that of arrival:

| file | has |
| --- | --- |
| request.json | what was asked, and whose it is; never changes |
| document | the bytes to read; removed at the end |
| state.json | how far it is; replaced by rename after each page |
| result.jsonl | a line a page. Allocated at the start, so that a disk that fills up loses no page; only `State.size` bytes count |

Who reads a job holds a lock (flock) on its folder. The kernel releases it when a worker dies:
another one goes on after the last page in state.json.
"""  # noqa: E501  (a table)

from __future__ import annotations

import errno
import hmac
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prometheus_client.core import GaugeMetricFamily, Metric
from werkzeug.exceptions import NotFound

from serving.disk import locked_folder, write_atomically
from serving.errors import NotReady, SpoolFull, TimedOut, Undecodable
from serving.http.errors import error_answer

_LOG = logging.getLogger("serving.http")

_ID = re.compile(r"[0-9a-f]{48}")
_OWN = re.compile(r"[0-9a-f]{48}|\.[0-9a-f]{48}(\.gone)?")
"""Folders of the spool; whatever else is there is somebody else's."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""These pass, and say nothing of a job."""
_PAGE_BYTES = 64 * 1024
"""Allocated for the result of a page: twice what a page of dense text has."""
_JOB_BYTES = 64 * 1024
"""Counted for a job beside its files, so that the number of jobs is bounded too."""
_MAX_ATTEMPTS = 3
_POLL = 1.0
"""Seconds between two looks for jobs that other workers took in, or left behind."""
_EXPIRY_PERIOD = 60.0
_UNFINISHED = 3600.0
"""Seconds after which a folder whose making or removal was cut off is removed."""
_UNREAD = 30 * 24 * 3600.0
"""Seconds for which a job waits to be read, at least: a server may be down for days."""

JobState = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What is to be read, and for whom."""

    owner: str
    """The name of the caller's key; empty without keys."""
    pipeline: str
    options: dict[str, Any]
    """Of `Options`, as plain values."""
    pages: str
    """Ranges, as `PageRanges.parse` takes them."""
    batch: str | None = None
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Opens the result without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a job is."""

    state: JobState = "pending"
    total: int
    """Pages to read."""
    pages: tuple[tuple[int, int], ...] = ()
    """(width, height) of those that have been read."""
    size: int = 0
    """Bytes of their result."""
    attempts: int = 0
    """At the next page, by workers that ended or had no time."""
    start: str | None = None
    end: str | None = None
    """Both in ISO 8601, UTC."""
    error: str | None = None


class Job:
    """One job, as it was on disk when this was made. Only who holds its lock may change it."""

    def __init__(self, spool: Spool, job_id: str) -> None:
        """Raises FileNotFoundError where there is no such job."""
        self.id = job_id
        self.folder = spool.folder / job_id
        self.result = self.folder / "result.jsonl"
        self.request = JobRequest(**json.loads((self.folder / "request.json").read_bytes()))
        self._spool = spool
        data = json.loads((self.folder / "state.json").read_bytes())
        self.state = State(**data | {"pages": tuple(map(tuple, data["pages"]))})

    def document(self) -> bytes:
        """What is to be read."""
        return (self.folder / "document").read_bytes()

    def begin(self) -> None:
        """Its next page is read from now on. Raises Undecodable where no attempt ends well."""
        attempts = self.state.attempts + (self.state.state == "running")
        start = self.state.start or _now()
        self._set(state="running", start=start, attempts=attempts)
        if attempts >= _MAX_ATTEMPTS:
            raise Undecodable(
                f"page {len(self.state.pages) + 1} of {self.state.total} was not read in "
                f"{attempts} attempts: a worker ended, or it took too long; leave it out with "
                "pageRanges"
            )

    def add_page(self, size: tuple[int, int], line: bytes) -> None:
        """Add a page's line to the result. Raises SpoolFull."""
        with self.result.open("r+b") as file:
            end = self.state.size + len(line)
            self._spool.check_room(end - os.fstat(file.fileno()).st_size)
            file.seek(self.state.size)
            file.write(line)
        self._set(pages=(*self.state.pages, size), size=end, attempts=0)

    def release(self) -> None:
        """Another worker, or the next server, goes on."""
        self._set(state="pending")

    def retry(self) -> None:
        """As `release`, but the attempt at its next page counts."""
        self._set(state="pending", attempts=self.state.attempts + 1)

    def end(self, error: str | None = None) -> None:
        """It is done, or failed for that reason."""
        with suppress(FileNotFoundError):  # damaged from outside
            os.truncate(self.result, self.state.size)
        self._set(state="failed" if error else "done", end=_now(), error=error)
        (self.folder / "document").unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove it; who reads it stops. Needs no lock."""
        _remove(self.folder)

    def _set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        _write_state(self.folder, self.state)


class Spool:
    """The jobs of all workers, in one folder, which is made when the first job comes."""

    def __init__(self, folder: Path, max_bytes: int, seconds: float) -> None:
        """seconds: for which a job is kept after its last page."""
        self.folder = folder.absolute()
        self._max_bytes = max_bytes
        self._seconds = seconds

    def add(self, request: JobRequest, document: bytes, total: int) -> str:
        """Take a job in; returns its id. Raises SpoolFull, and then nothing is left of it."""
        job_id = f"{time.time_ns():016x}{secrets.token_hex(16)}"
        making = self.folder / f".{job_id}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked_folder(self.folder):  # room is counted and taken by one at a time
                self.expire()
                self.check_room(_JOB_BYTES + len(document) + total * _PAGE_BYTES)
                making.mkdir(mode=0o700)
                (making / "request.json").write_text(json.dumps(asdict(request)))
                (making / "document").write_bytes(document)
                with (making / "result.jsonl").open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, total * _PAGE_BYTES)
                _write_state(making, State(total=total))
                making.rename(self.folder / job_id)
        except OSError as error:
            shutil.rmtree(making, ignore_errors=True)
            _LOG.error("the spool %s cannot be written: %s", self.folder, error)
            raise SpoolFull(
                f"the server's spool cannot be written ({error.strerror}); whoever runs the server "
                "chooses another folder with --spool"
            ) from None
        return job_id

    def get(self, job_id: str, owner: str) -> Job:
        """That owner's job. Raises NotFound, also for a job of another."""
        job = self._find(job_id)
        if job is None or job.request.owner != owner:
            raise NotFound("you have no such job: cancelled, expired, or of another key")
        return job

    def get_result(self, job_id: str, secret: str) -> Job:
        """The finished job that the secret opens. Raises NotFound."""
        job = self._find(job_id)
        if (
            job is None
            or not hmac.compare_digest(job.request.secret.encode(), secret.encode())
            or job.state.state != "done"
        ):
            raise NotFound("there is no such result: it expired, or the address is not complete")
        return job

    def batch(self, batch: str, owner: str) -> list[Job]:
        """That owner's jobs of a batch, in order of arrival; at least one. Raises NotFound."""
        jobs = [
            job
            for job in map(self._find, self._ids())
            if job is not None and (job.request.batch, job.request.owner) == (batch, owner)
        ]
        if not jobs:
            raise NotFound("there is no job of yours with this batchId")
        return jobs

    @contextmanager
    def claim(self, later: Container[str] = ()) -> Iterator[Job | None]:
        """The first job that nobody reads, locked for the `with` block; None if there is none.

        later: ids of jobs that are passed over.
        """
        with ExitStack() as held:
            yield self._claim(held, later)

    def _claim(self, held: ExitStack, later: Container[str]) -> Job | None:
        for job_id in self._unended():
            if job_id in later:
                continue
            with suppress(OSError), ExitStack() as lock:
                if lock.enter_context(locked_folder(self.folder / job_id, wait=False)):
                    job = self._find(job_id)
                    if job is not None and (job.folder / "document").exists():
                        held.enter_context(lock.pop_all())
                        return job
        return None

    def check_room(self, more: int) -> None:
        """Raise SpoolFull where so many bytes more are too many."""
        if more > 0 and (used := self.used()) + more > self._max_bytes:
            raise SpoolFull(
                f"the spool has no room: {used} of {self._max_bytes} bytes are taken (--spool-mb), "
                f"and this needs {more} more. Cancel jobs with DELETE, send fewer pages, or try "
                "again when jobs have expired"
            )

    def used(self) -> int:
        """Bytes that all jobs take."""
        total = 0
        for folder in self._folders():
            total += _JOB_BYTES
            with suppress(OSError), os.scandir(folder) as files:
                total += sum(file.stat().st_size for file in files)
        return total

    def expire(self) -> None:
        """Remove the jobs that ended too long ago, or that nobody has read for very long."""
        now = time.time()
        for folder in self._folders():
            with suppress(OSError):  # it is gone, or damaged
                if folder.name.startswith("."):
                    if now > folder.stat().st_mtime + _UNFINISHED:
                        shutil.rmtree(folder, ignore_errors=True)
                    continue
                waits = (folder / "document").exists()
                kept = max(self._seconds, _UNREAD) if waits else self._seconds
                if now > (folder / "state.json").stat().st_mtime + kept:
                    with locked_folder(folder, wait=False) as is_free:
                        if is_free:
                            _remove(folder)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        states = [job.state.state for job in map(self._find, self._unended()) if job is not None]
        for name, text, value in (
            ("ocr_jobs_waiting", "Jobs that wait for a worker.", states.count("pending")),
            ("ocr_jobs_running", "Jobs of which pages are read.", states.count("running")),
            ("ocr_spool_bytes", "Bytes that all jobs take on disk.", self.used()),
        ):
            yield GaugeMetricFamily(name, text, value=value)

    def _find(self, job_id: str) -> Job | None:
        if _ID.fullmatch(job_id):
            # Or it is half written, or of another version of the server: it expires.
            with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
                return Job(self, job_id)
        return None

    def _folders(self) -> list[Path]:
        with suppress(OSError):  # not made yet; or `add` says what is wrong
            found = (path for path in self.folder.iterdir() if _OWN.fullmatch(path.name))
            return sorted(path for path in found if path.is_dir())
        return []

    def _ids(self) -> list[str]:
        return [folder.name for folder in self._folders() if _ID.fullmatch(folder.name)]

    def _unended(self) -> list[str]:
        return [job_id for job_id in self._ids() if (self.folder / job_id / "document").exists()]


class JobRunner:
    """A thread of one worker that reads one job at a time, a page at a time."""

    def __init__(
        self,
        spool: Spool,
        is_ready: Callable[[], bool],
        read: Callable[[Job, Callable[[], None]], None],
    ) -> None:
        """is_ready: whether this worker is to read jobs, or to go on with one.

        read: reads the rest of a job, and calls its second argument now and then: that raises
        NotReady when another worker is to go on, and FileNotFoundError when the job was cancelled.
        """
        self._spool = spool
        self._is_ready = is_ready
        self._read = read
        self._stopping = False
        self._wake = threading.Event()
        self._next_expiry = 0.0
        self._later: dict[str, float] = {}
        """Jobs that could not be read or written, and when they are tried again."""
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a new job."""
        self._wake.set()

    def close(self) -> None:
        """Finish the page in progress; another worker goes on with the job."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping:
            try:
                if self._is_ready() and self._run_next():
                    continue
                self._wake.wait(_POLL)
            except Exception:  # a disk that is full or gone must not end all jobs
                _LOG.error("jobs: the spool fails; trying again in a minute", exc_info=True)
                self._wake.wait(_EXPIRY_PERIOD)
            self._wake.clear()

    def _run_next(self) -> bool:
        """Read one job to its end; whether there was one."""
        if time.monotonic() > self._next_expiry:
            self._next_expiry = time.monotonic() + _EXPIRY_PERIOD
            self._spool.expire()
        now = time.monotonic()
        self._later = {job_id: when for job_id, when in self._later.items() if when > now}
        with self._spool.claim(self._later) as job:
            if job is None:
                return False
            try:
                self._run(job)
            except OSError as error:  # of this job: the others go on
                if job.folder.exists():
                    _LOG.error("job %s: %s; tried again in a minute", job.id, error)
                    self._later[job.id] = now + _EXPIRY_PERIOD
                    return True
                _LOG.info("job cancelled", extra={"fields": {"job": job.id}})
        return job.state.state != "pending"

    def _run(self, job: Job) -> None:
        def check() -> None:
            if self._stopping or not self._is_ready():
                raise NotReady("another worker goes on")
            job.folder.stat()

        try:
            job.begin()
            self._read(job, check)
        except NotReady:
            job.release()
            return
        except TimedOut as error:
            job.retry()
            _LOG.warning("job %s: a page is read again: %s", job.id, error)
            return
        except OSError as error:
            with suppress(OSError):
                (job.release if error.errno in _FULL else job.retry)()
            raise
        except Exception as error:
            job.end(error_answer(error, job.id)[1]["error"]["message"])
        else:
            job.end()
        state = job.state
        fields = {"job": job.id, "state": state.state, "pages": len(state.pages)}
        failed = state.error is not None
        level, why = (logging.WARNING, {"reason": state.error}) if failed else (logging.INFO, {})
        _LOG.log(level, "job ended", extra={"fields": {**fields, **why}})


def _remove(folder: Path) -> None:
    gone = folder.with_name(f".{folder.name}.gone")
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _write_state(folder: Path, state: State) -> None:
    write_atomically(folder / "state.json", json.dumps(asdict(state)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
