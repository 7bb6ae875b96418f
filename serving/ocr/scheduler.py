"""The scheduler of line batches: threads that take lines of all pages in work, in fair turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from math import ceil
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)

_MAX_LEAD = 4
"""How far the shape of a thread's last batch may override fairness: at most so many batches in a
row for other pages than the one that is furthest behind, and only for pages that are less than so
many lines ahead of it."""


class _Job:
    """The lines of one page: queued ones by key, and the results so far."""

    def __init__(
        self,
        function: Callable[[Sequence[Any]], Sequence[Any]],
        items: Sequence[Any],
        keys: Sequence[Hashable],
        max_batch: Callable[[Any], int],
    ) -> None:
        self.function = function
        self.max_batch = max_batch
        self.queued: dict[Hashable, deque[tuple[int, Any]]] = {}
        for index, (item, key) in enumerate(zip(items, keys, strict=True)):
            self.queued.setdefault(key, deque()).append((index, item))
        self.started = 0
        """Lines started, counted from those of the page furthest behind when this one arrived."""
        self.unfinished = len(items)
        self.results: list[Any] = [None] * len(items)
        self.error: BaseException | None = None
        self.done = threading.Event()

    def take(self, key: Hashable, threads: int) -> _Batch:
        """Dequeue a batch of one key: a power of two, no more than one thread's share of the
        unfinished lines, so that the page's last lines are spread over all threads.
        """
        queue = self.queued[key]
        limit = min(self.max_batch(key), len(queue), ceil(self.unfinished / threads))
        size = 1 << (limit.bit_length() - 1)
        indices, items = zip(*(queue.popleft() for _ in range(size)), strict=True)
        if not queue:
            del self.queued[key]
        self.started += size
        return _Batch(self, indices, items)

    def store(self, indices: Sequence[int], results: Sequence[Any]) -> None:
        for index, result in zip(indices, results, strict=True):
            self.results[index] = result


class _Batch(NamedTuple):
    """Lines of one page and one key, for one engine call."""

    job: _Job
    indices: tuple[int, ...]
    items: tuple[Any, ...]


class Scheduler:
    """Worker threads, one per concurrent engine call, shared by all pages.

    Fair: the page with the fewest started lines comes next, so that a page of 5 lines does not wait
    for one of 200. Within that, a thread prefers the key (the width class) of its last batch, and
    avoids the keys of other threads, because a change of input shape costs OpenVINO half a
    millisecond and more, where a line takes 2 to 5. Measured: 0.96 of the time for a single page,
    1.1 times the throughput for four concurrent ones.
    """

    def __init__(self, threads: int, name: str = "line") -> None:
        self._jobs: list[_Job] = []
        """Pages with queued lines, in order of arrival."""
        self._last_keys: dict[int, Hashable] = {}
        """By thread, the key of its last batch."""
        self._out_of_turn = 0
        """Batches in a row that were not of the page furthest behind."""
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply `function` to every item; returns the results in order.

        The first error cancels the items not yet started and is raised here.
        """

        def single(items: Sequence[Item]) -> list[Result]:
            return [function(items[0])]

        return self.map_batches(single, items, [None] * len(items), lambda _: 1)

    def map_batches(
        self,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        keys: Sequence[Key],
        max_batch: Callable[[Key], int],
    ) -> list[Result]:
        """As `map`, but `function` takes a batch of items and returns one result for each.

        keys: of each item; a batch has items of one key, earlier ones first. max_batch: limit of
        the batch size for a key; batch sizes are powers of two.
        """
        if not items:
            return []
        job = _Job(function, items, keys, max_batch)
        with self._changed:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            job.started = min((other.started for other in self._jobs), default=0)
            self._jobs.append(job)
            self._changed.notify(len(items))
        job.done.wait()
        # An idle thread still refers to its last job, which must not keep the results alive.
        results, error = job.results, job.error
        job.results, job.error = [], None
        if error is not None:
            raise error
        return results

    def run_on_every_thread(
        self, function: Callable[[], object], threads: int | None = None
    ) -> None:
        """Call `function` once on every thread, or on that many, all at the same time."""
        count = min(threads or len(self._threads), len(self._threads))
        barrier = threading.Barrier(count)

        def call(_: int) -> None:
            barrier.wait()
            function()

        self.map(call, range(count))

    @property
    def waiting(self) -> int:
        """Number of pages with queued lines."""
        return len(self._jobs)

    def close(self) -> None:
        """Finish what is queued, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        job, count = None, 0
        while (batch := self._next(job, count)) is not None:
            job, count = batch.job, len(batch.items)
            try:
                job.store(batch.indices, job.function(batch.items))
            except BaseException as error:
                self._fail(job, error)
            del batch

    def _next(self, finished: _Job | None, count: int) -> _Batch | None:
        """Count `count` lines of the job `finished` as done, and take the next batch.

        Both under one lock: contention on it costs as much as decoding the text of a line.
        Returns None once closed and drained.
        """
        thread = threading.get_ident()
        with self._changed:
            if finished is not None:
                finished.unfinished -= count
                if finished.unfinished == 0:
                    finished.function = _nothing  # which refers to the page; see map_batches
                    finished.done.set()
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            job, key = self._choose(thread)
            if key is not None:
                self._last_keys[thread] = key
            batch = job.take(key, len(self._threads))
            if not job.queued:
                self._jobs.remove(job)
            return batch

    def _choose(self, thread: int) -> tuple[_Job, Hashable]:
        behind = min(self._jobs, key=lambda job: job.started)  # the earliest of equals
        last_key = self._last_keys.get(thread)
        if last_key is not None and self._out_of_turn < _MAX_LEAD:
            for job in self._jobs:
                if last_key in job.queued and job.started < behind.started + _MAX_LEAD:
                    self._out_of_turn = 0 if job is behind else self._out_of_turn + 1
                    return job, last_key
        self._out_of_turn = 0
        others = {key for other, key in self._last_keys.items() if other != thread}
        free = (key for key in behind.queued if key not in others)
        return behind, next(free, next(iter(behind.queued)))

    def _fail(self, job: _Job, error: BaseException) -> None:
        """Keep the first error and drop the page's queued lines."""
        with self._changed:
            job.error = job.error or error
            job.unfinished -= sum(map(len, job.queued.values()))
            job.queued.clear()
            if job in self._jobs:
                self._jobs.remove(job)


def _nothing(_: object) -> list[Any]:
    return []
