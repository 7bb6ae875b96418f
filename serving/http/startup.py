"""What the server's socket answers before there is a server: while engines are fetched and built.

The port is open from the first second, so that a supervisor sees a live process that is not ready;
what connects while the socket is handed over waits in its backlog.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from concurrent.futures import Future
from http import HTTPStatus

from serving.errors import NotReady
from serving.http.context import request_id
from serving.http.errors import error_answer
from serving.http.gunicorn.sockets import HEADER_TIME, MAX_HEADER

_REQUEST_ID = re.compile(rb"\r\nX-Request-Id: *([^\r]*)", re.IGNORECASE)
_GRACE = 1.0
"""Seconds for the answers in progress when the server takes over."""


class StartupServer:
    """Until the block ends: 200 at /health/live, and 503 with the step everywhere else.

    It runs in a thread, which has ended after the block: the server forks.
    """

    def __init__(self, listener: socket.socket) -> None:
        """listener: stays open."""
        self.step = "starting"
        """What is being done."""
        self._listener = listener
        self._end = asyncio.Event()
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="startup", daemon=True
        )

    def __enter__(self) -> StartupServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.result().call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._handle, sock=self._listener.dup(), limit=MAX_HEADER
        )
        self._loop.set_result(asyncio.get_running_loop())
        await self._end.wait()
        server.close()
        if callers := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(callers, timeout=_GRACE)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEADER_TIME):
                writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                writer.write_eof()
                while await reader.read(MAX_HEADER):  # a reset would overtake the answer
                    pass
        except (OSError, EOFError, asyncio.LimitOverrunError):  # the caller's doing
            pass
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        given = _REQUEST_ID.search(head)
        number = request_id(given[1].decode("latin-1") if given else "")
        status, body = 200, {"status": "live"}
        if head.split()[1:2] != [b"/health/live"]:
            status, body = error_answer(NotReady(f"not ready yet: {self.step}"), number)
        data = json.dumps(body, ensure_ascii=False).encode() + b"\n"
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            f"X-Request-Id: {number}",
            "X-Content-Type-Options: nosniff",
            "Connection: close\r\n\r\n",
        )
        return "\r\n".join(lines).encode() + data
