"""GET / and its files, and the pictures that it asks for, without a browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from http_fake import Client, FakeReader, picture
from PIL import Image

from serving.http.app import App, create_app
from serving.http.settings import Settings

FILES = Path(__file__).resolve().parents[2] / "serving" / "http" / "page"
URL = "/ocr/v1/accurate"


@pytest.fixture
def app() -> Iterator[App]:
    app = create_app(Settings(pipelines={"accurate": Path()}))
    yield app
    app.service.close()


@pytest.fixture
def client(app: App) -> FlaskClient:
    return Client(app)


@pytest.fixture
def ready(app: App, client: FlaskClient) -> FlaskClient:
    app.service.registry.open(lambda name: FakeReader())
    return client


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page/base.css", "text/css"),
        ("/page/main.js", "text/javascript"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/page/example.jpg", "image/jpeg"),
    ],
)
def test_the_page_is_guarded_and_revalidated(client: FlaskClient, path: str, kind: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.mimetype) == (200, kind)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "camera=()" in response.headers["Permissions-Policy"]
    assert "no-cache" in response.headers["Cache-Control"]
    again = client.get(path, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/..%2fapp.py", "/page/../app.py"])
def test_nothing_else_is_given_out(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "not_found")


def test_every_answer_forbids_sniffing(client: FlaskClient) -> None:
    for path in ("/health/live", "/nowhere", "/ocr/v1"):
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_names_no_host_and_sets_no_markup() -> None:
    """Addresses are relative, so that a proxy may add a prefix; text is only ever text."""
    for file in FILES.iterdir():
        if file.suffix in (".html", ".css", ".js"):
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|outerHTML|eval\(", text)
            assert not re.search(r"""(?:href|src)="/""", text)


def test_pictures_of_a_document_that_browsers_do_not_draw(ready: FlaskClient) -> None:
    answer = ready.post(
        f"{URL}?format=pages&pictures=true", data=picture(60, 30, "red", "TIFF", pages=2)
    ).get_json()
    assert len(answer["pages"]) == 2
    for page in answer["pages"]:
        shown = Image.open(io.BytesIO(base64.b64decode(page["picture"])))
        assert (shown.format, shown.size) == ("JPEG", (60, 30))
        red, green, _ = shown.convert("RGB").getpixel((30, 15))  # type: ignore[misc]
        assert red > 240 > 20 > green


def test_a_large_picture_comes_smaller(ready: FlaskClient) -> None:
    [page] = ready.post(f"{URL}?format=pages&pictures=true", data=picture(3000, 1500)).get_json()[
        "pages"
    ]
    assert (page["width"], page["height"]) == (3000, 1500)
    assert Image.open(io.BytesIO(base64.b64decode(page["picture"]))).size == (2000, 1000)


def test_pictures_only_when_asked_for_and_only_in_pages(ready: FlaskClient) -> None:
    [page] = ready.post(f"{URL}?format=pages", data=picture()).get_json()["pages"]
    assert "picture" not in page
    refused = ready.post(f"{URL}?pictures=true", data=picture())
    assert refused.status_code == 400
    assert "format=pages" in refused.get_json()["error"]["message"]
