"""PaddleX's other pipelines through our server: docs/paddlex.md, as it is written there."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import yaml
from click.testing import CliRunner
from docs_text import commands
from http_server import eventually, real_server
from imaging_files import encoded
from paddlex_env import paddlex_python
from PIL import Image, ImageDraw

from benchmarks.corpus import Sample
from benchmarks.corpus.fonts import CHINESE, load_font
from serving.cli import main
from serving.errors import ModelError
from serving.models.store import Store

RESTAURANT = "北京市朝阳区餐饮管理有限公司"
BAKERY = "NORTHGATE BAKERY LIMITED"


def seal(text: str, *, size: int = 600, glyph: int = 56, arc: int = 240) -> bytes:
    """A round stamp as PNG: red on white, the text clockwise along `arc` degrees of its rim."""
    red, middle = (200, 20, 30), size / 2
    picture = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, size - 20, size - 20), outline=red, width=10)
    font, radius = load_font(CHINESE[0], glyph), middle - 36 - 0.75 * glyph
    for index, character in enumerate(text):
        angle = arc * (index / (len(text) - 1) - 0.5)
        stencil = Image.new("L", (2 * glyph, 2 * glyph))
        ImageDraw.Draw(stencil).text((glyph, glyph), character, font=font, fill=255, anchor="mm")
        x = middle + radius * math.sin(math.radians(angle)) - glyph
        y = middle - radius * math.cos(math.radians(angle)) - glyph
        picture.paste(red, (round(x), round(y)), stencil.rotate(-angle, Image.Resampling.BICUBIC))
    return encoded(picture, "PNG")


def table() -> bytes:
    """A ruled table as PNG, with a heading over two columns and one over two rows."""
    cells = [
        ((20, 20, 240, 140), "Region"),
        ((240, 20, 680, 80), "Sales"),
        ((240, 80, 460, 140), "2024"),
        ((460, 80, 680, 140), "2025"),
    ]
    for row, texts in enumerate((("North", "18", "21"), ("South", "7", "9"))):
        top = 140 + 60 * row
        lefts = (20, 240, 460)
        for left, text in zip(lefts, texts, strict=True):
            cells.append(((left, top, left + 220, top + 60), text))
    picture = Image.new("RGB", (700, 280), "white")
    pen, font = ImageDraw.Draw(picture), load_font(CHINESE[0], 28)
    for (left, top, right, bottom), text in cells:
        pen.rectangle((left, top, right, bottom), outline="black", width=2)
        middle = (left + right) / 2, (top + bottom) / 2
        pen.text(middle, text, font=font, fill="black", anchor="mm")
    return encoded(picture, "PNG")


TABLE = (
    '<html><body><table><tr><td rowspan="2">Region</td><td colspan="2">Sales</td></tr>'
    "<tr><td>2024</td><td>2025</td></tr><tr><td>North</td><td>18</td><td>21</td></tr>"
    "<tr><td>South</td><td>7</td><td>9</td></tr></table></body></html>"
)


@pytest.fixture(scope="module")
def page(repo: Path) -> str:
    return (repo / "docs" / "paddlex.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(repo: Path, page: str, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's YAML files, pictures, and the models that they need, which are fetched."""
    folder = tmp_path_factory.mktemp("paddlex")
    (folder / "models").symlink_to(built)
    (folder / "seal.png").write_bytes(seal(RESTAURANT))
    (folder / "table.png").write_bytes(table())
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for name, block in zip(("seal", "table"), blocks, strict=True):
        (folder / f"{name}.yaml").write_text(block, encoding="utf-8")
    for name in ("PP-OCRv4_mobile_seal_det", "SLANet_plus"):
        try:
            Store(built).fetch(name)
        except ModelError as error:
            pytest.fail(f"the tests need {name}: {error}")
    return folder


def command(repo: Path, page: str, part: str) -> list[str]:
    """The page's command, in the environment with PaddleX."""
    [line] = [line for line in commands(page) if part in line]
    program, *arguments = shlex.split(line)
    assert program in (".venv-paddlex/bin/ocr-hpi", "curl")
    own = [str(paddlex_python(repo).parent / "ocr-hpi")]
    return [*(["curl", "-sS"] if program == "curl" else own), *arguments]


class Served(NamedTuple):
    process: subprocess.Popen[str]
    url: str
    folder: Path

    def post(self, query: str, data: bytes = seal(BAKERY), name: str = "seal") -> requests.Response:
        headers = {"Content-Type": "image/png"}
        url = f"{self.url}/ocr/v1/{name}{query}"
        return requests.post(url, data=data, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def served(repo: Path, page: str, folder: Path) -> Iterator[Served]:
    for part in ("fetch", "build"):
        done = subprocess.run(command(repo, page, f"{part} seal.yaml"), cwd=folder)
        assert done.returncode == 0
    own = {**yaml.safe_load((folder / "seal.yaml").read_text())["SubPipelines"]["SealOCR"]}
    (folder / "text.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    _, *options = command(repo, page, "serve --pipeline")[1:]
    options = [option.replace("=", f"={folder}/") for option in options]
    options += ["--pipeline", f"text={folder / 'text.yaml'}", "--models", str(folder / "models")]
    log, python = folder / "log", paddlex_python(repo)
    with real_server(log, *options, "--threads", "2", python=python) as (process, url):
        yield Served(process, url, folder)


def texts(answer: dict[str, Any]) -> list[str]:
    [result] = answer["result"]["sealRecResults"]
    [region] = result["prunedResult"]["seal_res_list"]
    return list(region["rec_texts"])


def ask(repo: Path, page: str, served: Served, part: str) -> dict[str, Any]:
    """The answer to the page's request."""
    curl = [word.replace("http://127.0.0.1:8868", served.url) for word in command(repo, page, part)]
    done = subprocess.run(curl, cwd=served.folder, capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_table_of_the_page_is_read(repo: Path, page: str, served: Served) -> None:
    [result] = ask(repo, page, served, "@table.png")["result"]["tableRecResults"]
    [found] = result["prunedResult"]["table_res_list"]
    assert found["pred_html"] == TABLE
    assert len(found["cell_box_list"]) == 10


def test_a_model_that_openvino_cannot_load_runs_on_onnx_runtime(served: Served) -> None:
    listed = requests.get(f"{served.url}/ocr/v1", timeout=60).json()["pipelines"]
    [models] = [each["models"] for each in listed if each["name"] == "table"]
    structure = models["SubModules.TableStructureRecognition"]
    assert structure["model"] == "SLANet_plus"
    assert structure["engine"]["name"].startswith("onnxruntime float32 ")
    log = (served.folder / "log").read_text(encoding="utf-8")
    assert "SLANet_plus: onnxruntime float32" in log
    assert "OpenVINO cannot load" in log


def test_the_seal_of_the_page_is_read(repo: Path, page: str, served: Served) -> None:
    answer = ask(repo, page, served, "@seal.png")
    assert texts(answer) == [RESTAURANT]
    assert (answer["errorCode"], answer["errorMsg"]) == (0, "Success")
    assert answer["result"]["dataInfo"] == {"width": 600, "height": 600, "type": "image"}
    [result] = answer["result"]["sealRecResults"]
    assert result["prunedResult"]["model_settings"]["use_layout_detection"] is False
    assert not {"input_path", "page_index"} & result["prunedResult"]["seal_res_list"][0].keys()


def test_text_type_seal_of_an_ocr_pipeline(served: Served) -> None:
    [result] = served.post("?format=paddlex", name="text").json()["result"]["ocrResults"]
    assert result["prunedResult"]["text_type"] == "seal"
    assert result["prunedResult"]["rec_texts"] == [BAKERY]


def test_requests_at_the_same_time_are_not_mixed_up(served: Served) -> None:
    pictures = [seal(text) for text in (RESTAURANT, BAKERY)] * 3
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda data: served.post("?format=paddlex", data), pictures))
    assert [texts(answer.json()) for answer in answers] == [[RESTAURANT], [BAKERY]] * 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", r"/ocr/v1/seal\?format=paddlex"),
        ("?format=pages", r"/ocr/v1/seal\?format=paddlex"),
        ("?format=pdf", r"/ocr/v1/seal\?format=paddlex"),
        ("?format=paddlex&pdf_text=auto", "without pdf_text"),
        ("?format=paddlex&text_det_thresh=0.5", "text_det_thresh: PaddleX runs seal_recognition"),
    ],
)
def test_what_it_does_not_have_is_refused(served: Served, query: str, message: str) -> None:
    answer = served.post(query)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"])


def test_other_protocols_refuse_it(served: Served) -> None:
    answer = requests.post(f"{served.url}/ocr", json={"file": "eA=="}, timeout=60)
    assert answer.status_code == 400
    assert "format=paddlex" in answer.json()["errorMsg"]


def test_its_engines_and_its_metrics(served: Served) -> None:
    listed = requests.get(f"{served.url}/ocr/v1", timeout=60).json()["pipelines"][0]
    models = {part["model"]: part["engine"]["backend"] for part in listed["models"].values()}
    assert models.keys() == {"PP-OCRv4_mobile_seal_det", "PP-OCRv4_mobile_rec"}
    assert set(models.values()) <= {"openvino", "onnxruntime"}
    metrics = requests.get(f"{served.url}/metrics", timeout=60).text
    assert 'ocr_stage_seconds_count{pipeline="seal",stage="paddlex"}' in metrics


def test_its_log_is_json_too(served: Served) -> None:
    lines = (served.folder / "log").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line)["message"] for line in lines]
    assert any("PP-OCRv4_mobile_seal_det: runs on" in message for message in said)
    assert any(message.startswith("PP-OCRv4_mobile_rec runs on") for message in said)


def test_a_reload_swaps_it_for_plain_ocr_and_back(
    served: Served, repo: Path, sample_page: Sample
) -> None:
    path = served.folder / "seal.yaml"
    before = path.read_text(encoding="utf-8")

    def swap(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        url = f"{served.url}/ocr/v1"
        generation = requests.get(url, timeout=60).json()["generation"]
        served.process.send_signal(signal.SIGHUP)

        def is_new() -> bool:
            state = requests.get(url, timeout=60).json()
            assert state["reload"]["error"] is None
            return bool(state["generation"] == generation + 1)

        assert eventually(is_new)

    picture = encoded(Image.fromarray(sample_page.image[:, :, ::-1]), "PNG")
    default = "configs/PP-OCRv4_mobile.yaml"
    build = ["-m", "serving.cli", "build", "--models", str(served.folder / "models"), default]
    subprocess.run([str(paddlex_python(repo)), *build], cwd=repo, check=True)
    swap((repo / default).read_text(encoding="utf-8"))
    assert len(served.post("", picture).json()) > 5
    swap(before)
    assert texts(served.post("?format=paddlex").json()) == [BAKERY]


@pytest.mark.skipif("paddlex" in sys.modules, reason="PaddleX is here")
def test_without_paddlex_the_error_names_the_extra(folder: Path) -> None:
    for more in (["--check"], []):
        done = CliRunner().invoke(
            main, ["serve", "--pipeline", f"seal={folder / 'seal.yaml'}", *more]
        )
        assert done.exit_code == 1
        assert "seal_recognition, which needs the extra paddlex" in done.output
        assert ".venv-paddlex/bin/pip install '.[paddlex]'" in done.output


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("enable_hpi: False", [], "enable_hpi: False"),
        ("gate: strict", [], "gate: PaddleX, which runs this pipeline, does not have this key"),
        ("", ["--device", "gpu"], "only on the CPU, not on gpu"),
    ],
)
def test_what_is_not_obeyed_is_refused(
    folder: Path, tmp_path: Path, line: str, options: list[str], message: str
) -> None:
    path = tmp_path / "seal.yaml"
    path.write_text(f"{line}\n" + (folder / "seal.yaml").read_text(encoding="utf-8"))
    done = CliRunner().invoke(main, ["serve", "--check", "--pipeline", f"seal={path}", *options])
    assert done.exit_code == 1
    assert message in done.output


def test_build_has_nothing_to_measure(folder: Path) -> None:
    arguments = ["build", str(folder / "seal.yaml"), "--models", str(folder / "models")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "nothing to measure" in done.output
