"""Workers that die, files that are hostile, disks that are full: the server stays and says why."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hostile_yaml import HOSTILE
from http_fake import CONFIG, picture
from http_server import HERE, PATIENCE, STOP_TIME, Server, eventually

from serving.http.gunicorn.master import how_it_ended
from serving.http.gunicorn.messages import WorkerEvents
from serving.http.logs import JsonFormatter
from serving.http.metrics import metrics_folder


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def get(server: Server, path: str) -> requests.Response:
    return requests.get(server.base + path, timeout=PATIENCE)


def is_ready(server: Server) -> bool:
    return get(server, "/health/ready").status_code == 200


def wait_started(server: Server, port: int) -> None:
    """As `wait_ready`, for a server that is not ready."""
    server.base, server.port = f"http://127.0.0.1:{port}", port

    def lives() -> bool:
        try:
            return get(server, "/health/live").status_code == 200
        except requests.RequestException:  # a worker may crash while it answers
            return False

    assert eventually(lives), server.errors()


def kill_workers(server: Server) -> None:
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)


def test_two_kills_in_a_row(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    for _ in range(2):
        before = server.workers()
        kill_workers(server)
        assert eventually(lambda: server.workers() not in ([], before))  # noqa: B023
    assert get(server, "/health/live").status_code == 200
    assert eventually(lambda: is_ready(server))
    assert server.post().status_code == 200
    assert "killed by SIGKILL" in server.errors()


def test_a_pipeline_that_crashes_leaves_a_server_that_says_so(
    start: Callable[..., Server], free_port: int
) -> None:
    server = start(pipelines=["accurate", "crash"], port=free_port)
    wait_started(server, free_port)

    def answered(ask: Callable[[], requests.Response]) -> requests.Response:
        """Again, where the worker crashed while it answered."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except requests.RequestException:
                assert time.monotonic() < end
                time.sleep(0.02)

    def ready() -> requests.Response:
        return answered(lambda: get(server, "/health/ready"))

    assert eventually(lambda: "exit status 1" in ready().text)
    for response in (ready(), answered(server.post)):
        assert response.status_code == 503
        error = response.json()["error"]
        assert error["code"] == "not_ready"
    assert "a worker ended while loading" in ready().json()["error"]["message"]
    assert eventually(lambda: server.errors().count("a worker cannot serve") >= 2)
    assert answered(lambda: get(server, "/health/live")).status_code == 200
    server.process.terminate()
    assert server.process.wait(STOP_TIME) == 0


def test_what_fails_after_it_was_ready_is_tried_again(start: Callable[..., Server]) -> None:
    """Its second load raises an error; a later one does not."""
    server = start(pipelines=["fragile"]).wait_ready()
    fragile = server.gate.with_suffix(".broken")
    fragile.touch()
    kill_workers(server)
    assert eventually(lambda: "the model is broken" in get(server, "/health/ready").text)
    assert get(server, "/health/live").status_code == 200
    fragile.unlink()
    assert eventually(lambda: is_ready(server))
    assert eventually(lambda: get(server, "/ocr/v1").json()["reload"]["error"] is None)


def test_hostile_yaml_leaves_the_old_one_serving(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    yaml = tmp_path / "pipeline.yaml"
    yaml.write_bytes(CONFIG.read_bytes())
    server = start(pipelines={"accurate": str(yaml)}).wait_ready()
    [worker] = server.workers()
    for count, (kind, text) in enumerate(HOSTILE.items(), 1):
        yaml.write_bytes(text if isinstance(text, bytes) else text.encode())
        server.process.send_signal(signal.SIGHUP)
        failed = lambda: server.errors().count("the reload failed") == count  # noqa: B023, E731
        assert eventually(failed), kind
        assert server.post().status_code == 200
    assert server.workers() == [worker]
    yaml.write_bytes(CONFIG.read_bytes())
    server.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: get(server, "/ocr/v1").json()["generation"] == 2)


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ValueError, KeyError])
def test_whatever_loading_raises_leaves_the_old_one_serving(
    start: Callable[..., Server], error: type[Exception]
) -> None:
    server = start(fail_reload=error.__name__).wait_ready()
    server.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: error.__name__ in str(get(server, "/ocr/v1").json()["reload"]))
    assert server.post().status_code == 200


def test_a_killed_server_leaves_no_metrics(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    own = server.metrics_folder()
    assert own.exists()
    workers = server.workers()
    server.process.kill()
    assert eventually(lambda: not any(Path(f"/proc/{worker}/fd").exists() for worker in workers))
    assert not own.exists()


def test_what_a_server_left_behind_is_removed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with metrics_folder():
        held = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        abandoned = held.with_name("ocr-hpi-metrics-abandoned")
        abandoned.mkdir()
        old = time.time() - 3600
        for folder in (held, abandoned):
            os.utime(folder, (old, old))
        with metrics_folder():
            assert held.exists()
            assert not abandoned.exists()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(held)
    assert not held.exists()


@pytest.fixture
def small_shm(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server in a mount namespace of its own, with a /dev/shm of 4 MiB."""
    mount = "mount -t tmpfs -o size=4m tmpfs /dev/shm"
    probe = ["unshare", "--mount", "sh", "-c", mount]
    try:
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    servers = []

    def begin(**settings: Any) -> Server:
        script = f'{mount} && exec "$@"'
        server = Server(
            tmp_path, command=["unshare", "--mount", "sh", "-c", script, "sh"], **settings
        )
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.end()


def fill(server: Server) -> Path:
    """Leave no room in the server's /dev/shm, and return it."""
    shm = Path(f"/proc/{server.process.pid}/root/dev/shm")
    with (shm / "filler").open("wb", buffering=0) as filler:
        for size in (65536, 1):
            with pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(b"x" * size)
    return shm


def test_a_full_dev_shm_ends_no_worker_of_many_pipelines(small_shm: Callable[..., Server]) -> None:
    """Each pipeline's first request needs room in the files that workers share."""
    names = [f"{number:02}-{'n' * 61}" for number in range(20)]
    server = small_shm(pipelines=names).wait_ready()
    workers = server.workers()
    fill(server)
    for name in names:
        url = f"{server.base}/ocr/v1/{name}"
        for data in (picture(), b"no image"):
            assert requests.post(url, data=data, timeout=PATIENCE).status_code in (200, 415)
    assert server.workers() == workers
    counted = get(server, "/metrics").text
    assert all(f'ocr_pages_total{{pipeline="{name}"}}' in counted for name in names)
    assert "SIGBUS" not in server.errors()


def test_a_full_dev_shm(small_shm: Callable[..., Server]) -> None:
    server = small_shm().wait_ready()
    shm = fill(server)
    for file in shm.glob("ocr-hpi-metrics-*/*.db"):
        file.unlink()
    filled = shm / "more"
    with pytest.raises(OSError, match="No space"):
        filled.write_bytes(b"x" * 4_000_000)
    kill_workers(server)
    assert eventually(lambda: is_ready(server))
    assert server.post().status_code == 200
    assert b"ocr_requests_total" in get(server, "/metrics").content
    assert "are not added to the others'" in server.errors()
    assert "SIGBUS" not in server.errors()


def test_too_few_open_files_is_one_clear_line(tmp_path: Path) -> None:
    told = json.dumps({"settings": {"pipelines": ["accurate"], "port": 0}, "gate": "/none"})
    done = subprocess.run(
        [sys.executable, str(HERE / "http_fake.py"), told],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: this process may open 64 files")
    assert "ulimit -n" in line


def test_signals_leave_a_line_in_the_log(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    server.process.terminate()
    assert server.process.wait(STOP_TIME) == 0
    lines = [json.loads(line) for line in server.errors().splitlines()]
    assert [line.get("signal") for line in lines if "stopping" in line["message"]] == ["SIGTERM"]
    assert lines[-1]["message"] == "stopped"


def test_the_pidfile_names_the_master(start: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "ocr.pid"
    server = start(pidfile=str(file)).wait_ready()
    assert int(file.read_text()) == server.process.pid
    second = start(pidfile=str(file))
    assert second.process.wait(STOP_TIME) == 1
    [line] = second.errors().splitlines()
    assert line.startswith("error: --pidfile: Already running on PID")
    os.kill(int(file.read_text()), signal.SIGHUP)
    assert eventually(lambda: get(server, "/ocr/v1").json()["generation"] == 2)
    assert server.end() == 0
    assert not file.exists()


def test_log_lines_have_no_control_characters() -> None:
    hostile = "a\x1b[2J\x9b2J\x85\u2028\u202e\x7f\ud800 字"
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (hostile,), None)
    line = JsonFormatter().format(record)
    assert all(char.isprintable() for char in line)
    assert "字" in line
    assert json.loads(line)["message"] == hostile
    line.encode()


def test_an_error_with_a_path_of_any_bytes_reaches_the_master() -> None:
    events = WorkerEvents()
    events.failed(os.fsdecode(b"models/\xff: ") + "字" * 1000)
    [event] = events.receive()
    assert event.error is not None and event.error.startswith("models/?: 字")


def test_how_it_ended() -> None:
    for command, reason in (("exit 7", "exit status 7"), ("kill -BUS $$", "killed by SIGBUS")):
        child = subprocess.Popen(["sh", "-c", command])
        assert eventually(lambda: how_it_ended(child.pid) != "ended")  # noqa: B023
        assert how_it_ended(child.pid).startswith(reason)
        child.wait()
    assert how_it_ended(child.pid) == "ended"
