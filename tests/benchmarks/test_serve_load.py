"""The load test's own parts: the generator against a real (fake) server, and the figures."""

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

from benchmarks import serve_load, serve_report
from benchmarks.__main__ import main
from benchmarks.serve_phases import Closed, closed, opened, pages_a_second, together
from benchmarks.serve_run import Found
from benchmarks.serve_servers import Ours, PaddleX
from serving.errors import EngineError
from serving.plan.child import Child


def requests_in(folder: Path, count: int = 3) -> Path:
    """As many HTTP requests, as our server gets them."""
    folder.mkdir()
    for number in range(count):
        request = Ours.request(object.__new__(Ours), picture(40 + number))
        (folder / str(number)).write_bytes(request)
    return folder


@pytest.fixture
def generator(server: Server, tmp_path: Path) -> Any:
    words = [sys.executable, serve_load.__file__, "127.0.0.1", str(server.port)]
    with closing(Child("generator", [*words, str(requests_in(tmp_path / "r"))])) as child:
        yield child


def test_closed_calls_are_answered_and_timed(generator: Child) -> None:
    answer = generator.ask(clients=4, seconds=math.inf, most=30)
    assert len(answer["calls"]) == 30
    for due, sent, done, status in answer["calls"]:
        assert 0 <= due <= sent <= done <= answer["wall"]
        assert status == 200
    found = closed("ours", 4, math.inf, answer)
    assert found.pages_s > 0
    assert found.failed == 0
    assert found.median is not None
    assert found.p99 is not None
    assert found.median <= found.p99


def test_open_calls_go_out_when_due(generator: Child) -> None:
    answer = generator.ask(rate=100.0, seconds=0.5)
    assert sorted(call[0] for call in answer["calls"]) == pytest.approx(
        [n / 100 for n in range(50)]
    )
    assert {status for *_, status in answer["calls"]} <= {200, 429}


def test_refusals_and_those_without_answer_are_told_apart(start: Any, tmp_path: Path) -> None:
    server = start(threads=1, queue=0).wait_ready()
    folder = requests_in(tmp_path / "r")
    words = [sys.executable, serve_load.__file__, "127.0.0.1", str(server.port), str(folder)]
    with closing(Child("generator", words)) as generator, server.hold_in_work():
        answer = generator.ask(rate=50.0, seconds=0.2)
        assert {status for *_, status in answer["calls"]} == {429}
        server.gate.touch()
        assert server.end() == 0
        gone = generator.ask(clients=1, seconds=math.inf, most=2)
    assert [status for *_, status in gone["calls"]] == [0, 0]
    found = opened("ours", 50.0, 0.2, answer, [1, 2, 3])
    assert (found.accepted, found.refused, found.failed) == (0, 10, 0)
    assert found.refused_p99 is not None
    assert opened("ours", 1.0, 1.0, gone, [1]).failed == 2


def test_what_was_refused_goes_out_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that all pages are accepted equally often: some are far more work than others."""
    sent: list[bytes] = []

    class Caller:
        def __init__(self, address: object) -> None: ...

        def call(self, request: bytes) -> tuple[float, float, int]:
            sent.append(request)
            return 0.0, 0.0, 429 if len(sent) in (2, 3) else 200

        def close(self) -> None: ...

    monkeypatch.setattr(serve_load, "Caller", Caller)
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    load = serve_load.Load("x", 0, tmp_path)
    assert load.lap == 3
    load.open(rate=10, seconds=0.7)
    assert b"".join(sent) == b"abbbcab"


def test_a_child_that_dies_says_why(tmp_path: Path) -> None:
    child = Child("the reader", [sys.executable, "-c", "raise SystemExit('no such pipeline')"])
    with closing(child), pytest.raises(EngineError, match=r"reader ended .* no such pipeline"):
        child.ask(threads=1)
    with pytest.raises(EngineError, match=r"ours does not get ready: .*absent\.yaml"):
        Ours(tmp_path / "absent.yaml", tmp_path, Path(sys.executable))


def test_figures() -> None:
    # 20 pages/s after a first one that took long; what ends after the phase is not counted.
    assert pages_a_second([1 + n / 20 for n in range(21)], 2.0) == pytest.approx(20)
    assert pages_a_second([], 2.0) == 0
    assert pages_a_second([3.0, 4.0], 2.0) == 0.5
    # Laps of an easy and a hard page: a third easy one would make it look quicker than it is.
    assert pages_a_second([1, 4, 5, 8, 9], 9.5, 2) == pytest.approx(0.5)
    assert pages_a_second([1, 2, 5, 6], 9.5, 2) == pytest.approx(0.5)
    assert pages_a_second([1, 2, 5], 9.5, 7) == pytest.approx(0.5)
    calls = [[0.0, 0.1, 0.5, 200], [1.0, 1.1, 3.0, 200], [1.0, 1.5, 1.51, 429], [0, 0, 0, 0]]
    answer = {"calls": calls, "cpu": 0.2, "wall": 4.0, "lap": 1}
    found = opened("ours", 2.0, 2.0, answer, [100, 101, 102])
    assert (found.goodput, found.accepted, found.refused, found.failed) == (0.5, 2, 1, 1)
    assert found.refused_p99 == pytest.approx(10)
    assert found.accepted_p50 == pytest.approx(1250)
    assert found.generator_cores == pytest.approx(0.05)
    middle = together([Closed("ours", 4, 5.0, 1, 2, 3, 1), Closed("ours", 4, 7.0, 3, 4, 5)])
    assert (middle.pages_s, middle.median, middle.failed) == (6.0, 2.0, 1)


def test_report(tmp_path: Path) -> None:
    answer = {"calls": [[0.0, 0.1, 0.5, 200]], "cpu": 0.2, "wall": 4.0, "lap": 1}
    rows = [closed("ours", 4, 2.0, answer), Closed("load_pipeline", 2, 6.0)]
    found = Found(rows, opened("ours", 2.0, 2.0, answer, [1, 2, 3]), efficiency=0.95)
    assert all(len(serve_report.cells(row)) == len(serve_report.HEAD) for row in rows)
    serve_report.write(tmp_path / "new", found, {"machine": "here"})
    data = json.loads((tmp_path / "new" / "serve.json").read_text())
    assert data["closed"][1]["pages_s"] == 6.0
    text = (tmp_path / "new" / "serve.md").read_text()
    assert "95 %" in text
    assert "machine: here" in text


def test_paddlex_is_asked_in_its_own_form() -> None:
    head, _, body = PaddleX.request(object.__new__(PaddleX), b"image").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /ocr HTTP/1.1")
    assert json.loads(body) == {"file": "aW1hZ2U=", "fileType": 1, "visualize": False}


def test_wrong_counts_are_told() -> None:
    done = CliRunner().invoke(main, ["serve", "--clients", "1,zero"])
    assert done.exit_code == 2
    assert "1,4,32" in done.output


def test_a_short_run_on_real_engines(repo: Path, built: Path, tmp_path: Path) -> None:
    data = tmp_path / "pages"
    data.mkdir()
    (data / "page.jpg").write_bytes((repo / "docs/page.jpg").read_bytes())
    (data / "truth.json").write_text('[{"image": "page.jpg", "lines": []}]')
    short = ["--clients", "1,2", "--rounds", "1", "--phase", "1", "--seconds", "1"]
    words = [sys.executable, "-m", "benchmarks", "serve", "--models", built, "--data", data, *short]
    done = subprocess.run(
        [*map(str, words), "--report", str(tmp_path)], cwd=repo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "serve.json").read_text())
    by = {(row["who"], row["clients"]): row for row in found["closed"]}
    assert set(by) == {("ours", 1), ("ours", 2), *(("load_pipeline", n) for n in (1, 2, 4))}
    assert all(row["pages_s"] > 0 and row["failed"] == 0 for row in by.values())
    assert found["open"]["accepted"] > 0
    assert found["open"]["failed"] == 0
    assert len(found["open"]["memory"]) == 3
    assert min(found["open"]["memory"]) > 50
