"""Lines of many pages on a bounded number of threads, the pages in turn.

http/turns.py takes turns among requests: their pages come one by one, and may be given up. Here
nothing can be cancelled, and a page's lines run side by side, which a request's pages never do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4
"""Items that go before those of the page that waits most, for the sake of their kind: so many in a
row, and so many that another page is ahead of it."""


class _Job:
    """The work of one page: items still to do, by kind, and what came out."""

    def __init__(
        self, function: Callable[[Any], Any], items: Sequence[Any], kinds: Sequence[Hashable]
    ) -> None:
        self.function = function
        self.todo: dict[Hashable, deque[tuple[int, Any]]] = {}
        for place, (item, kind) in enumerate(zip(items, kinds, strict=True)):
            self.todo.setdefault(kind, deque()).append((place, item))
        self.taken = 0
        """Items begun, and what the page that waited most had begun when this one came."""
        self.left = len(items)
        self.results: list[Any] = [None] * len(items)
        self.error: BaseException | None = None
        self.done = threading.Event()

    def take(self, kind: Hashable) -> tuple[int, Any]:
        self.taken += 1
        taken = self.todo[kind].popleft()
        if not self.todo[kind]:
            del self.todo[kind]
        return taken


class _Task(NamedTuple):
    """What a thread does next."""

    job: _Job
    place: int
    item: Any


class FairPool:
    """Worker threads that take items of the waiting pages in turn.

    A page of 200 lines does not keep one of 5 lines waiting. On a CPU an engine gains nothing
    from batches, so the lines run side by side, as many as the engine has streams. But an input of
    another shape than the last costs it half a millisecond and more (OpenVINO; a line takes 2 to
    5): a thread goes on with items of the kind it had last, and leaves to others the kinds that
    they have. A page takes 0.96 of the time so, and 4 at once give 1.1 times the pages a second.
    """

    def __init__(self, threads: int, name: str = "line") -> None:
        self._jobs: list[_Job] = []
        self._kinds: dict[int, Hashable] = {}
        """What each thread had last."""
        self._before = 0
        """Items in a row that were not of the page that waits most."""
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        kinds: Sequence[Hashable] | None = None,
    ) -> list[Result]:
        """Apply `function` to every item; results in the order of the items.

        kinds: of each item; None: it does not matter. A thread that may choose takes the first.
        The first error ends the page's work and is raised here.
        """
        if not items:
            return []
        job = _Job(function, items, [None] * len(items) if kinds is None else kinds)
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            job.taken = min((other.taken for other in self._jobs), default=0)
            self._jobs.append(job)
            self._changed.notify(len(items))
        job.done.wait()
        # A thread that waits for work has its last job still, and shall not keep what was in it.
        results, error = job.results, job.error
        job.results, job.error = [], None
        if error is not None:
            raise error
        return results

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
        while (task := self._next(job)) is not None:
            job = task.job
            try:
                job.results[task.place] = job.function(task.item)
            except BaseException as error:
                self._fail(job, error)
            del task

    def _next(self, done: _Job | None) -> _Task | None:
        """Count one item of the job `done` as done, and choose the next.

        Both at once: a lock that two threads want costs as much as decoding a line's text.
        None when closed and nothing waits.
        """
        me = threading.get_ident()
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
            job, kind = self._choose(me)
            if kind is not None:
                self._kinds[me] = kind
            place, item = job.take(kind)
            if not job.todo:
                self._jobs.remove(job)
            return _Task(job, place, item)

    def _choose(self, me: int) -> tuple[_Job, Hashable]:
        behind = min(self._jobs, key=lambda job: job.taken)  # the first of equals
        mine = self._kinds.get(me)
        if mine is not None and self._before < _AHEAD:
            for job in self._jobs:
                if mine in job.todo and job.taken < behind.taken + _AHEAD:
                    self._before = 0 if job is behind else self._before + 1
                    return job, mine
        self._before = 0
        others = {kind for thread, kind in self._kinds.items() if thread != me}
        free = (kind for kind in behind.todo if kind not in others)
        return behind, next(free, next(iter(behind.todo)))

    def _fail(self, job: _Job, error: BaseException) -> None:
        """Keep the first error and forget what of the page has not begun."""
        with self._changed:
            job.error = job.error or error
            job.left -= sum(map(len, job.todo.values()))
            job.todo.clear()
            if job in self._jobs:
                self._jobs.remove(job)


def _nothing(_: object) -> None:
    """The work of a page that is done."""
