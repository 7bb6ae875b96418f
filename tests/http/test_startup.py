"""What answers on the socket while engines are built: real connections, well-behaved and not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests
from http_server import PATIENCE

from serving.http.startup import StartupServer


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        yield listener


def base(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_it_is_live_and_says_what_is_done(listener: socket.socket) -> None:
    with StartupServer(listener) as startup:
        assert requests.get(f"{base(listener)}/health/live/x", timeout=PATIENCE).status_code == 503
        for path, expected in (("/health", {"status": "live"}), ("/v2/health", {"live": True})):
            live = requests.get(f"{base(listener)}{path}/live", timeout=PATIENCE)
            assert (live.status_code, live.json()) == (200, expected)
        kserve = requests.get(f"{base(listener)}/v2/health/ready?x", timeout=PATIENCE)
        assert kserve.json() == {"error": "not ready yet: starting"}
        paddlex = requests.post(f"{base(listener)}/ocr", timeout=PATIENCE)
        assert (paddlex.json()["errorCode"], paddlex.json()["error"]["code"]) == (503, "not_ready")
        startup.report("measuring 字 " + "x" * 1000)
        startup.report("")
        ready = requests.get(f"{base(listener)}/health/ready", timeout=PATIENCE)
        assert ready.status_code == 503
        assert ready.json()["error"]["message"].startswith("not ready yet: measuring 字 xx")
        assert len(ready.content) < 400
    assert "startup" not in {thread.name for thread in threading.enumerate()}  # the server forks


def test_callers_that_hang_neither_delay_others_nor_the_server(listener: socket.socket) -> None:
    address = listener.getsockname()
    with StartupServer(listener):
        hanging = [socket.create_connection(address) for _ in range(200)]
        for caller in hanging[::2]:
            caller.sendall(b"GET /health/live HT")
        endless = socket.create_connection(address, timeout=PATIENCE)
        endless.sendall(b"x" * 100_000)
        assert requests.get(f"{base(listener)}/health/live", timeout=PATIENCE).ok
    for caller in (*hanging, endless):  # closed: nobody waits for a server that is gone
        caller.settimeout(PATIENCE)
        with suppress(ConnectionResetError):
            assert caller.recv(1) == b""
        caller.close()
    with socket.create_connection(address, timeout=PATIENCE):
        listener.setblocking(True)
        listener.accept()[0].close()  # the socket is the next server's


def test_a_socket_is_handed_over_without_a_lost_request(listener: socket.socket) -> None:
    url, ended = f"{base(listener)}/health/live", threading.Event()
    answers: list[int] = []

    def ask() -> None:
        while not ended.is_set():
            answers.append(requests.get(url, timeout=PATIENCE).status_code)  # or it ends here
        answers.append(0)

    caller = threading.Thread(target=ask)
    caller.start()
    for _ in range(60):
        with StartupServer(listener):
            before = len(answers)
            while caller.is_alive() and len(answers) < before + 2:
                pass
        ended_well = caller.is_alive()
    with StartupServer(listener):
        ended.set()
        caller.join()
    assert ended_well and answers[-1] == 0
    assert set(answers[:-1]) == {200}
