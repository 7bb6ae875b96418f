"""Query strings as long as a server takes, with thousands of parameters."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from http_fake import picture
from http_server import PATIENCE, URL, Server
from requests import Session

ROOM = 4000
"""Bytes of the longest query: Gunicorn takes a request line of 4094."""
ROUNDS = 50
QUERIES = {
    "unknown": "&".join(f"{number:x}" for number in range(2000))[:ROOM],
    "the same": "a&" * (ROOM // 2),
    "empty": "&" * ROOM,
    "wrong values": "&".join(f"text_det_thresh=x{number}" for number in range(200))[:ROOM],
    "escaped": "%61" * (ROOM // 3),
    "one long value": "format=" + "a" * (ROOM - 7),
    "no names": "=&" * (ROOM // 2),
}


def resident(server: Server) -> int:
    """Bytes of all workers."""
    pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in server.workers()]
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", list(QUERIES))
def test_the_longest_query_costs_no_more_than_its_size(server: Server, kind: str) -> None:
    """The answer is short and memory stays; the time is printed, beside that of no query."""
    workers, before, sizes, seconds = server.workers(), 0, set(), {}
    with Session() as session:
        for query in ("", QUERIES[kind], "", QUERIES[kind]):
            start = time.perf_counter()
            for _ in range(ROUNDS):
                url = f"{server.base}{URL}?{query}"
                answer = session.post(url, data=picture(), timeout=PATIENCE)
                assert answer.status_code in (200, 400), answer.text
                sizes.add(len(answer.content))
            seconds[query] = (time.perf_counter() - start) / ROUNDS
            if QUERIES[kind] in seconds:  # each worker has met such a query: what grows now is kept
                before = before or resident(server)
    grown = resident(server) - before
    plain, queried = (f"{1e3 * spent:.1f}" for spent in seconds.values())
    print(f"{kind}: {queried} ms (no query: {plain}), {max(sizes)} bytes, {grown >> 10} KiB more")
    assert max(sizes) < 2000
    assert grown < 8 << 20
    assert server.workers() == workers
