"""The servers under load: ours and PaddleX's, each a child process on a free port."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.errors import EngineError
from serving.plan.child import environment

_HOST = "127.0.0.1"
_BOUNDARY = "-" * 24 + "d74496d66958873e"
"""As curl makes them."""
_START = 300.0
"""Seconds in which a server has to be ready."""


class Server(ABC):
    """A running server. Raises EngineError when it does not get ready, with what it said."""

    name: str

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        with socket.socket() as free:
            free.bind((_HOST, 0))
            self.address: tuple[str, int] = free.getsockname()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [*map(str, command), "--host", _HOST, "--port", str(self.address[1])],
            stdout=self._log,
            stderr=self._log,
            env=environment,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def request(self, image: bytes) -> bytes:
        """The whole HTTP request that has `image` read."""

    @property
    @abstractmethod
    def health(self) -> str:
        """The path that answers 200 once it can read."""

    def memory(self) -> float:
        """MiB of the server and its children, shared pages counted once."""
        return sum(_proportional(process) for process in _tree(self._process.pid)) / 1024

    def close(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait_ready(self) -> None:
        end = time.monotonic() + _START
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace").strip()
                last = said.splitlines()[-1] if said else "it said nothing"
                error = EngineError(f"benchmark: {self.name} does not get ready: {last}")
                error.add_note(said)
                raise error
            time.sleep(0.1)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Ours(Server):
    """`ocr-hpi serve`, by its multipart form, as `curl -F image=@page.png` sends it."""

    name = "ours"
    health = "/health/ready"

    def __init__(
        self, pipeline: Path, models: Path, python: Path, options: Sequence[str] = ()
    ) -> None:
        served = ["--pipeline", f"accurate={pipeline}", "--models", str(models), *options]
        super().__init__([python, "-m", "serving.cli", "serve", *served], environment())

    def request(self, image: bytes) -> bytes:
        part = 'Content-Disposition: form-data; name="image"; filename="page.png"'
        head = f"--{_BOUNDARY}\r\n{part}\r\nContent-Type: image/png\r\n\r\n"
        body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
        path = "/ocr/v1/accurate?use_textline_orientation=false"
        return _post(path, f"multipart/form-data; boundary={_BOUNDARY}", body)


class PaddleX(Server):
    """`paddlex --serve` on ONNX Runtime, by its own JSON, without pictures in the answer."""

    name = "PaddleX onnxruntime"
    health = "/health"

    def __init__(self, yaml: Path, python: Path) -> None:
        served = ["--serve", "--pipeline", str(yaml), "--engine", "onnxruntime"]
        quiet = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}
        super().__init__([python, "-m", "paddlex", *served], {**os.environ, **quiet})

    def request(self, image: bytes) -> bytes:
        file = base64.b64encode(image).decode("ascii")
        body = json.dumps({"file": file, "fileType": 1, "visualize": False}).encode()
        return _post("/ocr", "application/json", body)


def _post(path: str, kind: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _tree(int(child))
    return found


def _proportional(pid: int) -> int:
    """KiB of a process: its own pages, and its share of those that it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has just ended
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
