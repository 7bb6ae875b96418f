"""The pool that reads lines of many pages side by side, page by page in turn."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from serving.ocr.scheduler import Scheduler


@pytest.fixture
def pool() -> Iterator[Scheduler]:
    pool = Scheduler(2)
    yield pool
    pool.close()


def test_results_keep_the_order(pool: Scheduler) -> None:
    assert pool.map(lambda x: x * x, list(range(100))) == [x * x for x in range(100)]
    assert pool.map(lambda x: x, []) == []


def test_an_error_ends_its_own_page_only(pool: Scheduler) -> None:
    def fail(x: int) -> int:
        if x == 3:
            raise ValueError("three")
        return x

    with pytest.raises(ValueError, match="three"):
        pool.map(fail, list(range(1000)))
    assert pool.map(fail, [1, 2]) == [1, 2]


def held(pool: Scheduler) -> tuple[threading.Thread, threading.Event]:
    """A page of one item that keeps the pool's only thread until the event is set."""
    gate, begun = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        begun.set()
        gate.wait(60)

    thread = threading.Thread(target=pool.map, args=(hold, [0]))
    thread.start()
    assert begun.wait(60)
    return thread, gate


def test_a_small_page_does_not_wait_for_a_large_one() -> None:
    pool = Scheduler(1)
    order: list[str] = []
    first, gate = held(pool)  # what follows queues up
    large = threading.Thread(target=pool.map, args=(order.append, [f"large{i}" for i in range(50)]))
    large.start()
    while not pool.waiting:
        time.sleep(0.001)
    small = threading.Thread(target=pool.map, args=(order.append, ["small0", "small1"]))
    small.start()
    while pool.waiting < 2:
        time.sleep(0.001)
    gate.set()
    for thread in (first, large, small):
        thread.join(60)
    pool.close()
    assert order[:4] == ["large0", "small0", "large1", "small1"]
    assert len(order) == 52


def test_a_closed_pool_refuses() -> None:
    pool = Scheduler(1)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.map(str, [1])


def test_at_once_is_as_many_threads_as_asked_for() -> None:
    pool, seen = Scheduler(3), []
    pool.run_on_every_thread(lambda: seen.append(threading.get_ident()), 2)
    assert len(set(seen)) == 2
    pool.run_on_every_thread(lambda: seen.append(threading.get_ident()))
    assert len(seen) == 5
    pool.close()


def by_kind(
    pool: Scheduler, function: Callable[[str], object], items: Sequence[str], most: int = 1
) -> list[Any]:
    """A page whose items say their kind by their first letter."""

    def group(items: Sequence[str]) -> list[object]:
        return [function(item) for item in items]

    return pool.map_batches(group, items, [item[0] for item in items], lambda _: most)


def begin(pool: Scheduler, order: list[str], items: list[str]) -> threading.Thread:
    """Such a page, waiting in the pool's line."""
    before = pool.waiting
    thread = threading.Thread(target=by_kind, args=(pool, order.append, items))
    thread.start()
    while pool.waiting == before:
        time.sleep(0.001)
    return thread


def test_a_thread_goes_on_with_the_kind_it_had() -> None:
    pool, order = Scheduler(1), []
    first, gate = held(pool)
    one = begin(pool, order, ["a0", "b0", "b1", "c0"])
    two = begin(pool, order, ["b2", "c1", "a1"])
    gate.set()
    for thread in (first, one, two):
        thread.join(60)
    pool.close()
    assert order == ["a0", "a1", "b0", "b1", "b2", "c1", "c0"]


def test_for_the_sake_of_a_kind_a_page_waits_for_few_others() -> None:
    pool, order = Scheduler(1), []
    first, gate = held(pool)
    large = begin(pool, order, [f"a{i}" for i in range(50)])
    small = begin(pool, order, ["b0", "b1", "b2"])
    gate.set()
    for thread in (first, large, small):
        thread.join(60)
    pool.close()
    assert len(order) == 53
    assert order.index("b0") <= 5
    assert order.index("b2") <= 10


def test_threads_leave_one_another_their_kinds() -> None:
    pool, lock, had = Scheduler(2), threading.Lock(), dict[int, set[str]]()
    together = threading.Barrier(2)

    def read(item: str) -> None:
        with lock:
            had.setdefault(threading.get_ident(), set()).add(item[0])
        together.wait(60)  # both threads are always in an item, so that neither runs ahead

    items = [f"{kind}{i}" for kind in "abcd" for i in range(3)]
    by_kind(pool, read, items)
    pool.close()
    first, second = had.values()
    assert first.isdisjoint(second)


def test_an_error_forgets_items_of_every_kind(pool: Scheduler) -> None:
    def fail(item: str) -> None:
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        by_kind(pool, fail, [f"{x % 7}" for x in range(100)])
    assert pool.waiting == 0
    assert by_kind(pool, str.upper, ["a", "b"]) == ["A", "B"]


def test_newcomers_of_a_kind_keep_no_page_waiting_for_ever() -> None:
    pool, order, done = Scheduler(1), list[str](), threading.Event()

    def read(item: str) -> None:
        order.append(item)
        if item == "b0":
            done.set()

    def come_and_go() -> None:
        while not done.is_set() and len(order) < 200:
            by_kind(pool, read, ["a0"])

    first, gate = held(pool)
    waiting = threading.Thread(target=by_kind, args=(pool, read, ["a1", "b0"]))
    comers = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in (waiting, *comers):
        thread.start()
    while pool.waiting < 4:
        time.sleep(0.001)
    gate.set()
    for thread in (first, waiting, *comers):
        thread.join(60)
    pool.close()
    assert order.index("b0") < 20


def groups(pool: Scheduler, items: Sequence[str], most: int) -> list[list[str]]:
    """In which groups the items of such a page are worked on; their results keep the order."""
    seen: list[list[str]] = []

    def upper(group: Sequence[str]) -> list[str]:
        seen.append(list(group))
        return [item.upper() for item in group]

    found = pool.map_batches(upper, items, [item[0] for item in items], lambda _: most)
    assert found == [item.upper() for item in items]
    return seen


def test_items_of_a_kind_go_together_in_powers_of_two() -> None:
    pool = Scheduler(1)
    items = ["a0", "b0", "a1", "a2", "c0", "a3", "a4", "b1", "a5", "a6"]
    assert groups(pool, items, 4) == [
        ["a0", "a1", "a2", "a3"],
        ["a4", "a5"],
        ["a6"],
        ["b0", "b1"],
        ["c0"],
    ]
    assert groups(pool, ["a0", "a1", "a2"], 1) == [["a0"], ["a1"], ["a2"]]
    pool.close()


def test_the_last_items_are_shared_among_the_threads(pool: Scheduler) -> None:
    for _ in range(20):
        assert max(map(len, groups(pool, ["a0", "a1", "a2", "a3"], 4))) == 2


def test_a_function_that_forgets_an_item_is_told(pool: Scheduler) -> None:
    with pytest.raises(ValueError, match="shorter"):
        pool.map_batches(lambda items: items[1:], ["a0", "a1"], "aa", lambda _: 2)


def test_a_thread_that_waits_keeps_nothing_of_its_last_page(pool: Scheduler) -> None:
    class Page:
        pass

    def fail(page: Page) -> Page:
        raise ValueError(page)

    for function in (lambda page: page, fail):
        page = Page()
        gone = weakref.ref(page)
        with contextlib.suppress(ValueError):
            pool.map(function, [page, page, page])
        del page
        deadline = time.monotonic() + 60  # the threads let go of it as they begin to wait
        while gone() is not None and time.monotonic() < deadline:
            gc.collect()
        assert gone() is None
