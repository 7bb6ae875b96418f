"""Client sockets that no slow client can make a thread wait for.

Gunicorn's threads read and write without a limit: a client that sends half a header, or does not
read its answer, would hold a thread for as long as it likes.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from enum import Enum
from typing import Any

HEADER_TIME = 10.0
"""Seconds for a request's header to arrive."""
MAX_HEADER = 16 * 1024
"""Bytes of a request's header."""
SEND_TIME = 30.0
"""Seconds that a client may let a whole answer wait, beside one for every `SEND_RATE` bytes."""
SEND_RATE = 16 * 1024
_MAX_UNSENT = 256 * 1024
"""Bytes of an answer that no thread waits for: more than any answer without an admission permit."""


class Header(Enum):
    """What has arrived of a request's header."""

    PART = "part"
    WHOLE = "whole, or the client has closed its side: waiting is of no use"
    TOO_LARGE = "MAX_HEADER bytes, and no end"


class TimedSocket(socket.socket):
    """A client's socket with bounds for all that is read from it and sent to it."""

    received = 0
    """Bytes read since the last `limit_reading`."""
    _deadline = float("inf")
    _rate = float("inf")
    _waits = False
    _sent = 0
    _waited = 0.0
    """Seconds that this answer had to wait for the client."""
    _full_since: float | None = None
    """When the kernel's buffer was last found full; None while it takes what there is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = bytearray()
        """Received, and not read yet."""
        self.unsent = bytearray()
        """Of an answer: what the client has no room for yet."""

    # Reading

    def read_header(self) -> Header:
        """Take what has arrived of a header, without waiting."""
        while True:
            if b"\r\n\r\n" in self.held:
                return Header.WHOLE
            if len(self.held) >= MAX_HEADER:
                return Header.TOO_LARGE
            try:
                data = super().recv(MAX_HEADER - len(self.held), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return Header.PART
            except OSError:
                data = b""
            if not data:
                return Header.WHOLE
            self.held += data

    def unread(self, data: bytes) -> None:
        """Give back what was read too far."""
        self.held[:0] = data

    def begin_request(self) -> None:
        """A thread starts to read a request, of which the header is there."""
        self.limit_reading(HEADER_TIME)
        self._waits, self._sent, self._waited, self._full_since = False, 0, 0.0, None

    def limit_reading(self, seconds: float, rate: float = float("inf")) -> None:
        """Reading fails after so many seconds from now; 0: at once.

        rate: bytes that extend the limit by a second.
        """
        self._deadline = time.monotonic() + seconds
        self._rate = rate
        self.received = 0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if self.held:
            data = bytes(self.held[:bufsize])
            del self.held[:bufsize]
        else:
            self._wait_readable()
            data = super().recv(bufsize, flags)
        self.received += len(data)
        return data

    def end_reading(self, *, and_sending: bool = False) -> None:
        """From another thread: a read in progress finds the end of the data; `sendall` fails."""
        super().shutdown(socket.SHUT_RDWR if and_sending else socket.SHUT_RD)

    def _wait_readable(self) -> None:
        remaining = self._deadline + self.received / self._rate - time.monotonic()
        if remaining <= 0 or not _poll(self, select.POLLIN, remaining):
            raise _timed_out("the client sends too slowly")

    # Sending

    def hold_thread(self) -> None:
        """From now on, to the end of this answer, `sendall` returns when everything is sent.

        For requests whose number is limited: otherwise clients that do not read hold all threads.
        """
        self._waits = True

    @property
    def send_time_left(self) -> float:
        """Seconds for which the client may go on letting this answer wait."""
        now = time.monotonic()
        waiting = 0.0 if self._full_since is None else now - self._full_since
        return SEND_TIME + self._sent / SEND_RATE - self._waited - waiting

    @property
    def send_lag(self) -> float:
        """Seconds for which this answer has been waiting for the client."""
        since = self._full_since
        return 0.0 if since is None else time.monotonic() - since

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Gunicorn's `100 Continue`."""
        self.sendall(data, flags)
        return len(data)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send what the client has room for, and keep a rest of up to 256 KiB for `flush`.

        Waits with a larger rest, and after `hold_thread` with any. Raises TimeoutError.
        """
        rest = memoryview(data)
        if not self.unsent:
            rest = rest[self._send_now(rest) :]
        self.unsent += rest
        while len(self.unsent) > (0 if self._waits else _MAX_UNSENT):
            left = self.send_time_left
            if left <= 0 or not _poll(self, select.POLLOUT, left):
                raise _timed_out("the client does not read its answer")
            self.flush()

    def flush(self) -> bool:
        """Send what the client has room for; whether nothing is left."""
        del self.unsent[: self._send_now(self.unsent)]
        return not self.unsent

    def _send_now(self, data: Any) -> int:
        try:
            sent = super().send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        self._sent += sent
        now = time.monotonic()
        if self._full_since is not None:
            self._waited += now - self._full_since
        self._full_since = now if sent < len(data) else None
        return sent

    def linger(self, max_bytes: int) -> int:
        """Discard what has arrived, without waiting; how many bytes may still come, 0 at the end.

        Closing a socket with unread input sends a reset, which may overtake the answer.
        """
        self.held.clear()
        try:
            while max_bytes > 0 and (data := super().recv(65536, socket.MSG_DONTWAIT)):
                max_bytes -= len(data)
        except BlockingIOError:
            return max(max_bytes, 0)
        except OSError:
            pass
        return 0


class TimedListener:
    """A listening socket that accepts timed sockets."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def accept(self) -> tuple[TimedSocket, Any]:
        connection, address = self._listener.accept()
        return TimedSocket(fileno=connection.detach()), address


def hung_up(connection: socket.socket | None) -> bool:
    """Whether the client has closed its side, even with bytes of another request still unread.

    As in nginx, a client that closed only its sending side counts as gone.
    """
    if connection is None:
        return False
    poll = select.poll()
    try:
        poll.register(connection, select.POLLRDHUP)
    except ValueError:  # closed here
        return True
    return bool(poll.poll(0))


def _poll(connection: socket.socket, event: int, seconds: float) -> bool:
    """Whether the socket is ready within so many seconds, an hour at most."""
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(min(seconds, 3600.0) * 1e3))


def _timed_out(message: str) -> TimeoutError:
    # Callers of ours catch TimeoutError; Gunicorn looks at errno, and just closes after a reset.
    return TimeoutError(errno.ECONNRESET, message)
