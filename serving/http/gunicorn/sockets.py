"""Sockets on which nobody keeps a thread waiting for ever.

Gunicorn's threads read and write without a time limit: a caller that sends half a header, or
does not read its answer, would hold a thread as long as it likes.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import Any

HEADER_TIME = 10.0
"""Seconds for a request's header to arrive."""
_HEADER = 16 * 1024
SEND_TIME = 60.0
"""Seconds for a caller to take a piece of its answer."""


class TimedSocket(socket.socket):
    """A caller's socket with a deadline for everything that is read from it."""

    _deadline = float("inf")
    _rate = float("inf")
    received = 0
    """Bytes that have come since the last `allow`."""
    _awaited = 1
    """Bytes that must be there before `select` reports the socket."""

    def setblocking(self, flag: bool) -> None:
        """Gunicorn makes the socket blocking when a thread starts to read a request."""
        super().setblocking(flag)
        if flag:
            self.allow(HEADER_TIME)

    def header_come(self) -> bool:
        """Whether a whole header waits to be read, or so much that waiting for more is vain.

        If not, `select` will report this socket once more has come than there is now.
        """
        try:
            data = super().recv(_HEADER, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            come, seen = False, 0
        except OSError:
            come, seen = True, 0
        else:
            # No more than the last time: then the caller has closed its side.
            seen = len(data)
            come = b"\r\n\r\n" in data or seen == _HEADER or seen < self._awaited
        self._awaited = 1 if come else seen + 1
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._awaited)
        return come

    def allow(self, seconds: float, rate: float = float("inf")) -> None:
        """From now on reading may take so long; 0 ends it at once.

        rate: bytes for which it may take a second longer.
        """
        self._deadline = time.monotonic() + seconds
        self._rate = rate
        self.received = 0

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
            raise _overdue("the caller does not take its answer") from None
        finally:
            self.settimeout(before)

    def linger(self, seconds: float, most: int) -> None:
        """Send FIN, then read what still comes, so that no reset overtakes the answer.

        Afterwards `shutdown` fails, and Gunicorn closes without lingering in its main loop.
        """
        self.allow(seconds)
        try:
            super().shutdown(socket.SHUT_WR)
            while most > 0 and (data := self.recv(65536)):
                most -= len(data)
        except OSError:
            pass
        self._lingered = True

    def end_reading(self) -> None:
        """From another thread: whoever reads finds the end."""
        super().shutdown(socket.SHUT_RD)

    def shutdown(self, how: int, /) -> None:
        if getattr(self, "_lingered", False):
            raise OSError(errno.ENOTCONN, "already shut down")
        super().shutdown(how)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self, select.POLLIN)
        left = self._deadline + self.received / self._rate - time.monotonic()
        if left <= 0 or not poll.poll(min(left, 3600.0) * 1e3):
            raise _overdue("the caller sends too slowly")


class TimedListener:
    """A listening socket whose connections are timed."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def accept(self) -> tuple[TimedSocket, Any]:
        connection, address = self._listener.accept()
        return TimedSocket(fileno=connection.detach()), address


def hung_up(connection: socket.socket | None) -> bool:
    """Whether the caller has closed its side, even where bytes of a next request wait before that.

    Like nginx, a half-closed caller counts as gone.
    """
    if connection is None:
        return False
    poll = select.poll()
    try:
        poll.register(connection, select.POLLRDHUP)
    except ValueError:  # closed here
        return True
    return bool(poll.poll(0))


def _overdue(message: str) -> TimeoutError:
    # A TimeoutError for who waits with a limit, a reset for Gunicorn, which then just closes.
    return TimeoutError(errno.ECONNRESET, message)
