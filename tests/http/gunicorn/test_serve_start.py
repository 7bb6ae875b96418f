"""Starting and stopping a real server, and what it does when something dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from http_server import STOP_TIME, Server, answer, eventually


def test_sigterm_finishes_requests_in_progress(start: Callable[..., Server]) -> None:
    server = start(threads=1, queue=0).wait_ready()
    held = server.hold_in_work()
    server.process.terminate()

    def refused() -> bool:
        try:
            server.connect().close()
        except OSError:
            return True
        return False

    assert eventually(refused)
    server.gate.touch()
    status, body, _ = answer(held)
    assert (status, body[0]["data"]) == (200, "accurate 40x20 字")
    assert server.process.wait(STOP_TIME) == 0


def test_a_killed_worker_is_replaced_and_its_permits_are_released(
    start: Callable[..., Server],
) -> None:
    server = start(threads=1, queue=0).wait_ready()
    held = server.hold_in_work()
    [worker] = server.workers()
    os.kill(worker, signal.SIGKILL)
    held.close()
    assert eventually(lambda: worker not in server.workers())

    def reads() -> bool:
        try:
            return server.post().status_code == 200
        except requests.ConnectionError:
            return False

    assert eventually(reads)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("broken", "error: broken: there is no such model; run: bash scripts/fetch_models.sh"),
        ("bug", "error: a pipeline does not load: ZeroDivisionError: oops"),
    ],
)
def test_a_pipeline_that_does_not_load_ends_the_server(
    start: Callable[..., Server], pipeline: str, message: str, workers: int
) -> None:
    server = start(pipelines=["accurate", pipeline], workers=workers)
    assert server.process.wait(STOP_TIME) == 1
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    lines = server.errors().splitlines()
    assert lines[-1] == message
    if pipeline == "broken":
        assert len(lines) == 1


def test_no_thread_starts_before_the_fork() -> None:
    """Vendors' libraries start threads, which a fork does not copy: workers import them."""
    code = (
        "import sys, threading, serving.http.gunicorn.master\n"
        "vendors = {'openvino', 'onnxruntime', 'pynvml'} & sys.modules.keys()\n"
        "print(vendors or '-', threading.active_count())"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "- 1\n"


def test_ipv6(start: Callable[..., Server]) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    server = start(host="::1").wait_ready()
    assert server.base.startswith("http://[::1]:")
    assert server.post().status_code == 200


def test_a_port_in_use_is_an_error_at_once(start: Callable[..., Server]) -> None:
    first = start().wait_ready()
    second = start(port=first.port)
    assert second.process.wait(STOP_TIME) == 1
    [line] = second.errors().splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1 port {first.port}: address already")
    assert "--port" in line
