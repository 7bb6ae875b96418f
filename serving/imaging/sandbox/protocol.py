"""Messages between the decoder and its helpers: JSON with file descriptors beside it.

A message is its length (4 bytes, big-endian) and a JSON object. Descriptors travel with the
first byte (SCM_RIGHTS). JSON and not pickle: a helper that was taken over by the file it read
must not be able to run code in the server.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

_MOST_DESCRIPTORS = 2
_MOST_BYTES = 1 << 24


def send(channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Raises OSError where the other side is gone."""
    body = json.dumps(message).encode()
    head = len(body).to_bytes(4, "big")
    if descriptors:
        socket.send_fds(channel, [head], descriptors)
        channel.sendall(body)
    else:
        channel.sendall(head + body)


def receive(
    channel: socket.socket, *, deadline: float | None = None
) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which are the caller's to close.

    `deadline` is a reading of `time.monotonic()`. Raises TimeoutError after it, EOFError where
    the other side is gone, OSError.
    """
    _allow(channel, deadline)
    head, descriptors, _, _ = socket.recv_fds(
        channel, 4, _MOST_DESCRIPTORS, flags=socket.MSG_CMSG_CLOEXEC
    )
    head += _exactly(channel, 4 - len(head), deadline)
    length = int.from_bytes(head, "big")
    if length > _MOST_BYTES:
        raise EOFError(f"a message of {length} bytes")
    message = json.loads(_exactly(channel, length, deadline))
    if not isinstance(message, dict):
        raise EOFError("not a message")
    return message, list(descriptors)


def _exactly(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while count > 0:
        _allow(channel, deadline)
        part = channel.recv(min(count, 1 << 16))
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _allow(channel: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        channel.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(left)
