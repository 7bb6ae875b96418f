"""Gunicorn's threaded worker, with time limits, and with pipelines loaded while it answers."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import selectors
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from gunicorn.workers.gthread import ThreadWorker

from serving.errors import OcrError
from serving.http.context import new_request_id
from serving.http.errors import code_of, error_body
from serving.http.registry import Reader, Registry
from serving.http.reports import Reports
from serving.http.sockets import HEADER_TIME, TimedListener, TimedSocket
from serving.http.warmup import warmup_image

_LOG = logging.getLogger("serving.http")

_SWITCH = 0.0005
"""Seconds after which a thread that computes gives way to one that has a caller to answer.

Each read, write and wait of a request takes its turn anew. At Python's own 5 ms a turn, refusals
beside pages in work took four times as long or more.
"""
_LINGERERS = 8
_LINGER_TIME = 2.0


class Worker(ThreadWorker):
    """A ThreadWorker that no slow caller stops. Written against gunicorn 27."""

    def init_process(self) -> None:
        listeners: list[Any] = [TimedListener(listener) for listener in self.sockets]
        self.sockets = listeners
        sys.setswitchinterval(_SWITCH)
        self._lingerers = threading.BoundedSemaphore(_LINGERERS)
        super().init_process()

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
        """When stopping, take who has already connected, then close the door.

        Gunicorn leaves it open to the end, and resets who came in between.
        """
        super().set_accept_enabled(enabled and self.alive)
        if self.alive:
            return
        listeners, self.sockets = self.sockets, []
        for listener in listeners:
            while select.select([listener], [], [], 0)[0]:
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
    registry: Registry, load: Callable[[str], Reader], reports: Reports
) -> threading.Thread:
    """Load the pipelines while the worker already answers /health; report how it went."""

    def work() -> None:
        try:
            registry.open(load, warmup_image())
        except OcrError as error:
            reports.send(str(error))
        except BaseException as error:
            _LOG.error("a pipeline does not load", exc_info=True)
            reports.send(f"a pipeline does not load: {type(error).__name__}: {error}")
        else:
            reports.send()

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    return thread
