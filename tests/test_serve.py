"""A real server process behind real sockets, on pipelines without models."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from http_fake import HELD, picture

HERE = Path(__file__).resolve().parent
URL = "/ocr/v1/accurate"
PATIENCE = 30.0
"""Seconds after which a test gives up; nothing here takes as long."""


class Server:
    """`http_fake.py` as a child process."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.gate = folder / "gate"
        told = {
            "settings": {"pipelines": ["accurate"], "port": 0, **settings},
            "gate": str(self.gate),
        }
        self.log = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "http_fake.py"), json.dumps(told)],
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def wait_ready(self) -> Server:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        assert line.startswith("ready http://"), (line, self.errors())
        self.base = line.split()[1]
        self.port = int(self.base.rpartition(":")[2])
        return self

    def errors(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def post(self, **options: Any) -> requests.Response:
        options.setdefault("data", picture())
        options.setdefault("headers", {"Content-Type": "image/png"})
        return requests.post(self.base + URL, timeout=PATIENCE, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def hold(self) -> socket.socket:
        """Send a page that is read only once the gate is open; the answer is still to come."""
        caller = self.connect()
        caller.sendall(request(picture(colour=HELD)))
        return caller

    def hold_in_work(self) -> socket.socket:
        """The same, and wait until it is in work."""
        caller = self.hold()
        assert eventually(self.gate.with_suffix(".reached").exists)
        return caller

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def end(self) -> int:
        """Open the gate and stop; the exit status."""
        self.gate.touch()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.log.close()


def request(body: bytes, *, length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    return f"{head}Content-Length: {announced}\r\n\r\n".encode() + body


def answer(caller: socket.socket) -> tuple[int, Any, http.client.HTTPResponse]:
    with caller, http.client.HTTPResponse(caller) as response:
        response.begin()
        return response.status, json.loads(response.read()), response


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(**settings: Any) -> Server:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(Server(folder, **settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.end()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    server = Server(
        tmp_path_factory.mktemp("server"),
        threads=2,
        queue=20,
        max_body=100_000,
        body_time=0.4,
    ).wait_ready()
    yield server
    assert server.end() == 0


def test_answers(server: Server) -> None:
    with open_file(picture()) as file:
        response = requests.post(server.base + URL, files={"image": file}, timeout=PATIENCE)
    assert [result["data"] for result in response.json()] == ["accurate 40x20 字"]
    assert response.headers["X-Request-Id"]
    assert "recognise;dur=" in response.headers["Server-Timing"]
    assert requests.get(server.base + "/health/ready", timeout=PATIENCE).status_code == 200


def open_file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_sixteen_posts_side_by_side(server: Server) -> None:
    def post(number: int) -> str:
        found = server.post(data=picture(40 + number)).json()
        return str(found[0]["data"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(post, range(64)))
    assert found == [f"accurate {40 + number}x20 字" for number in range(64)]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_gets_its_answer(server: Server, chunked: bool) -> None:
    # http.client sends all of the body before it reads: a reset would lose the answer.
    caller = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    body = b"x" * 180_000
    headers = {"Content-Type": "image/png"}
    if chunked:
        pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
        caller.request("POST", URL, pieces, headers, encode_chunked=True)
    else:
        caller.request("POST", URL, body, headers)
    response = caller.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "too_large"
    caller.request("POST", URL, picture(), headers)  # drained, so the connection is still good
    assert caller.getresponse().status == 200
    caller.close()


def test_an_announced_length_over_the_limit_is_refused_before_it_comes(server: Server) -> None:
    caller = server.connect()
    caller.sendall(request(b"x", length=10**12))
    status, body, _ = answer(caller)
    assert (status, body["error"]["code"]) == (413, "too_large")


def test_a_body_for_nobody_gets_its_answer(server: Server) -> None:
    response = requests.post(server.base + "/nowhere", data=b"x" * 90_000, timeout=PATIENCE)
    assert response.json()["error"]["code"] == "not_found"


def test_a_slow_sender_is_sent_away_and_others_do_not_wait(server: Server) -> None:
    slow = server.connect()
    slow.sendall(request(b"x", length=50_000))
    assert server.post().status_code == 200
    status, body, _ = answer(slow)
    assert (status, body["error"]["code"]) == (400, "bad_request")
    assert "too slowly" in body["error"]["message"]


def test_callers_that_stall_leave_threads_for_others(server: Server) -> None:
    silent, in_header, in_body = ([server.connect() for _ in range(80)] for _ in range(3))
    for caller in in_header:
        caller.sendall(request(b"")[:50])
    for caller in in_body:
        caller.sendall(request(b"x", length=50_000))
    response = requests.get(server.base + "/health/live", timeout=PATIENCE)
    assert response.status_code == 200
    in_header[0].sendall(request(b"")[50:])
    assert answer(in_header[0])[0] in (400, 429)  # the stalled bodies take all the room
    for caller in (*silent, *in_header, *in_body):
        caller.close()
    assert eventually(lambda: server.post().status_code == 200)


def test_callers_that_stall_in_the_body_make_room(start: Callable[..., Server]) -> None:
    server = start(queue=1, body_time=1000).wait_ready()
    stalled = [server.connect() for _ in range(30)]
    for caller in stalled:
        caller.sendall(request(b"x", length=50_000))
    assert eventually(lambda: server.post().status_code == 200)
    told = [answer(caller)[1]["error"]["code"] for caller in refused(stalled)]
    assert {"bad_request", "busy"} >= set(told) >= {"bad_request"}
    assert len(told) < len(stalled)
    for caller in stalled:
        caller.close()


def test_a_header_may_come_in_pieces(server: Server) -> None:
    caller = server.connect()
    whole = request(picture())
    for start in range(0, 200, 7):
        caller.sendall(whole[start : start + 7])
        time.sleep(0.002)
    caller.sendall(whole[203:])
    assert answer(caller)[0] == 200


def test_requests_sent_at_once_on_one_connection(server: Server) -> None:
    caller = server.connect()
    caller.sendall(request(picture(41)) + request(picture(42)) + request(picture(43)))
    found = b""
    while found.count(b"accurate 4") < 3:
        data = caller.recv(65536)
        assert data, found
        found += data
    assert [found.index(b"accurate 4%d" % width) for width in (1, 2, 3)] == sorted(
        found.index(b"accurate 4%d" % width) for width in (1, 2, 3)
    )
    caller.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        request(b"", length=5).replace(b"Content-Length: 5", b"Content-Length: five"),
        request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_malformed_requests_get_json_too(server: Server, sent: bytes) -> None:
    caller = server.connect()
    caller.sendall(sent)
    status, body, response = answer(caller)
    assert status in (400, 414, 431)
    assert body["error"]["code"] == "bad_request"
    assert body["error"]["request_id"] == response.headers["X-Request-Id"]
    assert response.headers["Server-Timing"]


def test_a_caller_that_hangs_up_midway_harms_nobody(server: Server) -> None:
    for _ in range(5):
        caller = server.connect()
        caller.sendall(request(b"x" * 1000, length=50_000))
        caller.close()
    assert server.post().status_code == 200


def test_logs_are_json_with_the_request_id_and_no_text(server: Server) -> None:
    with open_file(picture()) as file:
        requests.post(
            server.base + URL,
            files={"image": ("secret-name.png", file)},
            headers={"X-Request-Id": "find-me"},
            timeout=PATIENCE,
        )

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in server.errors().splitlines()]

    assert eventually(lambda: any(line.get("request_id") == "find-me" for line in lines()))
    [found] = [line for line in lines() if line.get("request_id") == "find-me"]
    assert (found["status"], found["pipeline"], found["pages"]) == (200, "accurate", 1)
    assert "secret-name" not in server.errors()
    assert "40x20" not in server.errors()


def refused(callers: list[socket.socket]) -> list[socket.socket]:
    """Those that have an answer while the gate is still closed."""
    return select.select(callers, [], [], 0.05)[0]


def test_when_full_the_answer_is_busy_at_once(start: Callable[..., Server]) -> None:
    server = start(threads=1, queue=1).wait_ready()
    callers = [server.hold() for _ in range(5)]
    assert eventually(lambda: len(refused(callers)) == 3)
    response = server.post()
    assert (response.status_code, response.json()["error"]["code"]) == (429, "busy")
    assert int(response.headers["Retry-After"]) >= 1
    assert requests.get(server.base + "/health/live", timeout=PATIENCE).status_code == 200
    server.gate.touch()
    assert sorted(answer(caller)[0] for caller in callers) == [200, 200, 429, 429, 429]
    assert eventually(lambda: server.post().status_code == 200)


def test_the_queue_counts_for_all_workers(start: Callable[..., Server]) -> None:
    server = start(workers=2, threads=1, queue=1).wait_ready()
    callers = [server.hold() for _ in range(7)]
    assert eventually(lambda: len(refused(callers)) == 4)
    server.gate.touch()
    assert sorted(answer(caller)[0] for caller in callers) == [200] * 3 + [429] * 4


def test_who_hangs_up_while_waiting_frees_its_place(start: Callable[..., Server]) -> None:
    server = start(threads=1, queue=1).wait_ready()
    working = server.hold_in_work()
    others = [server.hold(), server.hold()]
    assert eventually(lambda: len(refused(others)) == 1)
    [waiting] = set(others) - set(refused(others))
    waiting.close()

    def let_in() -> bool:
        others.append(server.hold())
        time.sleep(0.3)
        return not refused(others[-1:])

    assert eventually(let_in)
    server.gate.touch()
    assert answer(working)[0] == 200
    assert answer(others[-1])[0] == 200
    for caller in others:
        caller.close()


def test_sigterm_finishes_what_is_in_work(start: Callable[..., Server]) -> None:
    server = start(threads=1, queue=0).wait_ready()
    held = server.hold_in_work()
    server.process.terminate()

    def refused() -> bool:
        try:
            server.connect().close()
        except OSError:
            return True
        return False

    assert eventually(refused)
    server.gate.touch()
    status, body, _ = answer(held)
    assert (status, body[0]["data"]) == (200, "accurate 40x20 字")
    assert server.process.wait(PATIENCE) == 0


def test_a_killed_worker_is_replaced_and_its_places_come_back(
    start: Callable[..., Server],
) -> None:
    server = start(threads=1, queue=0).wait_ready()
    held = server.hold_in_work()
    [worker] = server.workers()
    os.kill(worker, signal.SIGKILL)
    held.close()
    assert eventually(lambda: worker not in server.workers())

    def reads() -> bool:
        try:
            return server.post().status_code == 200
        except requests.ConnectionError:
            return False

    assert eventually(reads)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("broken", "error: broken: there is no such model; run: bash scripts/fetch_models.sh"),
        ("bug", "error: a pipeline does not load: ZeroDivisionError: oops"),
    ],
)
def test_a_pipeline_that_does_not_load_ends_the_server(
    start: Callable[..., Server], pipeline: str, words: str, workers: int
) -> None:
    server = start(pipelines=["accurate", pipeline], workers=workers)
    assert server.process.wait(PATIENCE) == 1
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    said = server.errors().splitlines()
    assert said[-1] == words
    if pipeline == "broken":
        assert len(said) == 1


def test_ipv6(start: Callable[..., Server]) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    server = start(host="::1").wait_ready()
    assert server.base.startswith("http://[::1]:")
    assert server.post().status_code == 200


def test_a_port_in_use_is_told_at_once(start: Callable[..., Server]) -> None:
    first = start().wait_ready()
    second = start(port=first.port)
    assert second.process.wait(PATIENCE) == 1
    [line] = second.errors().splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1 port {first.port}: address already")
    assert "--port" in line
