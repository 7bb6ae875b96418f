"""A local server with the publisher's layout, and the model packages it serves."""

from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILES = {
    "inference.yml": b"Global: {model_name: some}\n",
    "inference.json": b'{"base_code": {}}',
    "inference.pdiparams": bytes(range(256)) * 400,
}
"""A model as PaddleX exports it. The store never looks into graphs."""


def tar_of(files: dict[str, bytes], folder: str = "some_infer", mode: str = "w") -> bytes:
    """A tar archive of `files` in `folder`, as the publisher packs a model."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class ModelServer:
    """Serves `files` by path. Paths in `cut` end halfway; those in `held` wait halfway."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.held: set[str] = set()
        self.requests: Counter[str] = Counter()
        self.half_sent = threading.Event()
        self.go_on = threading.Event()
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests[request.path] += 1
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        half = len(content) // 2
        request.wfile.write(content[:half])
        request.wfile.flush()
        if request.path in self.held:
            self.half_sent.set()
            self.go_on.wait(60)
        if request.path not in self.cut:
            request.wfile.write(content[half:])


@contextmanager
def serving_models() -> Iterator[ModelServer]:
    """A running server; `url` is its address."""
    models = ModelServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                models.answer(self)
            except ConnectionError:  # the other side was killed
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        models.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield models
        finally:
            models.go_on.set()
            server.shutdown()
            thread.join()
