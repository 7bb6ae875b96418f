"""Clients that are slow, stall or hang up, against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable

import requests
from http_fake import picture
from http_server import PATIENCE, Server, answer, eventually, refused, request


def test_a_slow_sender_is_refused_and_others_do_not_wait(server: Server) -> None:
    slow = server.connect()
    slow.sendall(request(b"x", length=50_000))
    assert server.post().status_code == 200
    status, body, _ = answer(slow)
    assert (status, body["error"]["code"]) == (400, "bad_request")
    assert "too slowly" in body["error"]["message"]


def test_stalled_clients_leave_threads_for_others(server: Server) -> None:
    silent, in_header, in_body = ([server.connect() for _ in range(80)] for _ in range(3))
    for caller in in_header:
        caller.sendall(request(b"")[:50])
    for caller in in_body:
        caller.sendall(request(b"x", length=50_000))
    response = requests.get(server.base + "/health/live", timeout=PATIENCE)
    assert response.status_code == 200
    in_header[0].sendall(request(b"")[50:])
    assert answer(in_header[0])[0] in (400, 429)  # the stalled bodies fill the limit
    for caller in (*silent, *in_header, *in_body):
        caller.close()
    assert eventually(lambda: server.post().status_code == 200)


def test_bodies_that_stall_are_evicted(start: Callable[..., Server]) -> None:
    server = start(queue=1, body_time=1000).wait_ready()
    stalled = [server.connect() for _ in range(30)]
    for caller in stalled:
        caller.sendall(request(b"x", length=50_000))
    assert eventually(lambda: server.post().status_code == 200)
    codes = [answer(caller)[1]["error"]["code"] for caller in refused(stalled)]
    assert {"bad_request", "busy"} >= set(codes) >= {"bad_request"}
    assert len(codes) < len(stalled)
    for caller in stalled:
        caller.close()


def test_a_header_may_arrive_in_pieces(server: Server) -> None:
    caller = server.connect()
    whole = request(picture())
    for start in range(0, 200, 7):
        caller.sendall(whole[start : start + 7])
        time.sleep(0.002)
    caller.sendall(whole[203:])
    assert answer(caller)[0] == 200


def test_a_client_that_hangs_up_midway_affects_no_other(server: Server) -> None:
    for _ in range(5):
        caller = server.connect()
        caller.sendall(request(b"x" * 1000, length=50_000))
        caller.close()
    assert server.post().status_code == 200


def test_a_client_that_hangs_up_while_waiting_frees_its_permit(
    start: Callable[..., Server],
) -> None:
    server = start(threads=1, queue=1).wait_ready()
    working = server.hold_in_work()
    others = [server.hold(), server.hold()]
    assert eventually(lambda: len(refused(others)) == 1)
    [waiting] = set(others) - set(refused(others))
    waiting.close()

    def admitted() -> bool:
        others.append(server.hold())
        time.sleep(0.3)
        return not refused(others[-1:])

    assert eventually(admitted)
    server.gate.touch()
    assert answer(working)[0] == 200
    assert answer(others[-1])[0] == 200
    for caller in others:
        caller.close()
