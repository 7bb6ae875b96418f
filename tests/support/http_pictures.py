"""An image server on this machine, and fetchers that treat its address as public."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from http_fake import picture

from serving.download import HostPattern, Url, UrlFetcher

PNG = picture()
HERE = "127.0.0.1"
PRIVATE = "10.1.2.3"


class Pictures(BaseHTTPRequestHandler):
    """The path chooses the behaviour."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str]]
    done: threading.Event

    def do_GET(self) -> None:
        self.requests.append((self.headers["Host"], self.path))
        kind, _, more = self.path[1:].partition("/")
        if kind == "to":
            self.answer(302, b"", Location=more)
        elif kind == "status":
            self.answer(int(more), b"no")
        elif kind == "large":
            self.answer(200, b"x" * 100_000)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            self.drip(b"x" * 50_000, 0.0)
        elif kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
        elif kind == "slow":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.drip(b"x", 0.02)
        elif kind == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            self.drip(b"x", 0.02)
        else:
            self.answer(200, PNG)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def drip(self, piece: bytes, pause: float) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            while not self.done.wait(pause):
                self.wfile.write(piece)
                self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are what is tested."""


class Host:
    """An image server on this machine."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.done = threading.Event()
        handler = type("Handler", (Pictures,), {"requests": self.requests, "done": self.done})
        self._server = QuietServer((HERE, 0), handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str, host: str = "pictures.test") -> str:
        return f"http://{host}:{self.port}/{path}"

    def fetcher(self, **options: Any) -> UrlFetcher:
        """A fetcher that treats this server's address as public."""
        hosts = [HostPattern("pictures.test", port=self.port), HostPattern("inside.test")]
        hosts += [HostPattern("inside.test", port=self.port)]
        names = {"pictures.test": [HERE], "inside.test": [PRIVATE]}
        settings: dict[str, Any] = {
            "max_bytes": 60_000,
            "seconds": 20,
            "resolve": lambda host, port: names[host],
            "is_public": lambda address: address == HERE,
        }
        return UrlFetcher(hosts, **{**settings, **options})

    def close(self) -> None:
        self.done.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def fetch(
    fetcher: UrlFetcher, *urls: str, cancel: Callable[[], None] = lambda: None
) -> list[bytes]:
    return fetcher.fetch([Url(url) for url in urls], cancel)
