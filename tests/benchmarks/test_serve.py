"""The load test: its generator against our HTTP server with a fake pipeline, and its figures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from http_fake import picture
from http_server import Server

from benchmarks import load_generator
from benchmarks.__main__ import main
from benchmarks.load_generator import LoadGenerator
from benchmarks.report import load_tables, write_load_test
from benchmarks.serve import (
    ClosedLoop,
    LoadResult,
    closed_loop,
    medians,
    open_loop,
    pages_per_second,
)
from benchmarks.servers import OurServer, PaddleXServer
from serving.child import ChildProcess


def requests_in(folder: Path, count: int = 3) -> Path:
    """A folder of so many HTTP requests to our server."""
    folder.mkdir()
    for number in range(count):
        request = OurServer.request(picture(40 + number))
        (folder / str(number)).write_bytes(request)
    return folder


@pytest.fixture
def generator(server: Server, tmp_path: Path) -> Any:
    """A load generator in its own process, for the fake server."""
    command = [sys.executable, load_generator.__file__, "127.0.0.1", str(server.port)]
    with closing(ChildProcess("generator", [*command, str(requests_in(tmp_path / "r"))])) as child:
        yield child


def test_closed_loop_calls_are_answered_and_timed(generator: ChildProcess) -> None:
    answer = generator.request(clients=4, seconds=math.inf, max_calls=30)
    assert len(answer["calls"]) == 30
    for due, sent, done, status in answer["calls"]:
        assert 0 <= due <= sent <= done <= answer["wall"]
        assert status == 200
    found = closed_loop("ours", 4, math.inf, answer)
    assert found.pages_per_second > 0
    assert found.failed == 0
    assert found.p50 is not None
    assert found.p99 is not None
    assert found.p50 <= found.p99


def test_open_loop_calls_are_sent_when_due(generator: ChildProcess) -> None:
    answer = generator.request(rate=100.0, seconds=0.5)
    assert sorted(call[0] for call in answer["calls"]) == pytest.approx(
        [n / 100 for n in range(50)]
    )
    assert {status for *_, status in answer["calls"]} <= {200, 429}


def test_refused_and_unanswered_calls_are_counted_apart(start: Any, tmp_path: Path) -> None:
    server = start(threads=1, queue=0).wait_ready()
    folder = requests_in(tmp_path / "r")
    command = [sys.executable, load_generator.__file__, "127.0.0.1", str(server.port), str(folder)]
    with closing(ChildProcess("generator", command)) as generator, server.hold_in_work():
        answer = generator.request(rate=50.0, seconds=0.2)
        assert {status for *_, status in answer["calls"]} == {429}
        server.gate.touch()
        assert server.end() == 0
        gone = generator.request(clients=1, seconds=math.inf, max_calls=2)
    assert [status for *_, status in gone["calls"]] == [0, 0]
    found = open_loop("ours", 50.0, 0.2, answer, [1, 2, 3])
    assert (found.accepted, found.refused, found.failed) == (0, 10, 0)
    assert found.refused_p99 is not None
    assert open_loop("ours", 1.0, 1.0, gone, [1]).failed == 2


def test_refused_requests_are_sent_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that all pages are accepted equally often: some are far more work than others."""
    sent: list[bytes] = []

    class Client:
        def __init__(self, address: object) -> None: ...

        def call(self, request: bytes) -> tuple[float, float, int]:
            sent.append(request)
            return 0.0, 0.0, 429 if len(sent) in (2, 3) else 200

        def close(self) -> None: ...

    monkeypatch.setattr(load_generator, "Client", Client)
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    load = LoadGenerator("x", 0, tmp_path)
    assert load.files == 3
    load.open_loop(rate=10, seconds=0.7)
    assert b"".join(sent) == b"abbbcab"


def test_figures() -> None:
    # 20 pages/s after a first one that took long; what ends after those seconds is not counted.
    assert pages_per_second([1 + n / 20 for n in range(21)], 2.0) == pytest.approx(20)
    assert pages_per_second([], 2.0) == 0
    assert pages_per_second([3.0, 4.0], 2.0) == 0.5
    # Rounds of an easy and a hard page: a third easy one would make it look faster than it is.
    assert pages_per_second([1, 4, 5, 8, 9], 9.5, 2) == pytest.approx(0.5)
    assert pages_per_second([1, 2, 5, 6], 9.5, 2) == pytest.approx(0.5)
    assert pages_per_second([1, 2, 5], 9.5, 7) == pytest.approx(0.5)
    calls = [[0.0, 0.1, 0.5, 200], [1.0, 1.1, 3.0, 200], [1.0, 1.5, 1.51, 429], [0, 0, 0, 0]]
    answer = {"calls": calls, "cpu": 0.2, "wall": 4.0, "files": 1}
    found = open_loop("ours", 2.0, 2.0, answer, [100, 101, 102])
    assert (found.goodput, found.accepted, found.refused, found.failed) == (0.5, 2, 1, 1)
    assert found.refused_p99 == pytest.approx(10)
    assert found.accepted_p50 == pytest.approx(1250)
    assert found.answered == pytest.approx(2 / 3)
    assert found.generator_cores == pytest.approx(0.05)
    both = medians([ClosedLoop("ours", 4, 5.0, 1, 2, 3, 1), ClosedLoop("ours", 4, 7.0, 3, 4, 5)])
    assert (both.pages_per_second, both.p50, both.failed) == (6.0, 2.0, 1)


def test_report(tmp_path: Path) -> None:
    answer = {"calls": [[0.0, 0.1, 0.5, 200]], "cpu": 0.2, "wall": 4.0, "files": 1}
    rows = [closed_loop("ours", 4, 2.0, answer), ClosedLoop("load_pipeline", 2, 6.0)]
    result = LoadResult(rows, open_loop("ours", 2.0, 2.0, answer, [1, 2, 3]), 0.95, 84.5)
    assert result.goodput_share == pytest.approx(0.25)
    for table in load_tables(result):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    write_load_test(tmp_path / "new", result, {"machine": "here"})
    data = json.loads((tmp_path / "new" / "serve.json").read_text())
    assert data["closed"][1]["pages_per_second"] == 6.0
    text = (tmp_path / "new" / "serve.md").read_text()
    assert "95 %" in text
    assert data["word_f1"] == 84.5
    assert "84.50" in text
    assert "machine: here" in text


def test_paddlex_gets_its_own_json() -> None:
    head, _, body = PaddleXServer.request(b"image").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /ocr HTTP/1.1")
    assert json.loads(body) == {"file": "aW1hZ2U=", "fileType": 1, "visualize": False}


def test_clients_are_numbers() -> None:
    done = CliRunner().invoke(main, ["serve", "--clients", "1,zero"])
    assert done.exit_code == 2
    assert "1,4,32" in done.output


def test_a_short_run_on_real_engines(repo: Path, unwarmed: Path, tmp_path: Path) -> None:
    data = tmp_path / "pages"
    data.mkdir()
    (data / "page.jpg").write_bytes((repo / "docs/page.jpg").read_bytes())
    truth = '[{"image": "page.jpg", "lines": [{"text": "The Northgate Bakery"}]}]'
    (data / "truth.json").write_text(truth)
    short = ["--in-flight", "1,2", "--rounds", "1", "--phase", "1", "--seconds", "1"]
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "serve",
        "--models",
        unwarmed,
        "--data",
        data,
        *short,
    ]
    done = subprocess.run(
        [*map(str, command), "--report", str(tmp_path)], cwd=repo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "serve.json").read_text())
    by = {(row["system"], row["clients"]): row for row in found["closed"]}
    assert set(by) == {("ours", 1), ("ours", 2), *(("load_pipeline", n) for n in (1, 2, 4))}
    assert all(row["pages_per_second"] > 0 and row["failed"] == 0 for row in by.values())
    assert 0 < found["word_f1"] < 50  # the truth has three of its many words
    assert found["open"]["accepted"] > 0
    assert found["open"]["failed"] == 0
    assert len(found["open"]["memory"]) == 3
    assert min(found["open"]["memory"]) > 50
