"""A real server process on pipelines without models, and callers of its real sockets."""

from __future__ import annotations

import http.client
import io
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from http_fake import HELD, picture

HERE = Path(__file__).resolve().parent
URL = "/ocr/v1/accurate"
PATIENCE = 120.0
"""Seconds after which a test gives up; on a busy machine, too, only what never comes takes long."""
STOP_TIME = 30.0
"""Seconds in which a server ends that has nothing to finish."""


class Server:
    """`http_fake.py` as a child process."""

    def __init__(self, folder: Path, *, command: Sequence[str] = (), **settings: Any) -> None:
        """command: starts the server, which it gets as its arguments."""
        self.gate = folder / "gate"
        told = {
            "settings": {"pipelines": ["accurate"], "port": 0, **settings},
            "gate": str(self.gate),
        }
        self.log = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [*command, sys.executable, str(HERE / "http_fake.py"), json.dumps(told)],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
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
        """The same, and wait until it is in work.

        It is sent again at a 429: the permit of an answer is free a moment after the answer.
        """
        caller = self.hold()

        def is_in_work() -> bool:
            nonlocal caller
            if select.select([caller], [], [], 0)[0]:
                assert answer(caller)[0] == 429
                caller = self.hold()
            return self.gate.with_suffix(".reached").exists()

        assert eventually(is_in_work)
        return caller

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def metrics_folder(self) -> Path:
        """The one whose lock the master holds: servers beside it have others."""
        held = {fd.resolve() for fd in Path(f"/proc/{self.process.pid}/fd").iterdir()}
        [folder] = (path for path in held if path.match("ocr-hpi-metrics-*"))
        return folder

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


@contextmanager
def real_server(
    log: Path, *options: str, python: str | Path = sys.executable
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ocr-hpi serve` with models on a free port, and its address; it must end well."""
    command = [str(python), "-m", "serving.cli", "serve", "--port", "0", *options]
    with log.open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert server.stdout is not None
    with server, server.stdout:
        try:
            line = server.stdout.readline()
            assert line.startswith("ready "), log.read_text()
            yield server, line.split()[1]
        finally:
            server.terminate()
        assert server.wait(10 * PATIENCE) == 0


def request(body: bytes, *, length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    return f"{head}Content-Length: {announced}\r\n\r\n".encode() + body


def answer(caller: socket.socket) -> tuple[int, Any, http.client.HTTPResponse]:
    with caller, http.client.HTTPResponse(caller) as response:
        response.begin()
        return response.status, json.loads(response.read()), response


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def open_file(data: bytes) -> Any:
    return io.BytesIO(data)


def refused(callers: list[socket.socket]) -> list[socket.socket]:
    """Those that have an answer while the gate is still closed."""
    return select.select(callers, [], [], 0.05)[0]
