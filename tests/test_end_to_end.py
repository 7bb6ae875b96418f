"""What the README tells a newcomer, for real: serve.sh, curl, Python, and what people upload."""

from __future__ import annotations

import concurrent.futures
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import requests

from benchmarks.corpus import Sample
from serving.scores import character_overlap

PATIENCE = 600.0
"""Seconds for a first start that installs; a second one takes under five."""


class Server:
    """`bash scripts/serve.sh` as a child; `url` once it said that it is ready."""

    def __init__(self, repo: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["bash", "scripts/serve.sh", "--port", str(port)]
        self.process = subprocess.Popen(
            command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()
        self.url = self.line.removeprefix("ready ")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def server(repo: Path, built: Path) -> Iterator[Server]:
    assert built.is_dir()
    server = Server(repo)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def picture(sample_page: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "page.jpg"
    cv2.imwrite(str(path), sample_page.image)
    return path


def f1(page: Sample, texts: list[str]) -> float:
    return character_overlap([line.text for line in page.lines], texts).f1


def test_one_curl_reads_the_page(server: Server, picture: Path, sample_page: Sample) -> None:
    assert server.line.startswith("ready http://127.0.0.1:")
    url = f"{server.url}/ocr/v1/accurate"
    answer = subprocess.run(
        ["curl", "-sS", "-F", f"image=@{picture}", url], capture_output=True, check=True
    )
    lines = json.loads(answer.stdout)
    assert f1(sample_page, [line["data"] for line in lines]) > 0.95
    assert set(lines[0]) >= {"data", "score", "box", "page", "image"}


def test_words_come_with_their_lines(server: Server, picture: Path) -> None:
    url = f"{server.url}/ocr/v1/accurate?return_word_box=true"
    answer = requests.post(url, files={"image": picture.read_bytes()}, timeout=60)
    lines = [line for line in answer.json() if line["data"].strip()]
    assert lines
    for line in lines:
        words = "".join(word["data"] for word in line["words"])
        assert "".join(words.split()) == "".join(line["data"].split())
        assert all(len(word["box"]) == 4 for word in line["words"])


def test_a_second_start_makes_nothing_anew(server: Server, repo: Path, picture: Path) -> None:
    kept = {p: p.stat().st_mtime_ns for p in (repo / "models").rglob("*") if p.suffix == ".onnx"}
    again = Server(repo)
    try:
        with picture.open("rb") as file:
            answer = requests.post(
                f"{again.url}/ocr/v1/accurate", files={"image": file}, timeout=60
            )
        assert answer.status_code == 200
    finally:
        assert again.stop() == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_sixteen_at_once_read_the_same(server: Server, sample_page: Sample) -> None:
    """The head of a page: sixteen whole ones may take longer than a request is allowed."""
    data = cv2.imencode(".png", sample_page.image[:400])[1].tobytes()

    def post(_: int) -> tuple[int, object]:
        answer = requests.post(f"{server.url}/ocr/v1/accurate", files={"image": data}, timeout=120)
        return answer.status_code, answer.json()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(16)))
    assert {status for status, _ in answers} == {200}
    assert answers[0][1]
    assert all(lines == answers[0][1] for _, lines in answers)


def test_whatever_people_upload_is_answered(
    server: Server, shared_data: Path, picture: Path, sample_page: Sample
) -> None:
    """Every odd file gets 200 or a 4xx, and a good request sent meanwhile is answered."""
    url = f"{server.url}/ocr/v1/accurate"
    odd = sorted((shared_data / "odd").iterdir()) + sorted((shared_data / "pdf").iterdir())

    def post(path: Path) -> int:
        return requests.post(url, files={"image": path.read_bytes()}, timeout=120).status_code

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        codes = pool.map(post, [path for path in odd if path.is_file()])
        good = requests.post(url, files={"image": picture.read_bytes()}, timeout=120)
        statuses = list(codes)
    assert f1(sample_page, [line["data"] for line in good.json()]) > 0.95
    assert set(statuses) <= {200, 400, 413, 415, 422}
    assert statuses.count(200) > 30
    assert requests.get(f"{server.url}/health/ready", timeout=10).status_code == 200
