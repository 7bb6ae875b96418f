"""Client sockets with time limits.

Gunicorn's threads read and write without one: a client that sends half a header, or does not read
its answer, would hold a thread for as long as it likes.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import Any

HEADER_TIME = 10.0
"""Seconds for a request's header to arrive."""
_HEADER_BYTES = 16 * 1024
SEND_TIME = 60.0
"""Seconds for a client to take a piece of its answer."""


class TimedSocket(socket.socket):
    """A client's socket with a deadline for everything that is read from it."""

    received = 0
    """Bytes read since the last `limit_reading`."""
    _deadline = float("inf")
    _rate = float("inf")
    _low_water = 1
    """Bytes that must have arrived before `select` reports the socket."""
    _lingered = False

    def setblocking(self, flag: bool) -> None:
        """Gunicorn makes the socket blocking when a thread starts to read a request."""
        super().setblocking(flag)
        if flag:
            self.limit_reading(HEADER_TIME)

    def limit_reading(self, seconds: float, rate: float = float("inf")) -> None:
        """Reading fails after so many seconds from now; 0: at once.

        rate: bytes that extend the limit by a second.
        """
        self._deadline = time.monotonic() + seconds
        self._rate = rate
        self.received = 0

    def header_complete(self) -> bool:
        """Whether a whole header can be read, or waiting for more is of no use.

        If not, `select` reports this socket only when more bytes have arrived than now.
        """
        try:
            data = super().recv(_HEADER_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            complete, size = False, 0
        except OSError:
            complete, size = True, 0
        else:
            size = len(data)
            # Fewer than it was to wait for: the client has closed its side.
            closed = size < self._low_water
            complete = b"\r\n\r\n" in data or size == _HEADER_BYTES or closed
        self._low_water = 1 if complete else size + 1
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._low_water)
        return complete

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if self.gettimeout() != 0.0:
            self._wait()
        data = super().recv(bufsize, flags)
        self.received += len(data)
        return data

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        before = self.gettimeout()
        if before == 0.0:
            return super().sendall(data, flags)
        self.settimeout(SEND_TIME)
        try:
            return super().sendall(data, flags)
        except TimeoutError:
            raise _timed_out("the client does not read its answer") from None
        finally:
            self.settimeout(before)

    def linger(self, seconds: float, max_bytes: int) -> None:
        """Send FIN, then read what still arrives, so that no reset overtakes the answer.

        Afterwards `shutdown` fails, and Gunicorn closes without lingering in its main loop.
        """
        self.limit_reading(seconds)
        try:
            super().shutdown(socket.SHUT_WR)
            while max_bytes > 0 and (data := self.recv(65536)):
                max_bytes -= len(data)
        except OSError:
            pass
        self._lingered = True

    def end_reading(self) -> None:
        """From another thread: a read in progress finds the end of the data."""
        super().shutdown(socket.SHUT_RD)

    def shutdown(self, how: int, /) -> None:
        if self._lingered:
            raise OSError(errno.ENOTCONN, "already shut down")
        super().shutdown(how)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self, select.POLLIN)
        remaining = self._deadline + self.received / self._rate - time.monotonic()
        if remaining <= 0 or not poll.poll(min(remaining, 3600.0) * 1e3):
            raise _timed_out("the client sends too slowly")


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


def _timed_out(message: str) -> TimeoutError:
    # Callers of ours catch TimeoutError; Gunicorn looks at errno, and just closes after a reset.
    return TimeoutError(errno.ECONNRESET, message)
