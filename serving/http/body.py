"""A request's body: never more than allowed, never for longer than allowed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import ClosingIterator

from serving.errors import BadRequest, TooLarge
from serving.http.gunicorn.sockets import TimedSocket
from serving.http.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


_KEY = "ocr.body"
_PIECE = 1024 * 1024
"""Bytes read at once. Gunicorn takes as many from a socket, and copies at each read what it keeps
back."""
_RATE = 64 * 1024
"""Bytes a second from which on a sender is not slow."""
_GRACE = 1.0
_MAX_DRAINS = 8
_DRAIN_FACTOR = 4
"""A refused body, which may be refused for its size, is read up to so many times the limit."""


class Body:
    """Reads a body piece by piece within a limit of bytes and of time."""

    def __init__(
        self,
        stream: IO[bytes],
        *,
        length: int | None,
        settings: Settings,
        connection: TimedSocket | None = None,
    ) -> None:
        self._stream = stream
        self._length = length
        self._settings = settings
        self._socket = connection
        self._start = time.monotonic()
        self._received = 0
        self._rest = memoryview(b"")
        """Received, but not read yet."""
        self._evicted = False
        self._at_end: list[Callable[[], None]] = []
        self.over = length == 0
        if connection is not None:
            connection.limit_reading(settings.body_time, _RATE)

    @staticmethod
    def of(environ: WSGIEnvironment) -> Body:
        """The body of the request at hand."""
        body: Body = environ[_KEY]
        return body

    @property
    def lag(self) -> float:
        """Seconds by which the caller is late: with a body, behind 64 KiB a second; then with
        taking the answer. 0 in the first second.
        """
        if not self.over:
            late = time.monotonic() - self._start - self._arrived / _RATE
        else:
            late = 0.0 if self._socket is None else self._socket.send_lag
        return 0.0 if late < _GRACE else late

    @property
    def _arrived(self) -> int:
        """Bytes so far, with those of an incomplete piece."""
        return self._received if self._socket is None else self._socket.received

    def evict(self) -> None:
        """From another thread: end the body here, or the answer, because its permit is needed."""
        self._evicted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.end_reading(and_sending=self.over)

    def admitted(self, give_back: Callable[[], None]) -> None:
        """It has a permit, which `give_back` returns once the answer has been sent."""
        self._at_end.append(give_back)
        if self._socket is not None:
            self._socket.hold_thread()

    def end(self) -> None:
        """The answer has been sent, or never will be."""
        while self._at_end:
            self._at_end.pop()()

    def check(self) -> None:
        """Refuse a body whose Content-Length is too large, before reading. Raises TooLarge."""
        if self._length is not None and self._length > self._settings.max_body:
            raise self._too_large()

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, or all. Raises TooLarge, BadRequest, ClientDisconnected."""
        self.check()
        if size < 0:
            rest, self._rest = self._rest, memoryview(b"")
            return b"".join([rest, *iter(self._piece, b"")])
        if not self._rest:
            self._rest = memoryview(self._piece())
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def _piece(self) -> bytes:
        if self.over:
            return b""
        data = self._receive()
        self._received += len(data)
        if self._received > self._settings.max_body:
            raise self._too_large()
        self.over = not data or self._received == self._length
        if self._evicted and not (self.over and data):
            raise self._too_slow()
        if not data and self._length is not None and self._received < self._length:
            raise BadRequest(f"the body ended after {self._received} of {self._length} bytes")
        return data

    def _receive(self) -> bytes:
        try:
            return self._stream.read(_PIECE)
        except TimeoutError:
            self.over = True
            raise self._too_slow() from None
        except ParseException as error:
            self.over = True
            raise BadRequest(f"the body's chunks are malformed: {error}") from None
        except OSError as error:
            self.over = True
            raise ClientDisconnected from error

    def _too_slow(self) -> BadRequest:
        seconds = time.monotonic() - self._start
        return BadRequest(f"the body arrives too slowly: {self._arrived} bytes in {seconds:.0f} s")

    def _too_large(self) -> TooLarge:
        size = "more than allowed" if self._length is None else f"{self._length} bytes"
        limit = self._settings.max_body
        return TooLarge(f"the body has {size}; the limit is {limit} bytes (--max-body-mb)")

    def drain(self) -> None:
        """Read what is left, within limits, so that the caller gets to read the answer.

        Closing a socket with unread input sends a reset, which discards the answer on its way.
        """
        end = time.monotonic() + self._settings.drain_time
        left = self._settings.max_body * _DRAIN_FACTOR
        try:
            while not self.over and left > 0 and (seconds := end - time.monotonic()) > 0:
                if self._socket is not None:
                    self._socket.limit_reading(seconds)
                data = self._stream.read(_PIECE)
                left -= len(data)
                self.over = not data
        except (OSError, ParseException):
            pass
        self.abandon()

    def abandon(self) -> None:
        """Read no more: Gunicorn, finding a rest that it may not read, closes the connection."""
        if not self.over and self._socket is not None:
            self._socket.limit_reading(0)


class BodyGuard:
    """WSGI middleware: gives every request its Body, and drains what was not read of it."""

    def __init__(self, app: WSGIApplication, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        # Draining holds a thread: bounded, so that some are left for others.
        self._drains = threading.BoundedSemaphore(_MAX_DRAINS)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection = environ.get("gunicorn.socket")
        body = Body(
            environ["wsgi.input"],
            length=_length(environ),
            settings=self._settings,
            connection=connection if isinstance(connection, TimedSocket) else None,
        )
        environ[_KEY] = body

        try:
            answer = self._app(environ, start_response)
        except BaseException:
            body.end()
            raise
        return ClosingIterator(answer, [body.end, lambda: self._finish(body)])

    def _finish(self, body: Body) -> None:
        if body.over:
            return
        if self._drains.acquire(blocking=False):
            try:
                body.drain()
            finally:
                self._drains.release()
        else:
            body.abandon()


def _length(environ: dict[str, Any]) -> int | None:
    """The announced length; None for a chunked body, 0 where there is none."""
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return None
    try:
        return int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0
