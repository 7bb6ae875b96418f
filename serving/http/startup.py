"""The server's socket, and what it answers before there is a server: while engines are built.

The port is open from the first second, so that a supervisor sees a live process that is not ready;
what connects while the socket is handed over waits in its backlog. Imports little, to be early.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from contextlib import suppress
from typing import Any

from serving.errors import ConfigError, NotReady
from serving.http.context import raw_answer, request_id
from serving.http.errors import error_answer, in_form_of
from serving.http.gunicorn.sockets import HEADER_TIME, MAX_HEADER
from serving.http.settings import Settings

_REQUEST_ID = re.compile(rb"\r\nX-Request-Id: *([^\r]*)", re.IGNORECASE)
_LIVE: dict[str, dict[str, Any]] = {
    "/health/live": {"status": "live"},
    "/v2/health/live": {"live": True},
}
_MAX_CALLERS = 500
"""Connections at a time; a process may open 1024 files by default."""
_MAX_STEP = 200
"""Characters of a step that are shown."""
_GRACE = 1.0
"""Seconds for the answers in progress when the server takes over."""


def bind(settings: Settings) -> socket.socket:
    """A listening socket.

    Raises ConfigError: in use, not of this machine, not allowed; open to others without API keys.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if not (settings.api_keys_file or settings.allow_anonymous or is_loopback(listener)):
            listener.close()
            raise ConfigError(
                f"--host {host} without API keys: everyone who can reach it could use it; pass "
                "--api-keys-file (see: ocr-hpi key --help), or --allow-anonymous"
            )
        # Otherwise a second server may bind the same address until this one listens.
        listener.listen(2048)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {reason}; choose with --host and --port"
        ) from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


class StartupServer:
    """Until the block ends: 200 at both /health/live, and 503 with the step everywhere else.

    It runs in a thread, which has ended after the block: the server forks. What was accepted before
    is answered, and what was not is the server's (asyncio.Server loses callers when it closes).
    """

    def __init__(self, listener: socket.socket) -> None:
        """listener: stays open, and does not block any more."""
        self._listener = listener
        self._step = "starting"
        self._callers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="startup", daemon=True)

    def __enter__(self) -> StartupServer:
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def report(self, step: str) -> None:
        """What is being done now."""
        self._step = step[:_MAX_STEP] or self._step

    def _accept(self) -> None:
        with suppress(OSError):  # it has hung up
            connection, _ = self._listener.accept()
            if len(self._callers) >= _MAX_CALLERS:
                connection.close()
                return
            caller = self._loop.create_task(self._handle(connection))
            self._callers.add(caller)
            caller.add_done_callback(self._callers.discard)

    async def _close(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._callers:
            _, late = await asyncio.wait(self._callers, timeout=_GRACE)
            for caller in late:
                caller.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _handle(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEADER)
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
        path = b"".join(head.split()[1:2]).partition(b"?")[0].decode("latin-1")
        if path in _LIVE:
            return raw_answer(200, _LIVE[path], number)
        status, body = error_answer(NotReady(f"not ready yet: {self._step}"), number)
        return raw_answer(status, in_form_of(path, status, body), number)
