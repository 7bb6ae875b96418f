"""The pool that reads lines of many pages side by side, page by page in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from serving.batching import FairPool


@pytest.fixture
def pool() -> Iterator[FairPool]:
    pool = FairPool(2)
    yield pool
    pool.close()


def test_results_keep_the_order(pool: FairPool) -> None:
    assert pool.map(lambda x: x * x, list(range(100))) == [x * x for x in range(100)]
    assert pool.map(lambda x: x, []) == []


def test_an_error_ends_its_own_page_only(pool: FairPool) -> None:
    def fail(x: int) -> int:
        if x == 3:
            raise ValueError("three")
        return x

    with pytest.raises(ValueError, match="three"):
        pool.map(fail, list(range(1000)))
    assert pool.map(fail, [1, 2]) == [1, 2]


def test_a_small_page_does_not_wait_for_a_large_one() -> None:
    pool = FairPool(1)
    order: list[str] = []
    gate, both_wait = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        both_wait.set()
        gate.wait(10)

    first = threading.Thread(target=pool.map, args=(hold, [0]))
    first.start()
    assert both_wait.wait(10)  # the only worker is busy: what follows queues up
    large = threading.Thread(target=pool.map, args=(order.append, [f"large{i}" for i in range(50)]))
    large.start()
    while not pool.waiting:
        pass
    small = threading.Thread(target=pool.map, args=(order.append, ["small0", "small1"]))
    small.start()
    while pool.waiting < 2:
        pass
    gate.set()
    for thread in (first, large, small):
        thread.join(10)
    pool.close()
    assert order[:4] == ["large0", "small0", "large1", "small1"]
    assert len(order) == 52


def test_a_closed_pool_refuses() -> None:
    pool = FairPool(1)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.map(str, [1])


def test_at_once_is_as_many_threads_as_asked_for() -> None:
    pool, seen = FairPool(3), []
    pool.everywhere(lambda: seen.append(threading.get_ident()), 2)
    assert len(set(seen)) == 2
    pool.everywhere(lambda: seen.append(threading.get_ident()))
    assert len(seen) == 5
    pool.close()
