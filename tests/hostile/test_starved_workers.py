"""Workers that are stopped, or that may open no more files: callers are told, and others answer."""

from __future__ import annotations

import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from http_fake import picture
from http_server import PATIENCE, URL, Server, answer, eventually

FILES = [picture(), *(picture(kind=kind, pages=2) for kind in ("TIFF", "PDF")), picture(kind="GIF")]
REQUESTS = 40


def test_a_stopped_worker_is_replaced_and_the_other_answers_meanwhile(
    start: Callable[..., Server],
) -> None:
    server = start(workers=2).wait_ready()
    stopped, other = server.workers()
    os.kill(stopped, signal.SIGSTOP)
    for _ in range(20):  # the stopped one takes no connection
        assert server.post().status_code == 200
    assert eventually(lambda: stopped not in server.workers() and len(server.workers()) == 2)
    assert other in server.workers()
    assert f"a worker (process {stopped}) was stopped by a signal" in server.errors()


def test_the_only_worker_stopped_in_mid_request(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    caller = server.hold_in_work()
    [worker] = server.workers()
    os.kill(worker, signal.SIGSTOP)
    with caller, pytest.raises(ConnectionError):  # not left waiting
        caller.recv(1)
        raise ConnectionResetError  # or the end of the connection
    server.gate.touch()
    assert eventually(lambda: server.workers() not in ([], [worker]))
    url = f"{server.base}/health/ready"
    assert eventually(lambda: requests.get(url, timeout=PATIENCE).status_code == 200)
    assert server.post().status_code == 200


def test_a_worker_that_was_stopped_for_a_moment_goes_on(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    caller = server.hold_in_work()
    [worker] = server.workers()
    os.kill(worker, signal.SIGSTOP)
    os.kill(worker, signal.SIGCONT)
    server.gate.touch()
    status, _, _ = answer(caller)
    assert (status, server.workers()) == (200, [worker])


def test_too_few_files_while_requests_run(start: Callable[..., Server]) -> None:
    """What needs no file is read; the rest is told to come back; then all is as before."""
    server = start(threads=2, queue=20).wait_ready()
    [worker] = server.workers()

    def ask(number: int) -> int:
        try:
            if number % 5 == 4:
                return requests.get(f"{server.base}/health/live", timeout=PATIENCE).status_code
            file = FILES[number % 4]
            return requests.post(server.base + URL, data=file, timeout=PATIENCE).status_code
        except requests.ConnectionError:
            return 0

    def open_files() -> int:
        return sum(1 for _ in Path(f"/proc/{worker}/fd").iterdir())

    assert [ask(number) for number in range(5)] == [200] * 5
    allowed = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    for spare in (8, 4, 2):
        few = open_files() + spare, allowed[1]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, few)
        with ThreadPoolExecutor(8) as callers:
            answers = Counter(callers.map(ask, range(REQUESTS)))
        print(f"{spare} more files:", dict(answers))
        assert answers.keys() <= {200, 429, 503, 0}
        assert answers[200] > 0
    resource.prlimit(worker, resource.RLIMIT_NOFILE, allowed)
    assert eventually(lambda: [ask(number) for number in range(5)] == [200] * 5)
    assert server.workers() == [worker]
    assert Path(f"/proc/{worker}").exists() and "internal error" not in server.errors()


def test_a_worker_that_may_open_no_file_ends_when_told(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    [worker] = server.workers()
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, 3))
    callers = [server.connect() for _ in range(3)]  # it can accept none
    assert server.end() == 0
    for caller in callers:
        caller.close()
