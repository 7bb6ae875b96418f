"""Clients that send slowly, do not read, or are gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from serving.http.gunicorn.sockets import Header, TimedListener, TimedSocket, hung_up

Pair = tuple[TimedSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The server's end of a connection, and the client's."""
    listener = socket.create_server(("127.0.0.1", 0))
    caller = socket.create_connection(listener.getsockname())
    served, _ = TimedListener(listener).accept()
    served.setblocking(True)
    yield served, caller
    for end in (served, caller, listener):
        end.close()


def test_reading_ends_at_the_deadline(pair: Pair) -> None:
    served, caller = pair
    caller.sendall(b"ab")
    assert served.recv(1) == b"a"
    served.limit_reading(0.05)
    assert served.recv(1) == b"b"
    with pytest.raises(TimeoutError):
        served.recv(1)


def test_single_bytes_do_not_extend_the_deadline(pair: Pair) -> None:
    served, caller = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            caller.sendall(b".")

    thread = threading.Thread(target=drip)
    thread.start()
    served.limit_reading(0.2)
    with pytest.raises(TimeoutError):
        while True:
            served.recv(100)
    stop.set()
    thread.join()


def test_reading_a_request_has_its_own_deadline(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.http.gunicorn.sockets.HEADER_TIME", 0.05)
    served, _ = pair
    served.begin_request()
    with pytest.raises(TimeoutError) as caught:
        served.recv(1)
    assert isinstance(caught.value, OSError)


def test_a_header_is_told_from_a_part_of_it(pair: Pair) -> None:
    served, caller = pair
    assert served.read_header() is Header.PART
    caller.sendall(b"GET / HTTP/1.1\r\n\r")
    assert wait_readable(served)
    assert served.read_header() is Header.PART
    caller.sendall(b"\nGET")
    assert wait_readable(served)
    assert served.read_header() is Header.WHOLE
    data = served.recv(100)
    assert data == b"GET / HTTP/1.1\r\n\r\nGET"
    served.unread(data[-3:])
    assert served.read_header() is Header.PART
    caller.close()
    assert wait_readable(served)
    assert served.read_header() is Header.WHOLE


def test_a_caller_that_does_not_read_is_dropped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.http.gunicorn.sockets.SEND_TIME", 0.1)
    monkeypatch.setattr("serving.http.gunicorn.sockets.SEND_RATE", 1e9)
    served, _ = pair
    with pytest.raises(TimeoutError):
        while True:  # the bound is for all pieces together
            served.sendall(b"x" * 1_000_000)
    assert served.send_lag > 0


def test_a_small_rest_of_an_answer_holds_no_thread(pair: Pair) -> None:
    served, caller = pair
    served.begin_request()
    size = 0
    while not served.unsent:
        served.sendall(b"x" * 100_000)
        size += 100_000
    rest = len(served.unsent)
    assert 0 < rest <= 100_000
    received = 0
    while received < size:
        received += len(caller.recv(1_000_000))
        served.flush()
    assert served.flush()
    assert served.send_lag == 0


def test_an_answer_with_a_permit_is_sent_before_the_thread_goes_on(pair: Pair) -> None:
    served, caller = pair
    served.hold_thread()
    size = 20_000_000
    sending = threading.Thread(target=served.sendall, args=(b"x" * size,))
    sending.start()
    received = 0
    while received < size:
        received += len(caller.recv(1_000_000))
    sending.join(10)
    assert not sending.is_alive()
    assert not served.unsent


def test_evicting_ends_an_answer_in_progress(pair: Pair) -> None:
    served, _ = pair
    served.hold_thread()
    caught: list[OSError] = []

    def send() -> None:
        try:
            served.sendall(b"x" * 50_000_000)
        except OSError as error:
            caught.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    while not served.send_lag:
        time.sleep(0.005)
    served.end_reading(and_sending=True)
    sending.join(10)
    assert caught


def test_hung_up(pair: Pair) -> None:
    served, caller = pair
    assert not hung_up(None)
    assert not hung_up(served)
    caller.sendall(b"next request")
    assert wait_readable(served)
    assert not hung_up(served)
    assert served.recv(100) == b"next request"  # the check consumes nothing
    caller.close()
    assert wait_readable(served)
    assert hung_up(served)
    served.close()
    assert hung_up(served)


def test_hung_up_after_sending_another_request(pair: Pair) -> None:
    served, caller = pair
    caller.sendall(b"next request")
    caller.shutdown(socket.SHUT_WR)
    assert wait_readable(served)
    assert hung_up(served)


def wait_readable(connection: socket.socket) -> bool:
    """Loopback is quick but not instant."""
    for _ in range(1000):
        try:
            socket.socket.recv(connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return True
        except BlockingIOError:
            time.sleep(0.005)
    return False


def test_lingering_reads_the_rest_so_that_the_answer_arrives(pair: Pair) -> None:
    served, caller = pair
    caller.sendall(b"unread" * 1000)
    served.sendall(b"answer")
    assert wait_readable(served)
    served.shutdown(socket.SHUT_WR)
    left = served.linger(1024 * 1024)
    assert 0 < left <= 1024 * 1024
    assert caller.recv(100) == b"answer"
    assert caller.recv(100) == b""
    caller.close()
    assert wait_readable(served)
    assert served.linger(left) == 0


def test_lingering_is_bounded(pair: Pair) -> None:
    served, caller = pair
    caller.sendall(b"x" * 5000)
    assert wait_readable(served)
    assert served.linger(1000) == 0
