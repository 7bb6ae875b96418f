"""A real server with no permit left."""

from __future__ import annotations

from collections.abc import Callable

import requests
from http_server import PATIENCE, Server, answer, eventually, refused


def test_when_full_the_answer_is_busy_at_once(start: Callable[..., Server]) -> None:
    server = start(threads=1, queue=1).wait_ready()
    callers = [server.hold() for _ in range(5)]
    assert eventually(lambda: len(refused(callers)) == 3)
    response = server.post()
    assert (response.status_code, response.json()["error"]["code"]) == (429, "busy")
    assert int(response.headers["Retry-After"]) >= 1
    assert requests.get(server.base + "/health/live", timeout=PATIENCE).status_code == 200
    server.gate.touch()
    assert sorted(answer(caller)[0] for caller in callers) == [200, 200, 429, 429, 429]
    assert eventually(lambda: server.post().status_code == 200)


def test_the_queue_counts_for_all_workers(start: Callable[..., Server]) -> None:
    server = start(workers=2, threads=1, queue=1).wait_ready()
    callers = [server.hold() for _ in range(7)]
    assert eventually(lambda: len(refused(callers)) == 4)
    server.gate.touch()
    assert sorted(answer(caller)[0] for caller in callers) == [200] * 3 + [429] * 4
