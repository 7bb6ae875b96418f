"""Room for requests from body to answer; who sends slowly makes room for others."""

from __future__ import annotations

import threading

from serving.errors import Busy
from serving.http.body import Body

_MAKERS = 4
_LEAVING = 0.5
"""Seconds that are waited for a slow sender to be gone."""


class Room:
    """Bounds how many bodies are in memory, and how many threads slow callers can hold."""

    def __init__(self, size: int) -> None:
        self._free = threading.BoundedSemaphore(size)
        self._makers = threading.BoundedSemaphore(_MAKERS)
        self._lock = threading.Lock()
        self._bodies: set[Body] = set()

    def enter(self, body: Body) -> None:
        """Take room for a request, to the end of its answer. Raises Busy.

        Where there is none, the slowest of those that send too slowly is sent away.
        """
        if not self._free.acquire(blocking=False) and not self._made():
            raise Busy("too many requests are being received; try again later")
        with self._lock:
            self._bodies.add(body)
        body.at_end(lambda: self._leave(body))

    def _made(self) -> bool:
        """Send the slowest away and take its room, unless none is slow or many wait already."""
        if not self._makers.acquire(blocking=False):
            return False
        try:
            slow = self._slowest()
            if slow is None:
                return False
            slow.send_away()
            return self._free.acquire(timeout=_LEAVING)
        finally:
            self._makers.release()

    def _slowest(self) -> Body | None:
        with self._lock:
            rates = {body: body.lag for body in self._bodies}
        slow = max(rates, key=rates.__getitem__, default=None)
        return slow if slow is not None and rates[slow] > 0 else None

    def _leave(self, body: Body) -> None:
        with self._lock:
            self._bodies.discard(body)
        self._free.release()
