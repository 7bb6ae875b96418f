"""Five hundred connections of a kind that once held a thread each: /health answers meanwhile."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from http_fake import LONG, picture
from http_server import PATIENCE, URL, Server, eventually, request

COUNT = 500
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"

KINDS = {
    "silent": b"",
    "half a header": LIVE[:30],
    "half a header behind a request": LIVE + LIVE[:30],
    "half a header behind a request with a body": request(b"no image") + LIVE[:30],
    "half a header behind a refused request": request(b"", length=10**9) + LIVE[:30],
    "a header without end": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 16_000,
    "a header of 16 KiB without end": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 16_384,
    "a header line by line without end": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000,
    "half a body": request(b"x", length=50_000),
    "half a chunk": b"POST " + URL.encode() + b" HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nx",
    "answers that are not read": LARGE * 300,
    "refusals that are not read": request(b"no image") * 2000,
    "100 Continue that is not read": request(b"x").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue")
    * 3000,
    "pages that are not read": request(picture(colour=LONG)) * 3,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * COUNT
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this machine allows no {needed} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    server = Server(tmp_path_factory.mktemp("server"), threads=2, queue=32).wait_ready()
    yield server
    assert server.end() == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def callers(server: Server, data: bytes) -> Iterator[list[socket.socket]]:
    """They send as much as is taken, and read nothing."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(COUNT):
            caller = stack.enter_context(socket.socket())
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.settimeout(PATIENCE)
            caller.connect(("127.0.0.1", server.port))
            caller.setblocking(False)
            sockets.append(caller)
        for caller in sockets:
            with contextlib.suppress(OSError):
                caller.send(data)
        yield sockets


def health_seconds(server: Server) -> float:
    began = time.monotonic()
    response = requests.get(server.base + "/health/live", timeout=PATIENCE)
    assert response.status_code == 200
    return time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
def test_health_answers_soon(server: Server, kind: str) -> None:
    """Within a second, where nothing else keeps the machine busy."""
    with callers(server, KINDS[kind]):
        seconds = [health_seconds(server)]
        for _ in range(4):
            time.sleep(0.25)
            seconds.append(health_seconds(server))
    # Held threads would take ten seconds and more; on a busy machine five hundred callers take two.
    assert sorted(seconds)[2] < 5, seconds
    assert eventually(lambda: server.post().status_code == 200)


@pytest.mark.parametrize("data", [b"A" * 20_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5_000])
def test_a_header_that_is_too_large_is_refused_at_once(server: Server, data: bytes) -> None:
    with server.connect() as caller:
        caller.sendall(data)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_half_a_header_is_told_so_in_time(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    with server.connect() as caller:
        caller.sendall(LIVE + LIVE[:30])
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


def test_pipelined_requests_are_all_answered(server: Server) -> None:
    sent = (LIVE + request(picture())) * 20
    with server.connect() as caller:
        for start in range(0, len(sent), 1000):
            caller.sendall(sent[start : start + 1000])
        caller.sendall(LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 ") == 41


def test_no_header_sets_the_path_prefix(server: Server) -> None:
    for name in ("SCRIPT_NAME", "PATH_INFO", "Script-Name"):
        response = requests.get(
            server.base + "/health/live", headers={name: "/other"}, timeout=PATIENCE
        )
        assert response.status_code == 200


def test_readers_that_do_not_read_make_room(start: Callable[..., Server]) -> None:
    """They hold all permits, and the slowest is dropped for a caller who needs one."""
    server = start(threads=2, queue=2).wait_ready()
    with callers(server, request(picture(colour=LONG)) * 20):
        assert eventually(lambda: server.post().status_code == 200)


def test_an_unknown_transfer_coding_is_a_bad_request(server: Server) -> None:
    with server.connect() as caller:
        caller.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: zip\r\n\r\n")
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "bad_request"' in answer
