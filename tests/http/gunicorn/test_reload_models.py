"""`kill -HUP` between two families of models: every answer is entirely from one of them.

OCR_HPI_SWAP_SECONDS=60 makes the test under load as long, with a HUP every five seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import requests
import yaml
from http_load import Load
from plans import deploy_like_default, warm_nothing

from serving.config import load_config
from serving.models.store import Store

SECONDS = float(os.environ.get("OCR_HPI_SWAP_SECONDS", "0"))
EVERY = 5.0 if SECONDS > 30 else 1.0
PATIENCE = 240.0
"""Seconds; models load slowly on a busy machine."""
FAMILIES = ("PP-OCRv4_mobile", "PP-OCRv6_tiny")
"""Different detectors, recognisers and dictionaries give different boxes, spaces and scores."""


@pytest.fixture(scope="module")
def yamls(repo: Path) -> list[Path]:
    return [repo / f"configs/{family}.yaml" for family in FAMILIES]


@pytest.fixture(scope="module")
def models(
    model_store: Store, built: Path, yamls: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The models and plans of both."""
    for kind in ("det", "rec"):
        model_store.fetch(f"{FAMILIES[1]}_{kind}")
    folder = tmp_path_factory.mktemp("models")
    first, second = map(load_config, yamls)
    deploy_like_default(folder, built, first, second)
    warm_nothing(folder, first)
    return folder


class Server:
    """`ocr-hpi serve` as a child."""

    def __init__(self, folder: Path, models: Path, text: str) -> None:
        self.yaml = folder / "pipeline.yaml"
        self.yaml.write_text(text)
        command = [sys.executable, "-m", "serving.cli", "serve", "--port", "0"]
        command += ["--models", str(models), "--pipeline", f"accurate={self.yaml}"]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), self.log.read_text()
        self.base = line.split()[1]
        self.url = self.base + "/ocr/v1/accurate"

    def swap(self, text: str) -> None:
        self.yaml.write_text(text)
        self.process.send_signal(signal.SIGHUP)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = requests.get(self.base + "/ocr/v1", timeout=PATIENCE).json()
        return state

    def becomes(self, condition: Callable[[dict[str, Any]], bool]) -> bool:
        end = time.monotonic() + PATIENCE
        while not condition(self.state()) and time.monotonic() < end:
            time.sleep(0.2)
        return condition(self.state())

    def lines(self, picture: bytes) -> tuple[str, ...]:
        response = requests.post(
            self.url, data=picture, headers={"Content-Type": "image/jpeg"}, timeout=PATIENCE
        )
        return tuple(str(line) for line in response.json())


@pytest.fixture(scope="module")
def server(
    models: Path, yamls: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """It begins with the first family."""
    server = Server(tmp_path_factory.mktemp("server"), models, yamls[0].read_text())
    yield server
    server.process.terminate()
    assert server.process.wait(PATIENCE) == 0
    assert server.process.stdout is not None
    server.process.stdout.close()


def serves(state: dict[str, Any], generation: int) -> bool:
    assert state["reload"]["error"] is None
    return bool(state["generation"] == generation)


def test_every_answer_is_entirely_from_one_family(
    server: Server, yamls: list[Path], repo: Path
) -> None:
    page = cv2.imread(str(repo / "docs/page.jpg"))
    picture = cv2.imencode(".jpg", page[:200])[1].tobytes()  # a few lines are enough
    generation, expected = 1, [server.lines(picture)]
    end = time.monotonic() + SECONDS
    with Load(server.url, picture, "image/jpeg", ((True, 0), (False, 0.1))) as load:
        while time.monotonic() < end or (len(set(load.seen)) < 2 and generation < 10):
            due = time.monotonic() + EVERY
            generation += 1
            server.swap(yamls[(generation - 1) % 2].read_text())
            assert server.becomes(lambda state: serves(state, generation))  # noqa: B023
            if len(expected) < 2:
                expected.append(server.lines(picture))
            time.sleep(max(0.0, due - time.monotonic()))
    assert not load.wrong
    assert expected[0] != expected[1]
    assert set(load.seen) == set(expected)


def test_a_yaml_without_a_plan_leaves_the_old_one_serving(
    server: Server, yamls: list[Path]
) -> None:
    before = server.state()["generation"]
    config = yaml.safe_load(yamls[0].read_text())
    config["SubModules"]["TextDetection"]["limit_side_len"] = 321
    server.swap(yaml.safe_dump(config))
    assert server.becomes(lambda state: state["reload"]["error"] is not None)
    assert "no engine plan" in server.state()["reload"]["error"]["message"]
    assert server.state()["generation"] == before
