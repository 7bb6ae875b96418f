"""Messages between the server and its decoder processes: JSON with file descriptors beside it.

A message is its length (4 bytes, big-endian) and a JSON object. Descriptors travel with the
first byte (SCM_RIGHTS). JSON and not pickle: a decoder process that a hostile file has taken over
must not be able to run code in the server.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from serving.types import Dpi


class TextRun(TypedDict):
    """A line of text, in pixels of its page as an image."""

    start: tuple[float, float]
    """Where its baseline begins."""
    direction: tuple[float, float]
    """In which it is read; of length 1."""
    height: float
    pieces: list[tuple[str, float]]
    """Text and width of each; they follow each other without a gap."""


class OwnLine(TypedDict):
    """A line of a PDF's own text."""

    turn: int
    """Clockwise rotation on the page, in degrees: 0, 90, 180 or 270."""
    words: list[tuple[str, tuple[int, int, int, int]]]
    """Each with its left, top, right and bottom in pixels of the page as it is drawn."""


class PageText(TypedDict):
    """A page and the text that stands on it."""

    index: int
    """In its document."""
    width: int
    height: int
    dpi: Dpi | None
    runs: list[TextRun]


_MAX_DESCRIPTORS = 2
_MAX_BYTES = 1 << 24


def send(channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Raises OSError if the peer is gone."""
    body = json.dumps(message).encode()
    socket.send_fds(channel, [len(body).to_bytes(4, "big")], descriptors)
    channel.sendall(body)


def receive(
    channel: socket.socket, *, deadline: float | None = None
) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which the caller must close.

    `deadline` is on the clock of `time.monotonic()`. Raises TimeoutError after it, EOFError if the
    peer is gone, OSError.
    """
    _set_timeout(channel, deadline)
    head, descriptors, _, _ = socket.recv_fds(
        channel, 4, _MAX_DESCRIPTORS, flags=socket.MSG_CMSG_CLOEXEC
    )
    head += _receive_exactly(channel, 4 - len(head), deadline)
    length = int.from_bytes(head, "big")
    if length > _MAX_BYTES:
        raise EOFError(f"a message of {length} bytes")
    message = json.loads(_receive_exactly(channel, length, deadline))
    if not isinstance(message, dict):
        raise EOFError("not a message")
    return message, list(descriptors)


def _receive_exactly(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while count > 0:
        _set_timeout(channel, deadline)
        part = channel.recv(min(count, 1 << 16))
        if not part:
            raise EOFError("the peer is gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _set_timeout(channel: socket.socket, deadline: float | None) -> None:
    remaining = None if deadline is None else deadline - time.monotonic()
    if remaining is not None and remaining <= 0:
        raise TimeoutError
    channel.settimeout(remaining)
