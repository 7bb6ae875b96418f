"""Permits of requests, counted across processes, and page slots, passed on in turn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from http_server import eventually

from serving.errors import Busy, NotReady, TimedOut
from serving.http.admission import Admission, PageSlots


class Sender:
    """A request whose body is so many seconds late; it gives its permit back when evicted."""

    def __init__(self, lag: float = 0.0) -> None:
        self.lag = lag
        self.give_back: Callable[[], None] = lambda: None
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True
        self.give_back()


def stay() -> None:
    """Wait on."""


def test_no_more_permits_than_there_are() -> None:
    admission = Admission(2)
    assert admission.is_idle
    first, second = admission.admit(Sender()), admission.admit(Sender())
    assert not admission.is_idle
    with pytest.raises(Busy, match="all 2 permits"):
        admission.admit(Sender())
    first()
    third = admission.admit(Sender())
    first()  # giving back twice frees no one else's
    with pytest.raises(Busy):
        admission.admit(Sender())
    second()
    assert admission.held == 1
    third()
    admission.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # other tests leave threads
def test_other_processes_count_until_they_end() -> None:
    admission = Admission(3)
    mine = admission.admit(Sender())
    ready_read, ready_write = os.pipe()
    worker = os.fork()
    if worker == 0:  # no assertion and no exit handler of the test's in here
        held = [admission.admit(Sender()) for _ in range(2)]
        try:
            admission.admit(Sender())
        except Busy:
            os.write(ready_write, b"full" if len(held) == 2 else b"?")
        signal.pause()
    assert os.read(ready_read, 4) == b"full"
    with pytest.raises(Busy):
        admission.admit(Sender())
    mine()
    assert not admission.is_idle
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    assert admission.is_idle
    mine = admission.admit(Sender())
    rest = [admission.admit(Sender()), admission.admit(Sender())]
    with pytest.raises(Busy):
        admission.admit(Sender())
    for give_back in (mine, *rest):
        give_back()
    admission.close()
    os.close(ready_read)
    os.close(ready_write)


def test_the_latest_sender_makes_room_and_nobody_else() -> None:
    admission = Admission(3)
    senders = [Sender(), Sender(lag=2.0), Sender(lag=5.0)]
    for sender in senders:
        sender.give_back = admission.admit(sender)
    admission.admit(Sender())
    assert [sender.evicted for sender in senders] == [False, False, True]
    admission.admit(Sender())
    assert [sender.evicted for sender in senders] == [False, True, True]
    with pytest.raises(Busy):
        admission.admit(Sender())
    assert not senders[0].evicted
    admission.close()


@pytest.fixture
def slots() -> Iterator[PageSlots]:
    """One slot."""
    slots = PageSlots(1)
    yield slots
    slots.close()


class Document:
    """A request of so many pages, read on a thread of its own; each takes until `go` is set."""

    def __init__(
        self, slots: PageSlots, name: str, pages: int, done: list[str], *, job: bool = False
    ) -> None:
        self.go = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(slots, name, pages, done, job))
        self._thread.start()

    def _read(self, slots: PageSlots, name: str, pages: int, done: list[str], job: bool) -> None:
        for page in range(pages):
            with slots.slot(stay, job=job):
                assert self.go.wait(30)
                done.append(f"{name}{page}")

    def join(self) -> None:
        self.go.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_a_long_document_does_not_hold_up_a_short_one(slots: PageSlots) -> None:
    done: list[str] = []
    long = Document(slots, "a", 6, done)
    assert eventually(lambda: slots._free == 0)
    short = Document(slots, "b", 2, done)
    assert eventually(lambda: slots.waiting == 1)
    short.go.set()
    long.join()
    short.join()
    assert done.index("b0") == 1  # after the page that was in progress
    assert done.index("b1") <= 3
    assert len(done) == 8


def test_slots_are_passed_on_in_the_order_of_arrival(slots: PageSlots) -> None:
    done: list[str] = []
    documents = [Document(slots, "a", 1, done)]
    for waiting, name in enumerate("bcde", 1):
        documents.append(Document(slots, name, 1, done))
        assert eventually(lambda waiting=waiting: slots.waiting == waiting)  # type: ignore[misc]
    for document in documents:
        document.go.set()
    for document in documents:
        document.join()
    assert done == ["a0", "b0", "c0", "d0", "e0"]


def test_requests_go_before_a_job_which_has_its_turn_all_the_same(slots: PageSlots) -> None:
    done: list[str] = []
    first = Document(slots, "a", 1, done)
    assert eventually(lambda: slots._free == 0)
    job = Document(slots, "job", 2, done, job=True)
    assert eventually(lambda: len(slots._jobs) == 1)
    requests = []
    for waiting in range(1, 13):  # a page each, after the job
        requests.append(Document(slots, "b", 1, done))
        assert eventually(lambda waiting=waiting: slots.waiting == waiting)  # type: ignore[misc]
    for document in (job, *requests, first):
        document.go.set()
    for document in (job, *requests, first):
        document.join()
    assert done == ["a0", *["b0"] * 8, "job0", *["b0"] * 4, "job1"]


def test_no_more_pages_at_a_time_than_slots() -> None:
    slots = PageSlots(2)
    at_once, most = 0, 0
    lock = threading.Lock()

    def read() -> None:
        nonlocal at_once, most
        for _ in range(20):
            with slots.slot(stay):
                with lock:
                    at_once += 1
                    most = max(most, at_once)
                time.sleep(0.001)
                with lock:
                    at_once -= 1

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    slots.close()


def test_who_gives_up_waiting_loses_no_slot(slots: PageSlots) -> None:
    held = Document(slots, "a", 1, [])
    assert eventually(lambda: slots._free == 0)

    def give_up() -> None:
        raise TimedOut

    with pytest.raises(TimedOut), slots.slot(give_up):
        pass
    assert slots.waiting == 0
    held.join()
    with slots.slot(stay):
        pass


def test_an_error_frees_the_slot(slots: PageSlots) -> None:
    with suppress(ValueError), slots.slot(stay):
        raise ValueError
    with slots.slot(stay):
        pass


def test_close_refuses_who_waits_and_finishes_the_page_in_progress() -> None:
    slots = PageSlots(1)
    done: list[str] = []
    held = Document(slots, "a", 1, done)
    assert eventually(lambda: slots._free == 0)
    refused = threading.Event()

    def wait() -> None:
        with suppress(NotReady), slots.slot(stay):
            return
        refused.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert eventually(lambda: slots.waiting == 1)
    closing = threading.Thread(target=slots.close)
    closing.start()
    assert refused.wait(10)
    assert closing.is_alive()
    held.join()
    closing.join(10)
    assert not closing.is_alive()
    assert done == ["a0"]
    with pytest.raises(NotReady), slots.slot(stay):
        pass
