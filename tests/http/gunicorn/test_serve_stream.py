"""format=pages as NDJSON over real sockets: pages one by one, hang-ups, slow readers."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from http_fake import HELD, LONG, document, picture
from http_server import PATIENCE, STOP_TIME, URL, Server, answer, eventually

BLACK = (0, 0, 0)
BROKEN = (0, 0, 1)


@contextmanager
def stream(
    server: Server, body: bytes, received: int | None = None
) -> Iterator[http.client.HTTPResponse]:
    """An answer of which only the header has been read; `received`: bytes the kernel buffers."""
    with socket.socket() as caller:
        if received is not None:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
        caller.settimeout(PATIENCE)
        caller.connect(("127.0.0.1", server.port))
        head = f"POST {URL}?format=pages HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        with http.client.HTTPResponse(caller) as response:
            response.begin()
            yield response


def entry(server: Server, request_id: str | None) -> dict[str, Any] | None:
    """The line of the access log."""
    lines = map(json.loads, server.errors().splitlines())
    return next((line for line in lines if line.get("request_id") == request_id), None)


def test_a_page_arrives_before_the_next_is_read(start: Callable[..., Server]) -> None:
    server = start(threads=1).wait_ready()
    with stream(server, document(BLACK, HELD, BLACK)) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/x-ndjson")
        assert response.headers["X-Request-Id"]
        assert "receive;dur=" in response.headers["Server-Timing"]
        assert json.loads(response.readline())["page"] == 0  # while the next one is held
        server.gate.touch()
        rest = [json.loads(line) for line in response]
    assert [(page["page"], page["pages"]) for page in rest[:-1]] == [(1, 3), (2, 3)]
    assert set(rest[-1]) == {"request_id", "timing", "engine"}
    assert rest[-1]["request_id"] == response.headers["X-Request-Id"]
    assert rest[-1]["timing"]["recognise"] == 6.0
    assert server.post().status_code == 200


def test_an_error_after_the_first_page_is_the_last_line(server: Server) -> None:
    with stream(server, document(BLACK, BROKEN, BLACK)) as response:
        page, last = (json.loads(line) for line in response)
    assert page["page"] == 0
    assert last["error"]["code"] == "internal"
    assert last["error"]["request_id"] == response.headers["X-Request-Id"]
    assert "engine broke" not in json.dumps(last)


def test_an_error_before_it_has_its_own_status(server: Server) -> None:
    for body, status in ((b"hello", 415), (document(BROKEN, BLACK), 500)):
        with stream(server, body) as response:
            assert response.status == status
            assert json.loads(response.read())["error"]["code"]


def test_the_deadline_ends_a_stream(start: Callable[..., Server]) -> None:
    server = start(threads=1, timeout=0.1, page_time=0.2).wait_ready()
    with stream(server, document(BLACK, HELD, BLACK)) as response:
        time.sleep(1)
        server.gate.touch()  # a page in progress is finished, and the next one not begun
        *pages, last = (json.loads(line) for line in response)
    assert ([page["page"] for page in pages], last["error"]["code"]) == ([0, 1], "timeout")
    assert "2 pages were read" in last["error"]["message"]


def test_a_client_that_hangs_up_midway_frees_its_permit(start: Callable[..., Server]) -> None:
    server = start(threads=1, queue=0).wait_ready()
    with stream(server, document(BLACK, HELD, *[BLACK] * 50)) as response:
        assert json.loads(response.readline())["page"] == 0
        assert server.post().status_code == 429
    server.gate.touch()  # only the page in progress is finished
    assert eventually(lambda: server.post().status_code == 200)
    request_id = response.headers["X-Request-Id"]
    assert eventually(lambda: entry(server, request_id) is not None)
    logged = entry(server, request_id)
    assert logged is not None
    assert (logged["complete"], logged["pages"]) == (False, 1)


def test_a_slow_reader_delays_no_other_request(start: Callable[..., Server]) -> None:
    # Room in the queue, as a permit is free only some time after its answer has come.
    server = start(threads=1, queue=4).wait_ready()
    with stream(server, document(*[LONG] * 30), received=4096) as response:
        for _ in range(3):  # its pages wait for it, others do not
            assert server.post().status_code == 200
        lines = [json.loads(line) for line in response]
    assert [line.get("page") for line in lines] == [*range(30), None]


def test_small_images_overtake_a_long_document(start: Callable[..., Server]) -> None:
    server = start(threads=1).wait_ready()
    with stream(server, document(BLACK, HELD, *[BLACK] * 150)) as response:
        response.readline()
        callers = [server.hold() for _ in range(3)]  # queued behind the held page
        server.gate.touch()
        small = [answer(caller)[2].headers["X-Request-Id"] for caller in callers]
        assert sum(1 for line in response if b'"page"' in line) == 151
    large = response.headers["X-Request-Id"]
    assert eventually(lambda: entry(server, large) is not None)
    done = [json.loads(line).get("request_id") for line in server.errors().splitlines()]
    assert max(map(done.index, small)) < done.index(large)


@pytest.mark.parametrize("body", [picture(), document(BLACK, BLACK)])
def test_stopping_finishes_a_stream(start: Callable[..., Server], body: bytes) -> None:
    server = start(threads=1).wait_ready()
    held = server.hold_in_work()
    with stream_behind(server, body) as response:
        server.process.terminate()
        server.gate.touch()
        response.begin()
        lines = [json.loads(line) for line in response]
    held.close()
    assert "error" not in lines[-1]
    assert server.process.wait(STOP_TIME) == 0


@contextmanager
def stream_behind(server: Server, body: bytes) -> Iterator[http.client.HTTPResponse]:
    """A streamed request in the queue; its answer has not begun."""
    with server.connect() as caller:
        head = f"POST {URL}?format=pages HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        with http.client.HTTPResponse(caller) as response:
            yield response
