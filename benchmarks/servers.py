"""The servers under load: this project's and PaddleX's, each a child process on a free port."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.child import child_environment
from serving.errors import EngineError

_HOST = "127.0.0.1"
_BOUNDARY = "-" * 24 + "d74496d66958873e"
"""As curl makes them."""
_START_TIMEOUT = 300.0
_READ_TIMEOUT = 1200.0
_UPRIGHT = "use_textline_orientation=false"
_SAMPLE_INTERVAL = 0.5
"""Seconds between two samples of a server's memory."""


class Server(ABC):
    """A running server. Raises EngineError, with its output, if it does not become ready."""

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

    @staticmethod
    @abstractmethod
    def request(image: bytes) -> bytes:
        """The whole HTTP request that has `image` read."""

    @property
    @abstractmethod
    def health(self) -> str:
        """The path that answers 200 once the server is ready."""

    def memory(self) -> float:
        """MiB of the server and its children, shared pages counted once."""
        return sum(_pss_kib(process) for process in _process_tree(self._process.pid)) / 1024

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
        end = time.monotonic() + _START_TIMEOUT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self._log.seek(0)
                output = self._log.read().decode(errors="replace").strip()
                last = output.splitlines()[-1] if output else "no output"
                error = EngineError(f"benchmark: {self.name} did not become ready: {last}")
                error.add_note(output)
                raise error
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class OurServer(Server):
    """`ocr-hpi serve`; requests are multipart, as `curl -F image=@page.png` sends them.

    pipelines: by the name under which each is served.
    """

    name = "ours"
    health = "/health/ready"

    def __init__(self, pipelines: Mapping[str, Path], models: Path) -> None:
        options = [f"--pipeline={name}={path}" for name, path in pipelines.items()]
        command = [sys.executable, "-m", "serving.cli", "serve", *options]
        super().__init__([*command, "--models", models], child_environment())

    @staticmethod
    def request(image: bytes, pipeline: str = "accurate") -> bytes:
        part = 'Content-Disposition: form-data; name="image"; filename="page.png"'
        head = f"--{_BOUNDARY}\r\n{part}\r\nContent-Type: image/png\r\n\r\n"
        body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
        path = f"/ocr/v1/{pipeline}?{_UPRIGHT}"
        return _post(path, f"multipart/form-data; boundary={_BOUNDARY}", body)

    def read(self, image: bytes, query: str = _UPRIGHT) -> list[str]:
        """The texts of an image or document. Raises EngineError unless it answers them."""
        connection = http.client.HTTPConnection(*self.address, timeout=_READ_TIMEOUT)
        try:
            headers = {"Content-Type": "application/octet-stream"}
            connection.request("POST", f"/ocr/v1/accurate?{query}", image, headers)
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            raise EngineError(f"benchmark: the server does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            status = f"status {response.status}: {body[:300].decode()}"
            raise EngineError(f"benchmark: the server answers {status}")
        return [line["data"] for line in json.loads(body)]


class PaddleXServer(Server):
    """`paddlex --serve` on ONNX Runtime; requests are its own JSON, answers without pictures."""

    name = "PaddleX, ONNX Runtime"
    health = "/health"

    def __init__(self, yaml: Path, python: Path) -> None:
        options = ["--serve", "--pipeline", str(yaml), "--engine", "onnxruntime"]
        quiet = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}
        super().__init__([python, "-m", "paddlex", *options], {**os.environ, **quiet})

    @staticmethod
    def request(image: bytes) -> bytes:
        file = base64.b64encode(image).decode("ascii")
        body = json.dumps({"file": file, "fileType": 1, "visualize": False}).encode()
        return _post("/ocr", "application/json", body)


def _post(path: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class MemorySampler:
    """Samples a server's memory in the background: (seconds since the start, MiB)."""

    def __init__(self, server: Server) -> None:
        self.samples: list[tuple[float, float]] = []
        self._server = server
        self._start = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while True:
            self.samples.append((time.monotonic() - self._start, self._server.memory()))
            if self._end.wait(_SAMPLE_INTERVAL):
                return

    def close(self) -> None:
        """Stop sampling."""
        self._end.set()
        self._thread.join()


def _process_tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _process_tree(int(child))
    return found


def _pss_kib(pid: int) -> int:
    """Proportional set size: a process' own pages, and its share of those that it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has just ended
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
