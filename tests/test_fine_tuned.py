"""docs/fine-tuned.md, walked through: its commands, on real models and a real server.

The model that was trained is PP-OCRv4's recogniser, exported as PaddleOCR 2 does, with a dictionary
of its own, in which every a is an ä. What the page builds has a made-up plan here, because
measuring takes minutes.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import pytest
import requests
from docs_text import commands
from http_server import PATIENCE, eventually, real_server
from plans import deploy_like_default, plan_like_default
from prometheus_client.parser import text_string_to_metric_families

from serving.config import load_config
from serving.config.model import RecognitionModel, load_model
from serving.errors import ConversionError
from serving.evaluate.figures import FIGURES, evaluate
from serving.evaluate.labels import read_labels
from serving.models.conversion import find_build_python
from serving.models.files import model_files

REC = "PP-OCRv4_mobile_rec"
YAML = Path("configs/PP-OCRv4_mobile.yaml")
LOADING = 8 * PATIENCE
"""Seconds; models load slowly on a busy machine."""


@pytest.fixture
def page(repo: Path) -> str:
    return (repo / "docs/fine-tuned.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(repo: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the export, its dictionary and labelled pages in it."""
    model = load_model(built / REC, REC, "text_recognition")
    assert isinstance(model, RecognitionModel)
    if model_files(built / REC).paddle is not None:
        try:
            find_build_python(repo)
        except ConversionError as error:
            pytest.skip(str(error))
    for name in ("configs", ".venv"):
        (tmp_path / name).symlink_to(repo / name)
    (tmp_path / "models").mkdir()
    deploy_like_default(tmp_path / "models", built, load_config(repo / YAML))
    (tmp_path / "my_rec").mkdir()
    for file in (built / REC).glob("inference.*"):
        if file.suffix != ".yml":
            shutil.copy(file, tmp_path / "my_rec")
    keys = "".join(f"{key}\n" for key in model.characters[1:-1])
    (tmp_path / "my_dict.txt").write_text(keys.replace("\na\n", "\nä\n"), encoding="utf-8")
    (tmp_path / "labels").mkdir()
    image = cv2.imread(str(repo / "docs/page.jpg"))
    for number, top in enumerate((0, 300)):  # a few lines are enough
        cv2.imwrite(str(tmp_path / "labels" / f"{number}.jpg"), image[top : top + 200])
    label(tmp_path, [["The Northgate Bakery"], ["Total"]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def label(folder: Path, texts: list[list[str]]) -> None:
    truth = [
        {"image": f"{number % 2}.jpg", "lines": [{"text": text} for text in page]}
        for number, page in enumerate(texts)
    ]
    (folder / "labels" / "truth.json").write_text(json.dumps(truth), encoding="utf-8")


def run(command: str, code: int = 0) -> str:
    """Its output; of a failure what it says."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def shadow_figures(command: str, url: str) -> dict[str, float]:
    """What the page's curl shows, as "pages read" or "lines yes"."""
    text = run(command.replace("http://127.0.0.1:8868", url) + " || true")
    return {
        " ".join([sample.name[11:-6], *map(str, sorted(sample.labels.values())[1:])]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_from_an_export_to_a_swap_and_back(page: str, folder: Path, built: Path) -> None:
    adopt, sed, build, scored, copy, serve, metrics, swap, back = commands(page)
    told = run(adopt)
    (shown,) = (line for line in page.splitlines() if line.startswith("models/my_rec: "))
    assert told.startswith(shown)

    run(sed)
    assert build == "bash scripts/build_engines.sh my.yaml"
    config = load_config("my.yaml")
    assert config.sub_modules.recognition.model_dir == Path("models/my_rec")
    plan_like_default(folder / "models", built, load_config(YAML), config)
    assert "char_f1" in run(scored)
    assert "Northgate" in (folder / "report.html").read_text(encoding="utf-8")

    run(copy)
    plan_like_default(folder / "models", built, load_config(YAML), load_config("served.yaml"))
    *_, options = serve.partition("serve.sh ")
    every = shlex.split(options.replace("--shadow-share 0.2", "--shadow-share 1"))
    with real_server(folder / "log", *every) as (server, url):

        def post() -> list[list[str]]:
            pages = [
                requests.post(
                    f"{url}/ocr/v1/accurate",
                    data=(folder / "labels" / f"{number}.jpg").read_bytes(),
                    headers={"Content-Type": "image/jpeg"},
                    timeout=PATIENCE,
                ).json()
                for number in (0, 1)
            ]
            return [[line["data"] for line in lines] for lines in pages]

        def shadows(count: int) -> bool:
            return (folder / "log").read_text().count("shadow ready") == count

        assert eventually(lambda: shadows(1), LOADING)
        served = post()
        assert eventually(lambda: shadow_figures(metrics, url).get("pages read") == 2)
        figures = shadow_figures(metrics, url)

        # The served texts as labels: an offline evaluation of the same requests.
        label(folder, served)
        found = evaluate([Path("my.yaml")], read_labels(folder / "labels"), Path("models"))
        equal, length = found.counts[:, 0, FIGURES.index("ned")].sum(axis=0).tolist()
        lines = [text for texts in served for text in texts]
        changed = sum("a" in text for text in lines)
        assert 0 < changed < len(lines)
        assert figures == {
            "pages read": 2,
            "lines yes": len(lines) - changed,
            "lines no": changed,
            "edits": length - equal,
            "characters": length,
        }
        assert 0 < equal < length

        # HUP loads the shadow anew; as the same pipeline, it agrees.
        mine = Path("my.yaml").read_bytes()
        shutil.copy(YAML, "my.yaml")
        server.send_signal(signal.SIGHUP)
        assert eventually(lambda: shadows(2), LOADING)
        assert post() == served
        assert eventually(lambda: shadow_figures(metrics, url)["pages read"] == 4)
        again = shadow_figures(metrics, url)
        assert again["edits"] == figures["edits"]
        assert again["lines yes"] == figures["lines yes"] + len(lines)

        Path("my.yaml").write_bytes(mine)
        # With these as labels it is worse; with its own texts as labels, better.
        label(folder, 5 * served)
        assert "nothing has changed: char_f1" in run(f"{swap} --url {url}", code=1)
        assert post() == served
        label(folder, 5 * [[text.replace("a", "ä") for text in texts] for texts in served])
        assert "accurate now reads as my.yaml says" in run(f"{swap} --url {url}")
        assert [["a" in text for text in texts] for texts in post()] == [
            [False] * len(texts) for texts in served
        ]
        assert "served.yaml.previous" in run(f"{back} --url {url}")
        assert post() == served
    log = (folder / "log").read_text()
    assert not [text for text in lines if text in log]
