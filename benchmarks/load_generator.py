"""The load generator, in a process of its own:

    python load_generator.py HOST PORT FOLDER

FOLDER holds whole HTTP requests, one per file, sent unchanged in the order of their names, round
after round. Imports nothing of this project and only waits on sockets, so that it takes few of the
cores that the server needs; how much it took is part of each answer. Speaks JSON lines. Requests:
    {"clients": N, "seconds": S}   closed loop: each client sends again once it was answered;
                                   "max_calls" limits the calls in all
    {"rate": R, "seconds": S}      open loop: R requests a second, whether answered or not
Answer: {"calls": [[due, sent, done, status], ...], "cpu": SECONDS, "wall": SECONDS, "files": N}.
Times are seconds since the start: when the request was due, when its last byte had been sent, when
its answer had arrived. Status 0: no answer.
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

_TIMEOUT = 300.0
"""Seconds without a byte after which a call counts as unanswered."""
_MAX_PENDING = 2000
"""Calls that an open loop may have unanswered."""
_REFUSED = 429

Call = tuple[float, float, float, int]


class Client:
    """One connection, kept alive between calls."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def call(self, request: bytes) -> tuple[float, float, int]:
        """Send a request: when its last byte was sent, when its answer had arrived, its status."""
        fresh = self._socket is None
        try:
            return self._call(request)
        except (OSError, http.client.HTTPException):
            self.close()
            if fresh:
                now = time.perf_counter()
                return now, now, 0
        return self.call(request)  # the server had closed an idle connection

    def _call(self, request: bytes) -> tuple[float, float, int]:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=_TIMEOUT)
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
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class LoadGenerator:
    """Sends the requests of a folder to an address."""

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self._address = (host, port)
        self._requests = [path.read_bytes() for path in sorted(folder.iterdir())]

    def closed_loop(self, clients: int, seconds: float, max_calls: int | None = None) -> list[Call]:
        """`clients` connections, each of which sends again once it was answered."""
        calls: list[Call] = []
        numbers = iter(itertools.count() if max_calls is None else range(max_calls))
        start = time.perf_counter()

        def work() -> None:
            client = Client(self._address)
            while (due := time.perf_counter() - start) < seconds:
                if (number := next(numbers, None)) is None:
                    break
                sent, done, status = client.call(self._request(number))
                calls.append((due, sent - start, done - start, status))
            client.close()

        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return calls

    def open_loop(self, rate: float, seconds: float) -> list[Call]:
        """`rate` requests a second, evenly, whether answered or not.

        Refused requests are sent next, so that all files are accepted equally often: otherwise
        those that happen to meet a free permit would decide how much work a page is.
        """
        calls: list[Call] = []
        idle: list[Client] = []
        numbers, refused = itertools.count(), deque[int]()
        start = time.perf_counter()

        def work(number: int, due: float) -> None:
            client = idle.pop() if idle else Client(self._address)
            sent, done, status = client.call(self._request(number))
            calls.append((due, sent - start, done - start, status))
            idle.append(client)
            if status == _REFUSED:
                refused.append(number)

        with ThreadPoolExecutor(_MAX_PENDING) as pool:
            for number in range(max(1, round(rate * seconds))):
                due = number / rate
                time.sleep(max(0.0, start + due - time.perf_counter()))
                pool.submit(work, refused.popleft() if refused else next(numbers), due)
        for client in idle:
            client.close()
        return calls

    @property
    def files(self) -> int:
        """In the folder."""
        return len(self._requests)

    def _request(self, number: int) -> bytes:
        return self._requests[number % len(self._requests)]


def main(host: str, port: str, folder: str) -> None:
    """Answer until stdin ends."""
    load = LoadGenerator(host, int(port), Path(folder))
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        calls = load.open_loop(**request) if "rate" in request else load.closed_loop(**request)
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps({"calls": calls, **spent, "files": load.files}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
