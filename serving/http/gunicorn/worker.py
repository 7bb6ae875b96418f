"""Gunicorn's threaded worker, with time limits, and with pipelines loaded while it answers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from gunicorn.workers.gthread import ThreadWorker

from serving.errors import OcrError
from serving.http.context import new_request_id
from serving.http.errors import code_of, error_body
from serving.http.gunicorn.messages import WorkerEvents
from serving.http.gunicorn.sockets import HEADER_TIME, TimedListener, TimedSocket
from serving.http.metrics import count_as
from serving.http.registry import ServedPipeline, Registry
from serving.models.probe import draw_text
from serving.types import Image

if TYPE_CHECKING:
    from serving.http.gunicorn.application import Generation

_LOG = logging.getLogger("serving.http")

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)
"""Signals with which a master ends its workers."""

_SWITCH_INTERVAL = 0.0005
"""Seconds after which a computing thread gives way to one that answers a request.

Each read, write and wait of a request queues for the interpreter lock anew. With Python's default
of 5 ms, refusals beside pages in progress took four times as long or more.
"""
_MAX_LINGERING = 8
_LINGER_TIME = 2.0


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
    kill_at: float | None = None
    """In the master: when it is killed if it has not ended by then (`time.monotonic`)."""
    _accept_event: int | None = None
    """An eventfd that ends the pause; None when connections are accepted."""

    def pause_accepting(self) -> None:
        """In the master, before the fork: accept no connections until `resume_accepting`."""
        self._accept_event = os.eventfd(0)

    def resume_accepting(self) -> None:
        """In the master: let the worker accept connections."""
        if self._accept_event is not None:
            os.eventfd_write(self._accept_event, 1)
            os.close(self._accept_event)
            self._accept_event = None

    def init_process(self) -> None:
        listeners: list[Any] = [TimedListener(listener) for listener in self.sockets]
        self.sockets = listeners
        self._lingering = threading.BoundedSemaphore(_MAX_LINGERING)
        sys.setswitchinterval(_SWITCH_INTERVAL)
        count_as(self.number)
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # blocked for the fork

    def run(self) -> None:
        if self._accept_event is not None:
            self.poller.register(self._accept_event, selectors.EVENT_READ, self._on_resume)
        super().run()

    def _on_resume(self, event: int) -> None:
        self.poller.unregister(event)
        os.close(event)
        self._accept_event = None

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread, but only once its whole header has arrived.

        Until then it waits in the poller, for a limited time.
        """
        buffered = conn.parser is not None and conn.parser.unreader.buf.getvalue()
        if buffered or not isinstance(conn.sock, TimedSocket) or conn.sock.header_complete():
            conn.data_ready = True
            conn.header_deadline = None
            super().enqueue_req(conn)
            return
        if getattr(conn, "header_deadline", None) is None:
            conn.header_deadline = time.monotonic() + HEADER_TIME
        conn.timeout = conn.header_deadline
        conn.sock.setblocking(False)
        self.pending_conns.append(conn)
        on_readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, on_readable)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """When stopping, accept the connections made so far, then close the listeners.

        Gunicorn keeps them open to the end, and resets connections made in between. Once a newer
        generation serves, it accepts them instead.
        """
        paused = self._accept_event is not None
        super().set_accept_enabled(bool(enabled and self.alive and not paused))
        if self.alive:
            return
        replaced = self.app.is_replaced
        if replaced:  # nothing waits for this worker's end, so it may finish every request
            self.cfg.set("graceful_timeout", int(self.app.longest_request))
        listeners, self.sockets = self.sockets, []
        for listener in listeners:
            while not replaced and not paused and select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout or 0.0, time.monotonic() + _LINGER_TIME)

    def handle(self, conn: Any) -> Any:
        """Serve one request; then linger in this thread, not in the main loop as Gunicorn does.

        There a client that keeps its side open would block all others.
        """
        keep_alive = super().handle(conn)
        if keep_alive is False and isinstance(conn.sock, TimedSocket) and conn.sock.fileno() >= 0:
            may_wait = self._lingering.acquire(blocking=False)
            try:
                conn.sock.linger(_LINGER_TIME if may_wait else 0.0, max_bytes=1024 * 1024)
            finally:
                if may_wait:
                    self._lingering.release()
        return keep_alive

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in JSON what never reached the app, such as a malformed header."""
        recorder = _ResponseRecorder()
        super().handle_error(req, cast(Any, recorder), addr, exc)
        status_line = recorder.getvalue().partition(b"\r\n")[0].decode("latin-1")
        status_line = status_line or "HTTP/1.1 500 Internal Server Error"
        status = int(status_line.split()[1])
        message = "internal error" if status >= 500 else f"malformed request: {exc}"
        request_id = new_request_id()
        body = json.dumps(error_body(code_of(status), message, request_id)).encode()
        head = (
            f"{status_line}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-Id: {request_id}\r\nServer-Timing: total;dur=0.0\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


class _ResponseRecorder(io.BytesIO):
    """Takes the place of the client's socket, to read the status of Gunicorn's own answer."""

    def sendall(self, data: bytes) -> None:
        self.write(data)

    def gettimeout(self) -> float:
        return 0.0


def warmup_image() -> Image:
    """A small page of text that every pipeline reads before it is ready, (480, 640, 3) uint8."""
    return np.array(draw_text(480, 640))


def load_in_background(
    registry: Registry, load: Callable[[str], ServedPipeline], events: WorkerEvents
) -> threading.Thread:
    """Load the pipelines while the worker already answers /health; report the result."""

    def work() -> None:
        try:
            registry.open(load, warmup_image())
        except OcrError as error:
            events.failed(str(error))
        except BaseException as error:
            _LOG.error("a pipeline does not load", exc_info=True)
            events.failed(f"a pipeline does not load: {type(error).__name__}: {error}")
        else:
            events.ready(registry.identities)

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    return thread
