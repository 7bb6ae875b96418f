"""Lines of many pages on a bounded number of threads, page by page in turn.

http/turns.py takes turns among requests: their pages come one by one, and may be given up. Here
nothing can be cancelled, and a page's lines run side by side, which a request's pages never do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Job:
    """The work of one page: items still to do and what came out."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.function = function
        self.todo = deque(enumerate(items))
        self.left = len(items)
        self.results: list[Any] = [None] * len(items)
        self.error: BaseException | None = None
        self.done = threading.Event()


class FairPool:
    """Worker threads that take one item of each waiting page in turn.

    A page of 200 lines does not keep one of 5 lines waiting. On a CPU an engine gains nothing
    from batches, so the lines run side by side, as many as the engine has streams.
    """

    def __init__(self, threads: int, name: str = "line") -> None:
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply `function` to every item; results in the order of the items.

        The first error ends the page's work and is raised here.
        """
        if not items:
            return []
        job = _Job(function, items)
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.append(job)
            self._changed.notify(len(items))
        job.done.wait()
        if job.error is not None:
            raise job.error
        return job.results

    def everywhere(self, function: Callable[[], object], at_once: int | None = None) -> None:
        """Call `function` on every thread, or on `at_once` of them, all at the same time."""
        callers = min(at_once or len(self._threads), len(self._threads))
        together = threading.Barrier(callers)

        def call(_: int) -> None:
            together.wait()
            function()

        self.map(call, range(callers))

    @property
    def waiting(self) -> int:
        """Pages with lines not yet begun."""
        return len(self._jobs)

    def close(self) -> None:
        """Finish what is waiting, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        job: _Job | None = None
        while (taken := self._next(job)) is not None:
            job, (place, item) = taken
            try:
                job.results[place] = job.function(item)
            except BaseException as error:
                self._fail(job, error)

    def _next(self, done: _Job | None) -> tuple[_Job, tuple[int, Any]] | None:
        """Count one item of the job `done` as done, and take one of the page whose turn it is.

        Both at once: a lock that two threads want costs as much as decoding a line's text.
        None when closed and nothing waits.
        """
        with self._changed:
            if done is not None:
                done.left -= 1
                if done.left == 0:
                    done.function = _nothing  # a thread that waits for work would keep the page
                    done.done.set()
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            job = self._jobs.popleft()
            taken = job.todo.popleft()
            if job.todo:
                self._jobs.append(job)
            return job, taken

    def _fail(self, job: _Job, error: BaseException) -> None:
        """Keep the first error and forget what of the page has not begun."""
        with self._changed:
            job.error = job.error or error
            job.left -= len(job.todo)
            job.todo.clear()
            if job in self._jobs:
                self._jobs.remove(job)


def _nothing(_: object) -> None:
    """The work of a page that is done."""
