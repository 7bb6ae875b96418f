"""Gunicorn's threaded worker, with time limits, and with pipelines loaded while it answers.

The image that every pipeline has to answer before the server says that it is ready.
"""

from __future__ import annotations

import contextlib
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
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gunicorn.workers.gthread import ThreadWorker
from PIL import Image, ImageDraw, ImageFont

from serving.errors import OcrError
from serving.http.context import new_request_id
from serving.http.errors import code_of, error_body
from serving.http.gunicorn.channel import WorkerEvents
from serving.http.gunicorn.generation import Generation, fingerprint
from serving.http.gunicorn.sockets import HEADER_TIME, TimedListener, TimedSocket
from serving.http.registry import Reader
from serving.http.service import Service

_LINES = ("Ready 0123456789", "The quick brown fox", "jumps over the lazy dog.")


def warmup_image() -> npt.NDArray[np.uint8]:
    """A small page with three clean lines. (480, 640, 3) uint8 BGR."""
    page = Image.new("RGB", (640, 480), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=40)
    for row, line in enumerate(_LINES):
        pen.text((40, 60 + 120 * row), line, fill="black", font=font)
    return np.ascontiguousarray(np.asarray(page)[:, :, ::-1])


_LOG = logging.getLogger("serving.http")

_SWITCH = 0.0005
"""Seconds after which a thread that computes gives way to one that has a caller to answer.

Each read, write and wait of a request takes its turn anew. At Python's own 5 ms a turn, refusals
beside pages in work took four times as long or more.
"""
ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)
"""What a master sends its workers to end them."""

_LINGERERS = 8
_LINGER_TIME = 2.0


class Worker(ThreadWorker):
    """A ThreadWorker that no slow caller stops. Written against gunicorn 27."""

    app: Any
    pid: Any
    generation: Generation
    slot: int
    """Its number among the workers of its generation, from 0."""
    ready = False
    """For the master: it has reported that its pipelines answer."""
    _door: int | None = None
    """While there is one, nobody is let in."""

    def pause_accepting(self) -> None:
        """In the master, before the fork: let nobody in until the door is opened."""
        self._door = os.eventfd(0)

    def resume_accepting(self) -> None:
        """In the master: let callers in."""
        if self._door is not None:
            os.eventfd_write(self._door, 1)
            os.close(self._door)
            self._door = None

    def init_process(self) -> None:
        listeners: list[Any] = [TimedListener(listener) for listener in self.sockets]
        self.sockets = listeners
        sys.setswitchinterval(_SWITCH)
        self._lingerers = threading.BoundedSemaphore(_LINGERERS)
        try:
            super().init_process()
        except Exception as error:
            # Gunicorn would end with a status that makes its master end as well.
            _LOG.error("a worker broke", exc_info=True)
            self.app.reports.failed(f"a worker broke: {type(error).__name__}: {error}")
            sys.exit(1)

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `pkill -HUP` means the master
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)  # the master blocked them for the fork

    def run(self) -> None:
        if self._door is not None:
            self.poller.register(self._door, selectors.EVENT_READ, self._opened)
        super().run()

    def _opened(self, door: int) -> None:
        self.poller.unregister(door)
        os.close(door)
        self._door = None

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread, but only once its header has come.

        Until then it waits where it costs nothing, for a limited time.
        """
        ahead = conn.parser is not None and conn.parser.unreader.buf.getvalue()
        if ahead or not isinstance(conn.sock, TimedSocket) or conn.sock.header_come():
            conn.data_ready = True
            conn.header_due = None
            super().enqueue_req(conn)
            return
        if getattr(conn, "header_due", None) is None:
            conn.header_due = time.monotonic() + HEADER_TIME
        conn.timeout = conn.header_due
        conn.sock.setblocking(False)
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """When stopping, take who has already connected, then close the listeners.

        Gunicorn leaves them open to the end, and resets who came in between. Where another
        generation serves, who has connected is for that one.
        """
        super().set_accept_enabled(bool(enabled and self.alive and self._door is None))
        if self.alive:
            return
        superseded = self.app.superseded
        if superseded:  # nothing else waits for this worker's end
            self.cfg.set("graceful_timeout", int(self.app.patience))
        listeners, self.sockets = self.sockets, []
        for listener in listeners:
            while not superseded and self._door is None and _waits(listener):
                self.accept(listener)
            listener.close()
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout or 0.0, time.monotonic() + _LINGER_TIME)

    def handle(self, conn: Any) -> Any:
        """Serve one request; then linger here, not in the main loop as Gunicorn does.

        A caller that keeps its side open would hold up every other one there.
        """
        kept = super().handle(conn)
        if kept is False and isinstance(conn.sock, TimedSocket) and conn.sock.fileno() >= 0:
            rest = self._lingerers.acquire(blocking=False)
            try:
                conn.sock.linger(_LINGER_TIME if rest else 0.0, most=1024 * 1024)
            finally:
                if rest:
                    self._lingerers.release()
        return kept

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what never reached the app (a malformed header, ...) in JSON as well."""
        catcher = _Catcher()
        super().handle_error(req, cast(Any, catcher), addr, exc)
        status, reason = catcher.status
        message = "internal error" if status >= 500 else f"malformed request: {exc}"
        request_id = new_request_id()
        body = json.dumps(error_body(code_of(status), message, request_id)).encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-Id: {request_id}\r\nServer-Timing: total;dur=0.0\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


def _waits(listener: Any) -> bool:
    return bool(select.select([listener], [], [], 0)[0])


class _Catcher:
    """A socket that keeps what is sent: Gunicorn's own answer, to read its status from."""

    def __init__(self) -> None:
        self._sent = b""

    def sendall(self, data: bytes) -> None:
        self._sent += data

    def gettimeout(self) -> float:
        return 0.0

    @property
    def status(self) -> tuple[int, str]:
        words = self._sent.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
        return (int(words[1]), words[2]) if len(words) == 3 else (500, "Internal Server Error")


def load_in_background(
    service: Service, load: Callable[[str], Reader], reports: WorkerEvents
) -> threading.Thread:
    """Load the pipelines while the worker already answers /health; report how it went."""

    registry = service.registry

    def work() -> None:
        try:
            registry.open(load, warmup_image(), service.metrics.called)
        except OcrError as error:
            reports.failed(str(error))
        except BaseException as error:
            _LOG.error("a pipeline does not load", exc_info=True)
            reports.failed(f"a pipeline does not load: {type(error).__name__}: {error}")
        else:
            reports.ready(fingerprint(registry.identities))

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    return thread
