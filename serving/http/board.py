"""What the master tells all workers, those that run already as well."""

from __future__ import annotations

import json
import mmap
import struct
import time
import zlib
from typing import Any

_SIZE = 16 * 1024
_HEAD = struct.Struct("<II")


class Board:
    """One JSON object in memory that the master writes and all workers read.

    Make it before the fork. A checksum tells a reader that it came in the middle of a write.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self.write({})

    def write(self, told: dict[str, Any]) -> None:
        """In the master: say this from now on."""
        data = json.dumps(told).encode()
        self._memory[: _HEAD.size + len(data)] = _HEAD.pack(len(data), zlib.crc32(data)) + data

    def read(self) -> dict[str, Any]:
        """What was said last."""
        while True:
            length, checksum = _HEAD.unpack_from(self._memory)
            data = self._memory[_HEAD.size : _HEAD.size + length]
            if zlib.crc32(data) == checksum:
                told: dict[str, Any] = json.loads(data)
                return told
            time.sleep(0.001)
