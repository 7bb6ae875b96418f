"""Pages of many requests, one at a time from each in turn.

batching.py takes turns too, one level below: there all items of a page are known and their caller
waits for all of them; here pages are made one by one while they are asked for, by callers that may
be slow, late or gone.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from serving.errors import NotReady, TimedOut

T = TypeVar("T")

_LOOK = 0.25
"""Seconds between two looks at whether the caller is still there."""

_AHEAD = 8
"""Pages of a request that may wait for a caller who is slow to take them; then turns pass it by."""

_DONE = object()


class Gone(Exception):
    """The caller hung up; nobody waits for the rest."""


class Job(Generic[T]):
    """One request in line: its steps, a page each, and what came out."""

    def __init__(
        self, turns: PageScheduler, steps: Generator[T, None, None], ended: Callable[[], None]
    ) -> None:
        self._turns = turns
        self._steps = steps
        self._ended = ended
        self._out: SimpleQueue[Any] = SimpleQueue()
        self.cancelled = False

    def results(self, seconds: float, gone: Callable[[], bool]) -> Iterator[T]:
        """Yield what the steps yield, as it comes, for so many seconds at most.

        Raises what a step raises, TimedOut, and Gone once `gone()` is true.
        """
        deadline = time.monotonic() + seconds
        pages = 0
        while (out := self._next(deadline, gone)) is not _DONE:
            if isinstance(out, BaseException):
                raise out
            if out is None:
                raise TimedOut(
                    f"not done within {seconds:g} s; {pages} pages were read. Send fewer pages "
                    "at a time, or start the server with a larger --timeout"
                )
            if gone():
                raise Gone
            pages += 1
            yield out

    def _next(self, deadline: float, gone: Callable[[], bool]) -> Any:
        """The next result; None when the deadline has passed."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                out = self._out.get(timeout=min(left, _LOOK))
            except Empty:
                if gone():
                    raise Gone from None
            else:
                self._turns.taken(self)
                return out
        return None

    @property
    def ahead(self) -> bool:
        """Whether so many pages wait to be taken that no more should be read."""
        return self._out.qsize() >= _AHEAD

    def step(self) -> bool:
        """Do one page; whether there may be more."""
        try:
            self._out.put(next(self._steps))
        except StopIteration:
            self._out.put(_DONE)
        except BaseException as error:
            self._out.put(error)
        else:
            return True
        return False

    def end(self, error: Exception | None = None) -> None:
        """Free what the job holds. Called once, when no step is running."""
        if error is not None:
            self._out.put(error)
        try:
            self._steps.close()
        finally:
            self._ended()

    def __enter__(self) -> Job[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._turns.cancel(self)


class PageScheduler:
    """A few threads that do one page of each waiting request in turn.

    As many pages are in work as there are slots. Requests are served round robin, pages of one
    in order, so that a document of 200 pages does not keep single images waiting.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._line: deque[Job[Any]] = deque()
        self._ahead: set[Job[Any]] = set()
        """Out of line until their caller has taken some pages."""
        self._changed = threading.Condition()
        self._closed = False
        self._page_time = 0.2
        self._threads = [
            threading.Thread(target=self._work, name=f"page-{i}", daemon=True) for i in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, steps: Generator[T, None, None], ended: Callable[[], None]) -> Job[T]:
        """Put a request in line.

        steps: reads one page at every `next`, on a thread of this object. Closed at the end.
        ended: called once, when nothing of the request is in work or in line any more.
        Leave the job's `with` to take it out of line. Raises NotReady when closed.
        """
        job = Job(self, steps, ended)
        with self._changed:
            closed = self._closed
            if not closed:
                self._line.append(job)
                self._changed.notify()
        if closed:
            job.end()
            raise NotReady("the server is stopping")
        return job

    def cancel(self, job: Job[Any]) -> None:
        """Forget a job: at once if it waits in line, else after the page that is in work."""
        with self._changed:
            job.cancelled = True
            waits = job in self._line or job in self._ahead
            if job in self._line:
                self._line.remove(job)
            self._ahead.discard(job)
        if waits:
            job.end()

    def taken(self, job: Job[Any]) -> None:
        """A page of the job was taken: if it was too far ahead, it is in line again."""
        with self._changed:
            if job in self._ahead:
                self._ahead.remove(job)
                self._line.append(job)
                self._changed.notify()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def retry_after(self) -> int:
        """Whole seconds after which a place is likely to be free."""
        with self._changed:
            seconds = (len(self._line) + 1) / self.slots * self._page_time
        return max(1, min(60, math.ceil(seconds)))

    def close(self) -> None:
        """Refuse what waits, finish the pages in work, end the threads."""
        with self._changed:
            self._closed = True
            refused = [*self._line, *self._ahead]
            self._line.clear()
            self._ahead.clear()
            self._changed.notify_all()
        for job in refused:
            job.end(NotReady("the server is stopping"))
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            start = time.monotonic()
            more = job.step()
            with self._changed:
                self._page_time += 0.1 * (time.monotonic() - start - self._page_time)
                again = more and not job.cancelled and not self._closed
                if again and job.ahead:
                    self._ahead.add(job)
                elif again:
                    self._line.append(job)
                    self._changed.notify()
            if not again:
                job.end(NotReady("the server is stopping") if more else None)

    def _take(self) -> Job[Any] | None:
        with self._changed:
            while not self._line:
                if self._closed:
                    return None
                self._changed.wait()
            return self._line.popleft()
