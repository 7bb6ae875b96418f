"""POST /ocr as PaddleX's basic serving has it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from http_fake import Client, FakeReader, picture
from http_server import real_server
from paddlex_env import run_there
from PIL import Image

from serving.config.options import Options
from serving.http.app import create_app
from serving.http.settings import Settings

READERS = {"first": FakeReader("first"), "second": FakeReader("second")}


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    app = create_app(Settings(pipelines=dict.fromkeys(READERS, Path())))
    app.service.registry.open(READERS.__getitem__)
    yield Client(app)
    app.service.close()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_example_clients_request(client: FlaskClient) -> None:
    response = client.post("/ocr", json={"file": coded(picture()), "fileType": 1})
    body = response.get_json()
    assert (body["errorCode"], body["errorMsg"]) == (0, "Success")
    assert body["logId"] == response.headers["X-Request-Id"]
    [result] = body["result"]["ocrResults"]
    assert result["prunedResult"]["rec_texts"] == ["first 40x20 字"]
    assert result["prunedResult"]["rec_boxes"] == [[1, 2, 40, 20]]
    assert "input_path" not in result["prunedResult"]
    assert body["result"]["dataInfo"] == {"width": 40, "height": 20, "type": "image"}
    for name in ("ocrImage", "inputImage"):
        assert Image.open(io.BytesIO(base64.b64decode(result[name]))).format == "JPEG"


def test_no_pictures_when_not_wanted(client: FlaskClient) -> None:
    asked = {"file": coded(picture()), "visualize": False, "logId": "mine"}
    body = client.post("/ocr", json=asked).get_json()
    assert set(body["result"]["ocrResults"][0]) == {"prunedResult"}
    assert body["logId"] == "mine"


def test_large_pictures_are_made_smaller(client: FlaskClient) -> None:
    body = client.post("/ocr", json={"file": coded(picture(3000, 30))}).get_json()
    [result] = body["result"]["ocrResults"]
    assert Image.open(io.BytesIO(base64.b64decode(result["inputImage"]))).size == (2000, 20)


@pytest.mark.parametrize(("kind", "name"), [("PDF", "pdf"), ("TIFF", "tiff")])
def test_documents(client: FlaskClient, kind: str, name: str) -> None:
    asked = {"file": coded(picture(pages=2, kind=kind)), "visualize": False}
    result = client.post("/ocr", json=asked).get_json()["result"]
    assert len(result["ocrResults"]) == 2
    assert (result["dataInfo"]["type"], result["dataInfo"]["numPages"]) == (name, 2)
    assert len(result["dataInfo"]["pages"]) == 2


def test_overrides(client: FlaskClient) -> None:
    asked = {
        "file": coded(picture()),
        "visualize": False,
        "useTextlineOrientation": True,
        "textDetLimitSideLen": 64,
        "textDetLimitType": "min",
        "textDetThresh": 0.1,
        "textDetBoxThresh": 0.2,
        "textDetUnclipRatio": 1.5,
        "textRecScoreThresh": 0.4,
        "returnWordBox": False,
        "useDocUnwarping": False,
    }
    assert client.post("/ocr", json=asked).status_code == 200
    assert READERS["first"].seen[-1] == Options(
        use_doc_unwarping=False,
        use_textline_orientation=True,
        text_det_limit_side_len=64,
        text_det_limit_type="min",
        text_det_thresh=0.1,
        text_det_box_thresh=0.2,
        text_det_unclip_ratio=1.5,
        text_rec_score_thresh=0.4,
        return_word_box=False,
    )


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 400),
        ({"file": "?"}, 400),
        ({"file": "http://127.0.0.1/x.png"}, 400),
        ({"file": coded(b"hello")}, 415),
        ({"file": coded(picture()), "fileType": 7}, 400),
        ({"file": coded(picture()), "textDetThresh": 7}, 400),
        ({"file": coded(picture()), "textDetLimitType": "both"}, 400),
        ({"file": coded(picture()), "useDocUnwarping": "bent"}, 400),
        ({"file": coded(picture()[:60])}, 422),
    ],
)
def test_errors_have_both_forms(client: FlaskClient, asked: dict[str, Any], status: int) -> None:
    response = client.post("/ocr", json=asked)
    body = response.get_json()
    assert response.status_code == body["errorCode"] == status
    assert body["errorMsg"] == body["error"]["message"]
    assert body["logId"] == body["error"]["request_id"]


def test_a_form_is_sent_to_the_address_that_takes_one(client: FlaskClient) -> None:
    form = {"image": (io.BytesIO(picture()), "page.png")}
    response = client.post("/ocr", data=form)
    assert response.status_code == 415
    assert "a form goes to /ocr/v1/NAME" in response.get_json()["errorMsg"]


def test_the_same_body_without_pictures_as_a_format(client: FlaskClient) -> None:
    body = client.post("/ocr/v1/second?format=paddlex", data=picture()).get_json()
    [result] = body["result"]["ocrResults"]
    assert set(result) == {"prunedResult"}
    assert result["prunedResult"]["rec_texts"] == ["second 40x20 字"]
    two = {"image": [(io.BytesIO(picture()), "a"), (io.BytesIO(picture()), "b")]}
    assert client.post("/ocr/v1/second?format=paddlex", data=two).status_code == 400


def test_health(client: FlaskClient) -> None:
    assert client.get("/health").get_json()["errorMsg"] == "Healthy"


def test_paddlexs_own_client_and_schema(repo: Path, unwarmed: Path, tmp_path: Path) -> None:
    """The client of its documentation, unchanged, in its own environment, on the real server."""
    files = [tmp_path / "page.jpg", tmp_path / "two.pdf", tmp_path / "two.tiff"]
    with Image.open(repo / "docs" / "page.jpg") as whole:
        page = whole.crop((0, 0, whole.width, 200))  # a few lines are enough
    page.save(files[0])
    for path in files[1:]:
        page.save(path, save_all=True, append_images=[page])
    with real_server(tmp_path / "log", "--models", str(unwarmed)) as (_, url):
        client = "tests/support/paddlex_client.py"
        done = run_there(repo, client, f"{url}/ocr", tmp_path, *files)
    assert done.returncode == 0, done.stderr[-4000:]
    read = [line for line in done.stdout.splitlines() if "Northgate" in line]
    assert len(read) == 5
    with Image.open(tmp_path / "page.jpg_0.jpg") as drawn:  # the page, and beside it the text
        assert drawn.size == (2 * page.width, page.height)
    assert len(list(tmp_path.glob("two.*_1.jpg"))) == 2
