"""`ocr-hpi swap` beside a real server: what is worse or does not load changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pytest
import requests
import yaml
from click.testing import CliRunner, Result
from http_server import real_server
from plans import deploy_like_default
from worse_model import worse_recogniser

from benchmarks import corpus
from serving.cli import main, swap
from serving.config import load_config
from serving.disk import sidecar, write_sidecar
from serving.models.pipeline_models import pipeline_models
from serving.plan.graphs import Graphs


class Served(NamedTuple):
    folder: Path
    """With served.yaml, good.yaml, worse.yaml, and rec_gt.txt with its crops."""
    models: Path
    url: str

    def swap(self, new: str, *options: str, name: str = "accurate") -> Result:
        settings = {
            "--pipeline": f"accurate={self.folder / 'served.yaml'}",
            "--pidfile": f"{self.folder / 'pid'}",
            "--url": self.url,
            "--models": f"{self.models}",
        }
        told = [word for pair in settings.items() for word in pair]
        return CliRunner().invoke(main, ["swap", f"{name}={self.folder / new}", *told, *options])

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = requests.get(f"{self.url}/ocr/v1", timeout=30).json()
        return state

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.glob("served.yaml*")}

    def first_line(self, page: Path) -> str:
        with page.open("rb") as file:
            answer = requests.post(
                f"{self.url}/ocr/v1/accurate?format=text", files={"image": file}, timeout=60
            )
        return answer.text.splitlines()[0]


@pytest.fixture(scope="module")
def served(built: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("swap")
    original = (repo / "configs/PP-OCRv4_mobile.yaml").read_text()
    (folder / "served.yaml").write_text(original)
    config = yaml.safe_load(original)
    config["SubModules"]["TextDetection"]["limit_side_len"] = 992  # which needs another plan
    (folder / "good.yaml").write_text(yaml.safe_dump(config))
    recogniser = worse_recogniser(built, folder / "worse", noise=0.8)
    config["SubModules"]["TextRecognition"]["model_dir"] = str(recogniser)
    (folder / "worse.yaml").write_text(yaml.safe_dump(config))
    rows = []
    for sample in islice((line for line in corpus.lines(seed=5, count=50) if line.lines), 40):
        cv2.imwrite(str(folder / f"{sample.name}.png"), sample.image)
        rows.append(f"{sample.name}.png\t{sample.lines[0].text}")
    (folder / "rec_gt.txt").write_text("\n".join(rows), encoding="utf-8")
    models = tmp_path_factory.mktemp("models")
    names = ("served.yaml", "good.yaml", "worse.yaml")
    deploy_like_default(models, built, *(load_config(folder / name) for name in names))
    options = ["--pipeline", f"accurate={folder / 'served.yaml'}", "--models", str(models)]
    with real_server(folder / "log", *options, "--pidfile", str(folder / "pid")) as (_, url):
        yield Served(folder, models, url)


def test_a_worse_recogniser_is_refused_a_good_one_serves_and_may_go_again(
    served: Served, repo: Path
) -> None:
    before = served.files()
    worse = served.swap("worse.yaml", "--data", str(served.folder), "--by", "0.3")
    assert worse.exit_code == 1
    assert "Error: nothing has changed: rec_accuracy is " in worse.stderr
    assert served.files() == before
    assert served.state()["generation"] == 1
    assert "Northgate" in served.first_line(repo / "docs/page.jpg")

    good = served.swap("good.yaml")
    assert good.exit_code == 0, good.output
    assert served.state()["generation"] == 2
    new = (served.folder / "good.yaml").read_text()
    assert served.files() == {"served.yaml": new, "served.yaml.previous": before["served.yaml"]}

    back = served.swap("served.yaml.previous")
    assert back.exit_code == 0, back.output
    assert served.state()["generation"] == 3
    assert served.files() == {"served.yaml": before["served.yaml"], "served.yaml.previous": new}


def test_what_the_server_cannot_load_changes_nothing(served: Served, repo: Path) -> None:
    found = pipeline_models(load_config(served.folder / "worse.yaml"), served.models)
    (worse,) = (part for part in found if part.section == "TextRecognition")
    graph = Graphs(served.models).find(worse.folder, worse.model)
    graph.write_bytes(b"no graph")
    write_sidecar(graph)  # as far as its hash tells, it is the one that was built
    before, generation = served.files(), served.state()["generation"]
    refused = served.swap("worse.yaml")
    for file in (graph, sidecar(graph)):  # the store that all tests share has it
        file.unlink()
    assert refused.exit_code == 1
    assert "Error: nothing has changed: the reload failed" in refused.stderr
    assert served.files() == before
    assert served.state()["generation"] == generation
    assert "Northgate" in served.first_line(repo / "docs/page.jpg")


def test_a_wrong_option_is_told_before_anything_is_done(served: Served, tmp_path: Path) -> None:
    other = tmp_path / "pid"
    other.write_text(str(os.getpid()))
    for options, message in (
        (["--pipeline", "accurate=x.yaml"], "x.yaml is not a file here"),
        (["--pipeline", f"accurate={served.folder / 'worse.yaml'}"], "another plan"),
        (["--pidfile", str(tmp_path / "absent")], "give the file that"),
        (["--pidfile", str(other)], "is not a server"),
        (["--url", "http://127.0.0.1:9"], "not a server of ocr-hpi"),
        (["--data", str(tmp_path)], "no labels"),
    ):
        result = served.swap("good.yaml", *options)
        assert result.exit_code in (1, 2)
        assert message in result.output.replace("\n", " ")
    assert "none of the name fast" in served.swap("good.yaml", name="fast").output
    assert "absent.yaml: no such file" in served.swap("absent.yaml").output


def test_an_error_that_ends_no_reload_ends_no_swap(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a worker of those that are replaced fails meanwhile."""
    seen = []
    answered = swap._state

    def with_error(url: str, api_key: str | None) -> dict[str, Any]:
        state = answered(url, api_key)
        if state["reload"]["state"] == "loading":
            seen.append(state)
            state["reload"]["error"] = {"time": "now", "message": "a worker cannot serve"}
        return state

    monkeypatch.setattr(swap, "_state", with_error)
    done = served.swap("good.yaml")
    assert done.exit_code == 0, done.output
    assert seen
