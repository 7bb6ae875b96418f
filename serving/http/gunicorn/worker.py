"""Gunicorn's threaded worker, with time limits, and with pipelines loaded while it answers."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from gunicorn.http.errors import UnsupportedTransferCoding
from gunicorn.workers.gthread import ThreadWorker

from serving.http.context import raw_answer, request_id
from serving.http.errors import code_of, error_body
from serving.http.gunicorn.sockets import HEADER_TIME, MAX_HEADER, Header, TimedListener
from serving.http.metrics import count_as

if TYPE_CHECKING:
    from serving.http.gunicorn.application import Generation

_LOG = logging.getLogger("serving.http")

BLOCKED_AT_FORK = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGHUP, signal.SIGUSR2,
)  # fmt: skip
"""Signals that wait until a new worker has handlers of its own: Gunicorn's default would end it."""

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a computing thread gives way to one that answers a request.

Each read, write and wait of a request queues for the interpreter lock anew. With Python's default
of 5 ms, refusals beside pages in progress took four times as long or more.
"""
_LINGER_TIME = 2.0
_MAX_LINGER_BYTES = 1024 * 1024
_EVICTED = 64
"""Connections that are dropped when there are too many."""


class Worker(ThreadWorker):
    """A ThreadWorker that no slow client can block."""

    app: Any
    pid: Any
    generation: Generation
    number: int
    """The lowest number that no other living worker had at the fork."""
    slot: int
    """The same within its generation; it selects one of several GPUs."""
    ready = False
    """In the master: it has reported that its pipelines answer."""
    load_delay = 0.0
    """Seconds to wait before loading, because loading failed before."""
    spawned = 0.0
    """In the master: when it was started (`time.monotonic`)."""
    ended = ""
    """In the master: how it ended."""
    stopped = 0.0
    """In the master: when it was last seen not stopped by a signal (`time.monotonic`)."""
    settled_at = math.inf
    """In the master: when it has been warm for long enough (`time.monotonic`)."""
    fresh_memory = 0
    """In the master: bytes that it had in memory until then."""
    kill_at: float | None = None
    """In the master: when it is killed if it has not ended by then (`time.monotonic`)."""
    paused = False
    """It accepts no connections yet, because others do; until the master sends SIGUSR2."""

    @property
    def accepts(self) -> bool:
        """In the master: whether it is ready and accepts connections."""
        return self.ready and not self.paused and self.kill_at is None

    def init_process(self) -> None:
        listeners: list[Any] = [TimedListener(listener) for listener in self.sockets]
        self.sockets = listeners
        self._waiting: dict[Any, tuple[float, Callable[[Any], None]]] = {}
        sys.setswitchinterval(_SWITCH_INTERVAL)
        count_as(self.number, len(self.app.settings.pipelines))
        try:
            super().init_process()
        except Exception as error:
            # Gunicorn would exit with a status that makes its master end as well.
            _LOG.error("a worker failed", exc_info=True)
            self.app.events.failed(f"a worker failed: {type(error).__name__}: {error}")
            sys.exit(1)

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `pkill -HUP` is meant for the master
        signal.signal(signal.SIGUSR2, self._resume)
        signal.siginterrupt(signal.SIGUSR2, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_FORK)

    def _resume(self, *_: object) -> None:
        self.paused = False
        if self.alive:
            self.method_queue.defer(lambda: None)  # wakes the main loop, which accepts then

    # A connection has a thread only from a request's whole header to its answer. Before and after
    # that it waits in the poller, for a limited time.

    def accept(self, listener: Any) -> None:
        try:
            super().accept(listener)
        except OSError as error:  # Gunicorn's worker would end
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            _LOG.error("a connection cannot be accepted: %s", error.strerror)
            if not self._evict(1):
                time.sleep(0.1)

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread once its request's whole header has arrived."""
        if conn.parser is not None:  # a request that was sent behind the last one
            conn.sock.unread(conn.parser.unreader.take_buffered())
        self._read_header(conn, time.monotonic() + HEADER_TIME)

    def _read_header(self, conn: Any, deadline: float) -> None:
        header = conn.sock.read_header()
        if header is Header.WHOLE:
            conn.data_ready = True
            super().enqueue_req(conn)
        elif header is Header.TOO_LARGE:
            self._refuse(conn, 431, f"the header is larger than {MAX_HEADER} bytes")
        else:
            then = partial(self._read_header, conn, deadline)
            self._wait(conn, selectors.EVENT_READ, deadline, then, self._header_is_late)

    def _header_is_late(self, conn: Any) -> None:
        if conn.sock.held:
            self._refuse(conn, 408, f"the header has not arrived within {HEADER_TIME:.0f} s")
        else:
            self._drop(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A thread is done with a request; the client may not have all of the answer yet."""
        sock = conn.sock
        if sock.fileno() < 0 or fs.cancelled() or fs.exception() is not None:
            self._drop(conn)
        elif sock.unsent:
            deadline = time.monotonic() + sock.send_time_left
            then = partial(self._flush, conn, partial(self.finish_request, conn, fs))
            self._wait(conn, selectors.EVENT_WRITE, deadline, then, self._drop)
        elif not fs.result():
            self._close(conn)
        elif sock.held or conn.parser.unreader.buf.getvalue():
            self.enqueue_req(conn)  # the poller does not see what has been read already
        else:
            super().finish_request(conn, fs)

    def _flush(self, conn: Any, then: Callable[[], None]) -> None:
        try:
            conn.sock.flush()
        except OSError:
            self._drop(conn)
        else:
            then()

    def _refuse(self, conn: Any, status: int, message: str) -> None:
        """Answer without a thread what has no whole header, and close."""
        try:
            conn.sock.sendall(_error_answer(status, message))
        except OSError:
            self._drop(conn)
        else:
            self._close(conn)

    def _close(self, conn: Any) -> None:
        """Close once the client has done so, but soon: see `TimedSocket.linger`."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
        else:
            self._linger(conn, time.monotonic() + _LINGER_TIME, _MAX_LINGER_BYTES)

    def _linger(self, conn: Any, deadline: float, max_bytes: int) -> None:
        left = conn.sock.linger(max_bytes)
        if left == 0:
            self._drop(conn)
        else:
            then = partial(self._linger, conn, deadline, left)
            self._wait(conn, selectors.EVENT_READ, deadline, then, self._drop)

    def _wait(
        self,
        conn: Any,
        event: int,
        deadline: float,
        then: Callable[[], None],
        late: Callable[[Any], None],
    ) -> None:
        """Call `then()` once the event is there, or `late(conn)` at the deadline."""

        def ready(_: Any) -> None:
            self._stop_waiting(conn)
            then()

        self._waiting[conn] = deadline, late
        self.poller.register(conn.sock, event, ready)

    def _stop_waiting(self, conn: Any) -> None:
        if self._waiting.pop(conn, None) is not None:
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _evict(self, count: int) -> int:
        """Drop the connections that have waited longest; how many."""
        longest = list(islice(self._waiting, count))
        for conn in longest:
            self._stop_waiting(conn)
            self._drop(conn)
        return len(longest)

    def murder_pending(self) -> None:
        """Gunicorn's main loop: end what has waited too long."""
        now = time.monotonic()
        late = [(conn, end) for conn, (deadline, end) in self._waiting.items() if deadline <= now]
        for conn, end in late:
            self._stop_waiting(conn)
            end(conn)
        if self.nr_conns >= self.worker_connections:
            self._evict(_EVICTED)  # others must be able to connect

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """When stopping, accept the connections made so far, then close the listeners.

        Gunicorn keeps them open to the end, and resets connections made in between. Once a newer
        generation serves, it accepts them instead.
        """
        super().set_accept_enabled(bool(enabled and self.alive and not self.paused))
        if self.alive:
            return
        replaced = self.app.is_replaced
        if replaced:  # nothing waits for this worker's end, so it may finish every request
            self.cfg.set("graceful_timeout", int(self.app.longest_request))
        listeners, self.sockets = self.sockets, []
        soon = time.monotonic() + _LINGER_TIME
        for listener in listeners:
            while not replaced and not self.paused and select.select([listener], [], [], 0)[0]:
                self.accept(listener)
                if time.monotonic() > soon:  # no more files may be opened
                    break
            listener.close()
        for conn, (deadline, late) in self._waiting.items():
            if late == self._header_is_late:
                self._waiting[conn] = min(deadline, soon), late

    def handle(self, conn: Any) -> Any:
        """In a thread: serve one request."""
        conn.sock.begin_request()
        return super().handle(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in JSON what never reached the app, such as a malformed header."""
        recorder = _ResponseRecorder()
        super().handle_error(req, cast(Any, recorder), addr, exc)
        answer = recorder.getvalue().split()
        status = int(answer[1]) if answer else 500
        if isinstance(exc, UnsupportedTransferCoding):  # Gunicorn: 501
            status = 400
        message = "internal error" if status >= 500 else f"malformed request: {exc}"
        with contextlib.suppress(OSError):
            client.sendall(_error_answer(status, message))


def _error_answer(status: int, message: str) -> bytes:
    number = request_id()
    return raw_answer(status, error_body(code_of(status), message, number), number)


class _ResponseRecorder(io.BytesIO):
    """Takes the place of the client's socket, to read the status of Gunicorn's own answer."""

    def sendall(self, data: bytes) -> None:
        self.write(data)

    def gettimeout(self) -> float:
        return 0.0
