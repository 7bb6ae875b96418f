"""The load generator, in a process of its own. Run as a file:

    python serve_load.py HOST PORT FOLDER

FOLDER holds whole HTTP requests, a file each, sent as they are in the order of their names, lap
after lap. Imports nothing of this package's and only waits on sockets, so that it takes little of
the cores that the server needs; what it took is part of each answer. Speaks JSON lines: for each
{"clients": N, "seconds": S} (closed: each sends anew when answered) or {"rate": R, "seconds": S}
(open: R requests a second, answered or not) one line {"calls": [[due, sent, done, status], ...],
"cpu": SECONDS, "wall": SECONDS, "lap": FILES}. Times are seconds since the phase began: when the
request had to go out, when its last byte had gone, when its answer had come. Status 0: no answer.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_PATIENCE = 300.0
"""Seconds without a byte after which a call counts as unanswered."""
_MOST = 2000
"""Calls that an open load may have unanswered."""
_REFUSED = 429

Call = tuple[float, float, float, int]


class Caller:
    """One connection, kept alive between calls."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def call(self, request: bytes) -> tuple[float, float, int]:
        """Send; when the last byte had gone, when the answer had come, its status."""
        fresh = self._socket is None
        try:
            return self._call(request)
        except (OSError, http.client.HTTPException):
            self.close()
            if fresh:
                now = time.perf_counter()
                return now, now, 0
        return self.call(request)  # the server had closed a connection that was idle

    def _call(self, request: bytes) -> tuple[float, float, int]:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=_PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        sent = time.perf_counter()
        with http.client.HTTPResponse(self._socket, method="POST") as response:
            response.begin()
            response.read()
            done = time.perf_counter()
            if response.will_close:
                self.close()
            return sent, done, response.status

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Load:
    """Sends the requests of a folder to an address."""

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self._address = (host, port)
        self._requests = [path.read_bytes() for path in sorted(folder.iterdir())]

    def closed(self, clients: int, seconds: float, most: int | None = None) -> list[Call]:
        """So many callers, each of which sends anew when it was answered; `most` calls in all."""
        calls: list[Call] = []
        numbers = iter(itertools.count() if most is None else range(most))
        start = time.perf_counter()

        def work() -> None:
            caller = Caller(self._address)
            while (due := time.perf_counter() - start) < seconds:
                if (number := next(numbers, None)) is None:
                    break
                sent, done, status = caller.call(self._request(number))
                calls.append((due, sent - start, done - start, status))
            caller.close()

        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return calls

    def open(self, rate: float, seconds: float) -> list[Call]:
        """So many requests a second, evenly, whether answered or not.

        What was refused is what goes out next, so that all files are accepted equally often: which
        ones come when a place is free would else decide how much work a page is.
        """
        calls: list[Call] = []
        callers: list[Caller] = []
        files, refused = itertools.count(), deque[int]()
        start = time.perf_counter()

        def work(number: int, due: float) -> None:
            caller = callers.pop() if callers else Caller(self._address)
            sent, done, status = caller.call(self._request(number))
            calls.append((due, sent - start, done - start, status))
            callers.append(caller)
            if status == _REFUSED:
                refused.append(number)

        with ThreadPoolExecutor(_MOST) as pool:
            for number in range(max(1, round(rate * seconds))):
                due = number / rate
                time.sleep(max(0.0, start + due - time.perf_counter()))
                pool.submit(work, refused.popleft() if refused else next(files), due)
        for caller in callers:
            caller.close()
        return calls

    @property
    def lap(self) -> int:
        """Files in the folder."""
        return len(self._requests)

    def _request(self, number: int) -> bytes:
        return self._requests[number % len(self._requests)]


def main(host: str, port: str, folder: str) -> None:
    """Answers until stdin ends."""
    load = Load(host, int(port), Path(folder))
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        calls = load.open(**asked) if "rate" in asked else load.closed(**asked)
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps({"calls": calls, **took, "lap": load.lap}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
