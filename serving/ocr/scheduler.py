"""Lines of many pages on a bounded number of threads, the pages in turn.

http/turns.py takes turns among requests: their pages come one by one, and may be given up. Here
nothing can be cancelled, and a page's lines run side by side, which a request's pages never do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from math import ceil
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=Hashable)

_AHEAD = 4
"""Calls that go before those of the page that waits most, for the sake of their kind: so many in a
row, and only of pages that are less than so many items ahead of it."""


class _Job:
    """The work of one page: items still to do, by kind, and what came out."""

    def __init__(
        self,
        function: Callable[[Sequence[Any]], Sequence[Any]],
        items: Sequence[Any],
        kinds: Sequence[Hashable],
        together: Callable[[Any], int],
    ) -> None:
        self.function = function
        self.together = together
        self.todo: dict[Hashable, deque[tuple[int, Any]]] = {}
        for place, (item, kind) in enumerate(zip(items, kinds, strict=True)):
            self.todo.setdefault(kind, deque()).append((place, item))
        self.taken = 0
        """Items begun, and what the page that waited most had begun when this one came."""
        self.left = len(items)
        """Items not yet done."""
        self.results: list[Any] = [None] * len(items)
        self.error: BaseException | None = None
        self.done = threading.Event()

    def take(self, kind: Hashable, threads: int) -> _Task:
        """Items of a kind for one of so many threads: 1, 2, 4, ..., but no more than its share of
        what is not done, so that a page does not end with one thread at work for long.
        """
        waiting = self.todo[kind]
        most = min(self.together(kind), len(waiting), ceil(self.left / threads))
        count = 1 << (most.bit_length() - 1)
        places, items = zip(*(waiting.popleft() for _ in range(count)), strict=True)
        if not waiting:
            del self.todo[kind]
        self.taken += count
        return _Task(self, places, items)

    def keep(self, places: Sequence[int], results: Sequence[Any]) -> None:
        for place, result in zip(places, results, strict=True):
            self.results[place] = result


class _Task(NamedTuple):
    """What a thread does next."""

    job: _Job
    places: tuple[int, ...]
    items: tuple[Any, ...]


class Scheduler:
    """Worker threads that take items of the waiting pages in turn.

    A page of 200 lines does not keep one of 5 lines waiting. The lines run side by side, as many
    calls as the engine has streams; short ones of a kind share a call. An input of another shape
    than the last costs it half a millisecond and more (OpenVINO; a line takes 2 to 5): a thread
    goes on with items of the kind it had last, and leaves to others the kinds that they have. A
    page takes 0.96 of the time so, and 4 at once give 1.1 times the pages a second.
    """

    def __init__(self, threads: int, name: str = "line") -> None:
        self._jobs: list[_Job] = []
        self._kinds: dict[int, Hashable] = {}
        """What each thread had last."""
        self._before = 0
        """Calls in a row that were not for the page that waits most."""
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

        def one(items: Sequence[Item]) -> list[Result]:
            return [function(items[0])]

        return self.map_batches(one, items, [None] * len(items), lambda _: 1)

    def map_batches(
        self,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        kinds: Sequence[Kind],
        together: Callable[[Kind], int],
    ) -> list[Result]:
        """As `map`, but `function` takes several items of one kind and has a result for each.

        kinds: of each item; a thread that may choose takes the first. together: how many of a kind
        to take at most; 1, 2, 4, ... are taken.
        """
        if not items:
            return []
        job = _Job(function, items, kinds, together)
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

    def run_on_every_thread(
        self, function: Callable[[], object], at_once: int | None = None
    ) -> None:
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
        job, count = None, 0
        while (task := self._next(job, count)) is not None:
            job, count = task.job, len(task.items)
            try:
                job.keep(task.places, job.function(task.items))
            except BaseException as error:
                self._fail(job, error)
            del task

    def _next(self, done: _Job | None, count: int) -> _Task | None:
        """Say that `count` items of the job `done` are done, and choose the next.

        Both at once: a lock that two threads want costs as much as decoding a line's text.
        None when closed and nothing waits.
        """
        me = threading.get_ident()
        with self._changed:
            if done is not None:
                done.left -= count
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
            task = job.take(kind, len(self._threads))
            if not job.todo:
                self._jobs.remove(job)
            return task

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


def _nothing(_: object) -> list[Any]:
    """The work of a page that is done."""
    return []
