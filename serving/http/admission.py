"""Admission: a permit for each request, and slots for the pages in progress."""

from __future__ import annotations

import fcntl
import math
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from serving.errors import Busy, NotReady

_EVICTION_TIME = 0.5
"""Seconds to wait until an evicted request has given its permit back."""
_MAX_EVICTORS = 4
_JOB_TURN = 8
"""Pages of requests after which a page of a job has its turn."""
_POLL = 0.25
"""Seconds between two checks whether a request may still wait."""


class Sender(Protocol):
    """A request, as far as admission needs to know it."""

    @property
    def lag(self) -> float:
        """Seconds by which its body is late; 0 where it is not, or is complete."""

    def evict(self) -> None:
        """End the request from another thread."""


class Admission:
    """The one gate. A request takes a permit before its body is read, until its answer has gone.

    The permits are shared by all worker processes: one is a byte of an unnamed file, taken by a
    record lock. The kernel counts across processes, and takes back what a dead worker held. Make
    it before the fork.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._file = os.memfd_create("permits")
        # Record locks belong to the process, not to the thread, so threads are told apart here.
        self._held: dict[int, Sender] = {}
        self._changed = threading.Condition()
        self._evictors = threading.BoundedSemaphore(_MAX_EVICTORS)

    def admit(self, sender: Sender) -> Callable[[], None]:
        """Take a permit; returns what gives it back. Raises Busy, at once.

        Where none is free, the request of this process whose body is latest is evicted for it.
        """
        with self._changed:
            permit = self._take(sender)
        if permit is None:
            permit = self._evict_for(sender)
        if permit is None:
            raise Busy(f"all {self.limit} permits for requests are taken; try again later")
        return lambda: self._give_back(permit, sender)

    def close(self) -> None:
        """Give back everything that this process holds."""
        os.close(self._file)

    @property
    def is_idle(self) -> bool:
        """Whether no process holds a permit: the server has no request. Takes none to find out."""
        flock = "hhqqi"  # the kernel's struct flock of a 64-bit Linux
        whole = struct.pack(flock, fcntl.F_WRLCK, os.SEEK_SET, 0, self.limit, 0)
        in_the_way = struct.unpack(flock, fcntl.fcntl(self._file, fcntl.F_GETLK, whole))
        return not self._held and in_the_way[0] == fcntl.F_UNLCK

    @property
    def held(self) -> int:
        """Permits that this process holds."""
        return len(self._held)

    def _take(self, sender: Sender) -> int | None:
        for permit in range(self.limit):
            if permit not in self._held and self._lock(permit):
                self._held[permit] = sender
                return permit
        return None

    def _evict_for(self, sender: Sender) -> int | None:
        if not self._evictors.acquire(blocking=False):  # they wait, and hold threads
            return None
        try:
            with self._changed:
                slowest = max(self._held.values(), key=lambda held: held.lag, default=None)
            if slowest is None or slowest.lag <= 0:
                return None
            slowest.evict()
            with self._changed:
                self._changed.wait_for(lambda: slowest not in self._held.values(), _EVICTION_TIME)
                return self._take(sender)
        finally:
            self._evictors.release()

    def _lock(self, permit: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, permit)
        except OSError:
            return False
        return True

    def _give_back(self, permit: int, sender: Sender) -> None:
        with self._changed:
            if self._held.get(permit) is sender:  # and not the next one, if called twice
                del self._held[permit]
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, permit)
                self._changed.notify_all()


class PageSlots:
    """At most so many pages of a pipeline are in progress in a worker, first come, first served.

    Each pipeline has its own, so that a small image does not wait for another pipeline's large
    pages; the processor's time is then shared by the kernel, thread by thread.

    A request asks for a slot for one page at a time, so that requests with many pages take turns
    with all others (round robin), and a document of 200 pages does not hold up single images. A
    caller that is slow to take its answer holds no slot meanwhile. Jobs come after requests: where
    both wait, a job gets one slot of so many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._waiting: deque[threading.Event] = deque()
        self._jobs: deque[threading.Event] = deque()
        """Jobs that wait."""
        self._passed = 0
        """Slots that requests got in a row while a job waited."""
        self._changed = threading.Condition()
        self._closed = False
        self._page_seconds = 0.2
        """Moving average."""

    @contextmanager
    def slot(self, check: Callable[[], None], *, job: bool = False) -> Iterator[None]:
        """Hold a slot for the `with` block. Raises NotReady and what `check` raises.

        check: called now and then while the request waits; raises if it is to wait no longer.
        """
        self._acquire(check, self._jobs if job else self._waiting)
        start = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._page_seconds += 0.1 * (time.monotonic() - start - self._page_seconds)
                self._release()

    @property
    def is_idle(self) -> bool:
        """Whether no page is in progress."""
        return self._free == self.count

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def retry_after(self) -> int:
        """Whole seconds after which a request of this pipeline is likely to have ended."""
        seconds = (len(self._waiting) + 1) / self.count * self._page_seconds
        return max(1, min(60, math.ceil(seconds)))

    def close(self) -> None:
        """Refuse all who wait, and wait for the pages in progress."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._free == self.count)

    def _acquire(self, check: Callable[[], None], queue: deque[threading.Event]) -> None:
        turn = threading.Event()
        with self._changed:
            if self._free and not self._closed:  # then nobody waits
                self._free -= 1
                return
            queue.append(turn)
        try:
            while not turn.wait(_POLL):
                check()
                if self._closed:
                    raise NotReady("the server is stopping")
        except BaseException:
            with self._changed:
                if turn.is_set():  # meanwhile
                    self._release()
                else:
                    queue.remove(turn)
            raise

    def _release(self) -> None:
        """Pass the slot on to who waits longest."""
        if self._closed:
            queue = None
        elif self._jobs and (not self._waiting or self._passed >= _JOB_TURN):
            queue, self._passed = self._jobs, 0
        else:
            queue, self._passed = self._waiting, self._passed + bool(self._jobs)
        if queue:
            queue.popleft().set()
        else:
            self._free += 1
            self._changed.notify_all()
