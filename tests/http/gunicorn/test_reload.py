"""`kill -HUP`: a new generation of workers loads while the old one serves.

OCR_HPI_SWAP_SECONDS=60 makes the tests under load as long; the default suffices for a quick run.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from http_fake import CONFIG, HELD, HOARDED, document, picture
from http_jobs import ended, job_id, submit, texts
from http_load import Load
from http_server import PATIENCE, STOP_TIME, URL, Server, answer, eventually
from plans import deploy

from serving.config import load_config
from serving.http.keys import new_key
from serving.machine import usable_cores

SECONDS = float(os.environ.get("OCR_HPI_SWAP_SECONDS", "3"))


class ReloadServer(Server):
    """A server whose lines all say the name of the recognition model's folder in its YAML."""

    def __init__(self, folder: Path, name: str = "one", **settings: Any) -> None:
        self.yaml = folder / "pipeline.yaml"
        self.name(name)
        super().__init__(folder, pipelines={"accurate": str(self.yaml)}, **settings)

    def name(self, name: str) -> None:
        config = yaml.safe_load(CONFIG.read_text())
        config["SubModules"]["TextRecognition"]["model_dir"] = name
        self.yaml.write_text(yaml.safe_dump(config))

    def hup(self) -> None:
        """As `pkill -HUP` does: it is meant for the master and reaches the workers as well."""
        self.process.send_signal(signal.SIGHUP)
        for worker in self.workers():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(worker, signal.SIGHUP)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = requests.get(self.base + "/ocr/v1", timeout=PATIENCE).json()
        return state

    def serves(self, generation: int) -> bool:
        """Whether this generation serves and the one before has ended."""
        state = self.state()
        idle = state["reload"]["state"] == "idle"
        return bool(state["generation"] == generation and idle)

    def failed(self) -> bool:
        return self.state()["reload"]["error"] is not None

    def text(self) -> str:
        response = self.post()
        assert response.status_code == 200, response.text
        return str(response.json()[0]["data"]).split()[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ReloadServer]]:
    servers: list[ReloadServer] = []

    def begin(name: str = "one", **settings: Any) -> ReloadServer:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(ReloadServer(folder, name, **settings))
        return servers[-1].wait_ready()

    yield begin
    for server in servers:
        server.end()


def test_no_request_fails_during_reloads(start: Callable[..., ReloadServer]) -> None:
    server = start(workers=2, threads=2, queue=50)
    end = time.monotonic() + SECONDS
    generation = 1
    with Load(server.base + URL, picture(kind="TIFF", pages=3)) as load:
        while time.monotonic() < end or generation < 3:
            generation += 1
            server.name("two" if generation % 2 == 0 else "one")
            server.hup()
            assert eventually(lambda: server.state()["generation"] == generation)  # noqa: B023
            assert len(server.workers()) <= 4
            served = "two" if generation % 2 == 0 else "one"
            # An old worker may still answer who connected before it was told to end.
            assert eventually(lambda: server.text() == served)  # noqa: B023
    assert not load.wrong
    answers = {tuple(line.split("'")[3].split()[0] for line in lines) for lines in load.seen}
    assert answers == {("one",) * 3, ("two",) * 3}


MEMORY = 260 << 20
"""Bytes, of each worker: room for it, some pages that it hoards, and its successor."""
SETTLED = 2.0
"""Seconds after which a worker's memory counts as grown."""


def grow(server: ReloadServer, until: Callable[[], bool]) -> None:
    time.sleep(SETTLED)

    def has_grown() -> bool:
        assert server.post(data=picture(colour=HOARDED)).status_code == 200
        time.sleep(0.2)  # the master looks once a second
        return until()

    assert eventually(has_grown, 3 * PATIENCE)


def test_workers_that_have_grown_are_replaced(start: Callable[..., ReloadServer]) -> None:
    server = start(workers=2, threads=2, queue=50, memory=2 * MEMORY)
    before = server.workers()
    server.name("two")  # on disk, and not meant to be served before a HUP
    with Load(server.base + URL, picture(kind="TIFF", pages=3)) as load:
        grow(server, lambda: server.serves(2))
    assert not load.wrong
    assert {line.split("'")[3].split()[0] for lines in load.seen for line in lines} == {"one"}
    assert not set(server.workers()) & set(before)
    assert "the workers have grown: replacing them" in server.errors()
    server.hup()
    assert eventually(lambda: server.serves(3))
    assert server.text() == "two"


def test_they_are_also_replaced_where_a_long_request_held_up_the_reload_before(
    start: Callable[..., ReloadServer],
) -> None:
    server = start(memory=MEMORY)
    caller = server.hold_in_work()
    server.hup()
    assert eventually(lambda: server.state()["generation"] == 2)
    time.sleep(SETTLED)
    server.gate.touch()
    assert answer(caller)[0] == 200
    assert eventually(lambda: server.serves(2))
    grow(server, lambda: server.serves(3))


def test_they_are_not_replaced_by_others(start: Callable[..., ReloadServer]) -> None:
    server = start(memory=MEMORY)
    server.gate.with_suffix(".models").write_text("another")
    grow(server, server.failed)
    state = server.state()
    assert state["generation"] == 1
    assert "models or plans have changed on disk" in state["reload"]["error"]["message"]
    assert server.text() == "one"


def test_memory_without_room_for_new_workers(start: Callable[..., ReloadServer]) -> None:
    server = start(memory=150 << 20)
    grow(server, lambda: "too little to replace them" in server.errors())
    assert server.state()["generation"] == 1


def test_the_first_generation_warms_while_it_serves_and_later_ones_before(
    start: Callable[..., ReloadServer],
) -> None:
    server = start("cold")  # is ready although the file that ends its warm-up is not there
    warm, warming = server.gate.with_suffix(".warm"), server.gate.with_suffix(".warming")
    assert eventually(warming.exists)
    assert server.text() == "cold"
    warm.touch()
    server.name("two")
    server.hup()
    assert eventually(lambda: server.serves(2))
    warm.unlink()
    warming.unlink()
    server.name("cold")
    server.hup()
    assert eventually(warming.exists)
    assert (server.text(), server.state()["generation"]) == ("two", 2)
    warm.touch()
    assert eventually(lambda: server.serves(3))
    assert server.text() == "cold"


def test_a_server_that_warms_up_ends_at_once(start: Callable[..., ReloadServer]) -> None:
    server = start("cold")
    assert eventually(server.gate.with_suffix(".warming").exists)
    server.process.terminate()
    assert server.process.wait(STOP_TIME) == 0


def test_old_workers_finish_their_requests(start: Callable[..., ReloadServer]) -> None:
    server = start(threads=1, queue=1)
    held = server.hold_in_work()
    server.name("two")
    server.hup()
    assert eventually(lambda: server.state()["generation"] == 2)
    assert server.state()["reload"]["state"] == "finishing"
    assert server.text() == "two"
    server.gate.with_suffix(".reached").unlink()
    waiting = server.hold_in_work()  # the last permit: they count across generations
    assert eventually(lambda: server.post().status_code == 429)
    server.gate.touch()
    status, body, response = answer(held)
    assert (status, body[0]["data"].split()[0]) == (200, "one")
    assert response.headers["Connection"] == "close" or response.isclosed()
    assert answer(waiting)[1][0]["data"].split()[0] == "two"
    assert eventually(lambda: server.serves(2))
    assert len(server.workers()) == 1


def test_a_generation_that_fails_to_load_leaves_the_old_one_serving(
    start: Callable[..., ReloadServer],
) -> None:
    server = start(workers=2)
    old = set(server.workers())
    for name, reason in (
        ("broken", "broken: there is no such model; run: bash scripts/fetch_models.sh"),
        ("bug", "a pipeline does not load: ZeroDivisionError: oops"),
        ("crash", "a worker ended while loading"),
        (None, "not valid YAML"),
    ):
        if name is None:
            server.yaml.write_text("a: [")
        else:
            server.name(name)
        server.hup()
        assert eventually(lambda: reason in str(server.state()["reload"]["error"]))  # noqa: B023
        assert reason in server.errors()
        assert server.text() == "one"
        assert eventually(lambda: set(server.workers()) == old)
    server.name("two")
    server.hup()
    assert eventually(lambda: server.serves(2))
    assert server.state()["reload"]["error"] is None
    assert server.text() == "two"


def test_signals_during_a_reload_make_one_more_reload(start: Callable[..., ReloadServer]) -> None:
    server = start(workers=2)
    server.name("slow")
    server.hup()
    assert eventually(lambda: server.state()["reload"]["state"] == "loading")
    assert server.text() == "one"
    for _ in range(3):
        server.hup()
    assert eventually(lambda: server.errors().count("reload requested") == 4 or coalesced(server))
    assert eventually(lambda: len(server.workers()) == 4)
    server.name("two")
    server.gate.touch()
    assert eventually(lambda: server.serves(3))
    assert server.text() == "two"
    assert server.errors().count('"message": "loading"') == 2


def coalesced(server: ReloadServer) -> bool:
    """Pending signals of a kind are merged by the kernel, so several may arrive as fewer."""
    return server.errors().count("reload requested") >= 2


def test_a_signal_that_reaches_a_starting_worker_does_not_end_it(
    start: Callable[..., ReloadServer],
) -> None:
    server = start(workers=3)
    begun = time.monotonic()

    def enough() -> bool:
        server.hup()
        reloads = server.errors().count('"message": "loading"')
        return reloads > 2 and time.monotonic() > begun + 2 * SECONDS

    assert eventually(enough)
    assert "killed by SIGHUP" not in server.errors()


def test_sigterm_during_a_reload_ends_every_worker(start: Callable[..., ReloadServer]) -> None:
    server = start()
    server.name("slow")
    server.hup()
    assert eventually(lambda: len(server.workers()) == 2)
    workers = server.workers()
    server.process.terminate()
    assert server.process.wait(STOP_TIME) == 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_a_dead_worker_is_replaced_by_one_of_the_same_yaml(
    start: Callable[..., ReloadServer],
) -> None:
    server = start()
    server.name("two")
    [worker] = server.workers()
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: len(server.workers()) == 1 and server.workers() != [worker])
    assert eventually(lambda: server.post().status_code == 200)
    assert server.text() == "one"


def test_a_dead_worker_is_not_replaced_by_one_of_other_models(
    start: Callable[..., ReloadServer],
) -> None:
    server = start(workers=2)
    server.gate.with_suffix(".models").write_text("another plan")
    old = server.workers()
    os.kill(old[0], signal.SIGKILL)
    assert eventually(server.failed)
    assert "have changed on disk" in server.state()["reload"]["error"]["message"]
    assert server.text() == "one"
    server.hup()
    assert eventually(lambda: server.serves(2))
    assert old[1] not in server.workers()


def connection_header(caller: socket.socket) -> str | None:
    """An answer's Connection header; the connection stays open here."""
    with http.client.HTTPResponse(caller) as response:
        response.begin()
        response.read()
        return response.getheader("Connection")


def test_a_new_generation_accepts_no_connection_before_it_is_ready(
    start: Callable[..., ReloadServer],
) -> None:
    server = start()
    server.name("slow")
    server.hup()
    assert eventually(lambda: len(server.workers()) == 2)
    callers = [server.connect() for _ in range(20)]
    for caller in callers:
        caller.sendall(b"GET /ocr/v1 HTTP/1.1\r\nHost: x\r\n\r\n")
    kept = callers.pop()
    assert [answer(caller)[1]["generation"] for caller in callers] == [1] * 19
    assert connection_header(kept) == "keep-alive"
    server.gate.touch()
    assert eventually(lambda: server.state()["generation"] == 2)
    kept.sendall(b"GET /ocr/v1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection_header(kept) == "close"
    kept.close()


def test_a_reload_reads_the_keys_too(start: Callable[..., ReloadServer], tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    (old, line), (new, other) = new_key("alice"), new_key("bob")
    file.write_text(line + "\n")
    server = start(api_keys_file=str(file))

    def status(key: str) -> int:
        return server.post(headers={"X-API-Key": key, "Content-Type": "image/png"}).status_code

    assert server.post(data=b"x" * 90_000).status_code == 401  # drained, so no reset
    assert (status(old), status(new)) == (200, 401)
    file.write_text("alice\n")
    server.hup()
    assert eventually(lambda: "line 1: not NAME:SHA256" in server.errors())
    assert status(old) == 200
    file.write_text(other + "\n")
    server.hup()
    assert eventually(lambda: status(new) == 200)
    assert eventually(lambda: status(old) == 401)
    assert '"key": "alice"' in server.errors()
    assert old not in server.errors()


def test_a_reload_keeps_the_number_of_workers_and_says_so(
    start: Callable[..., ReloadServer], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    server = start(workers=2, models=str(models))
    deploy(tmp_path / "models", load_config(server.yaml), usable_cores(), "cpu", 4)
    server.hup()
    assert eventually(lambda: server.serves(2))
    assert "the plans recommend 4 worker processes now, and 1 before" in server.errors()
    assert len(server.workers()) == 2


def test_a_malformed_keys_file_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("alice:secret\n")
    server = ReloadServer(tmp_path, api_keys_file=str(file))
    assert server.process.wait(STOP_TIME) == 1
    [line] = server.errors().splitlines()
    assert line.startswith(f"error: {file}, line 1: not NAME:SHA256")
    assert "secret" not in line
    server.end()


def test_all_addresses_need_keys_or_the_flag(start: Callable[..., ReloadServer]) -> None:
    open_to_all = start(host="0.0.0.0", allow_anonymous=True)
    assert "without API keys" in open_to_all.errors()
    assert "without API keys" not in start(host="127.0.0.2").errors()


def test_all_addresses_without_keys_are_refused(tmp_path: Path) -> None:
    server = ReloadServer(tmp_path, host="0.0.0.0")
    assert server.process.wait(STOP_TIME) == 1
    [line] = server.errors().splitlines()
    assert line.startswith("error: --host 0.0.0.0 without API keys") and "--allow-anonymous" in line
    server.end()


def test_a_crash_beside_an_old_worker_that_finishes_leaves_one_that_answers(
    start: Callable[..., ReloadServer],
) -> None:
    """The old worker accepts no more, so the replacement accepts although it is not warm."""
    server = start()
    [old] = server.workers()
    held = server.hold_in_work()
    warm, warming = server.gate.with_suffix(".warm"), server.gate.with_suffix(".warming")
    warm.touch()
    server.name("cold")
    server.hup()
    assert eventually(lambda: server.state()["generation"] == 2)
    warm.unlink()
    warming.unlink()
    for worker in server.workers():
        if worker != old:
            os.kill(worker, signal.SIGKILL)
    assert eventually(warming.exists)
    assert old in server.workers()
    assert server.text() == "cold"
    server.gate.touch()
    assert answer(held)[0] == 200


def test_jobs_are_read_by_the_workers_that_serve(
    start: Callable[..., ReloadServer], tmp_path: Path
) -> None:
    server = start(threads=2, spool=str(tmp_path / "spool"), max_spool=64 << 20)
    held = server.hold_in_work()  # so that the old worker lives on
    server.gate.with_suffix(".reached").unlink()
    begun = job_id(submit(server, document("black", HELD, "black")))
    assert eventually(server.gate.with_suffix(".reached").exists)
    server.name("two")
    server.hup()
    assert eventually(lambda: server.state()["generation"] == 2)
    later = [job_id(submit(server, picture())) for _ in range(6)]
    assert [models(server, job) for job in later] == [["two"]] * 6
    server.gate.touch()
    assert models(server, begun) == ["one", "one", "two"]
    assert answer(held)[0] == 200


def models(server: Server, job: str) -> list[str]:
    """What read each page of a job."""
    return [text.split()[0] for text in texts(ended(server, job))]
