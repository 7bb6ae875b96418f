"""Admission permits of requests in work and in the queue, counted for the whole server."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable

from serving.errors import Busy


class Admission:
    """A bounded number of places, shared by all worker processes.

    A place is one byte of an unnamed file, taken by a record lock. The kernel counts across
    processes, and gives back what a worker held that died. Make it before the fork.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._file = os.memfd_create("places")
        # Record locks belong to the process, not to the thread, so threads are told apart here.
        self._own: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> Callable[[], None]:
        """Take a place and return what gives it back. Raises Busy."""
        with self._lock:
            for place in range(self.limit):
                if place not in self._own and self._try(place):
                    self._own.add(place)
                    return lambda: self._give(place)
        raise Busy(f"all {self.limit} places in work and in the queue are taken; try again later")

    def check(self) -> None:
        """Raise Busy if there is no free place just now."""
        self.take()()

    def _try(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return False
        return True

    def _give(self, place: int) -> None:
        with self._lock:
            if place in self._own:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
                self._own.remove(place)

    @property
    def taken(self) -> int:
        """Permits that this process holds."""
        return len(self._own)

    def close(self) -> None:
        """Give back everything that this process holds."""
        os.close(self._file)
