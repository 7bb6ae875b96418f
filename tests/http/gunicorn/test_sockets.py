"""Clients that send slowly, do not read, or are gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from serving.http.gunicorn.sockets import TimedListener, TimedSocket, hung_up

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


def test_a_header_has_its_own_deadline(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http.gunicorn.sockets.HEADER_TIME", 0.05)
    served, _ = pair
    served.limit_reading(0)
    served.setblocking(True)  # what Gunicorn does at the start of each request
    with pytest.raises(TimeoutError) as caught:
        served.recv(1)
    assert isinstance(caught.value, OSError)


def test_a_caller_that_does_not_read_is_dropped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.http.gunicorn.sockets.SEND_TIME", 0.1)
    served, _ = pair
    with pytest.raises(TimeoutError):
        served.sendall(b"x" * 50_000_000)
    assert served.gettimeout() is None


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
    lingering = threading.Thread(target=served.linger, args=(10, 1024 * 1024))
    lingering.start()
    assert caller.recv(100) == b"answer"
    assert caller.recv(100) == b""
    caller.close()
    lingering.join(10)
    assert not lingering.is_alive()
    with pytest.raises(OSError, match="already shut down"):
        served.shutdown(socket.SHUT_WR)
