"""Pages of many requests, one of each in turn."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest

from serving.errors import EngineError, NotReady, TimedOut
from serving.http.turns import Gone, PageScheduler


@pytest.fixture
def turns() -> Iterator[PageScheduler]:
    turns = PageScheduler(1)
    yield turns
    turns.close()


class Ended:
    """Counts how often a job said that it ended."""

    def __init__(self) -> None:
        self.times = 0
        self.event = threading.Event()

    def __call__(self) -> None:
        self.times += 1
        self.event.set()


def never() -> bool:
    return False


def test_results_in_order(turns: PageScheduler) -> None:
    ended = Ended()
    with turns.submit((page for page in range(5)), ended) as job:
        assert list(job.results(10, never)) == [0, 1, 2, 3, 4]
    assert ended.event.wait(10)
    assert ended.times == 1


def test_a_long_document_does_not_keep_a_short_one_waiting(turns: PageScheduler) -> None:
    done: list[str] = []
    begin = threading.Event()

    def document(name: str, pages: int) -> Generator[str, None, None]:
        for page in range(pages):
            if not done:
                begin.wait(10)
            done.append(f"{name}{page}")
            yield name

    long = turns.submit(document("a", 4), Ended())
    short = turns.submit(document("b", 2), Ended())
    begin.set()
    with long, short:
        assert len(list(long.results(10, never))) == 4
        assert len(list(short.results(10, never))) == 2
    assert done == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_an_error_ends_the_request_and_no_other(turns: PageScheduler) -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise EngineError("broken")

    ended = Ended()
    with turns.submit(broken(), ended) as job:
        results = job.results(10, never)
        assert next(results) == 1
        with pytest.raises(EngineError):
            next(results)
    assert ended.event.wait(10)
    with turns.submit(iter_of(7), Ended()) as job:
        assert list(job.results(10, never)) == [7]


def iter_of(*items: int) -> Generator[int, None, None]:
    yield from items


class Held:
    """A document whose first page is in work until it is let go; one more follows."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.closed = False
        self.pages = 0

    def steps(self) -> Generator[int, None, None]:
        try:
            for page in range(2):
                self.pages += 1
                self.begun.set()
                self.go.wait(10)
                yield page
        finally:
            self.closed = True


def test_who_waits_too_long_leaves_the_line(turns: PageScheduler) -> None:
    held, ended = Held(), Ended()
    first = turns.submit(held.steps(), Ended())
    assert held.begun.wait(10)
    with (
        turns.submit(iter_of(1), ended) as second,
        pytest.raises(TimedOut, match="0 pages were read"),
    ):
        list(second.results(0.01, never))
    assert ended.times == 1
    assert turns.waiting == 0
    held.go.set()
    with first:
        assert list(first.results(10, never)) == [0, 1]


def test_who_hangs_up_frees_its_place_after_the_page_in_work(turns: PageScheduler) -> None:
    held, ended = Held(), Ended()
    with turns.submit(held.steps(), ended) as job, pytest.raises(Gone):
        assert held.begun.wait(10)
        list(job.results(10, lambda: True))
    assert ended.times == 0  # its page is still in work
    held.go.set()
    assert ended.event.wait(10)
    assert held.closed
    assert held.pages == 1


def test_a_document_far_ahead_of_its_caller_leaves_its_turns_to_others(
    turns: PageScheduler,
) -> None:
    read, ended = 0, Ended()

    def pages() -> Generator[int, None, None]:
        nonlocal read
        for page in range(50):
            read += 1
            yield page

    with turns.submit(pages(), ended) as job:
        results = job.results(10, never)
        assert next(results) == 0
        for _ in range(20):
            with turns.submit(iter_of(7), Ended()) as other:
                assert list(other.results(10, never)) == [7]
        assert read < 20
        assert list(results) == list(range(1, 50))
    assert ended.event.wait(10)

    dropped = Ended()
    with turns.submit(pages(), dropped), turns.submit(iter_of(*range(20)), Ended()) as other:
        list(other.results(10, never))
    assert dropped.event.wait(10)
    assert (ended.times, dropped.times, turns.waiting) == (1, 1, 0)


def test_who_hangs_up_while_pages_come_quickly_is_noticed(turns: PageScheduler) -> None:
    ended = Ended()
    with turns.submit(iter_of(*range(1000)), ended) as job, pytest.raises(Gone):
        list(job.results(10, lambda: True))
    assert ended.event.wait(10)


def test_close_refuses_what_waits_and_finishes_what_is_in_work() -> None:
    turns = PageScheduler(1)
    held = Held()
    first = turns.submit(held.steps(), Ended())
    assert held.begun.wait(10)
    ended = Ended()
    second = turns.submit(iter_of(1), ended)
    closing = threading.Thread(target=turns.close)
    closing.start()
    with second, pytest.raises(NotReady):
        list(second.results(10, never))
    held.go.set()
    closing.join(10)
    assert not closing.is_alive()
    with first, pytest.raises(NotReady):
        assert list(first.results(10, never)) == [0]
    assert ended.times == 1
    late = Ended()
    with pytest.raises(NotReady):
        turns.submit(iter_of(1), late)
    assert late.times == 1
