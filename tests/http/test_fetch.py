"""What a request answers that names its images by URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_fake import Client, FakeReader
from http_pictures import HERE, Host

from serving.http.app import App, create_app
from serving.http.settings import Settings


@pytest.fixture
def app() -> Iterator[App]:
    app = create_app(Settings(pipelines={"accurate": Path()}))
    app.service.registry.open(FakeReader)
    app.test_client_class = Client
    yield app
    app.service.close()


def test_a_request_with_urls(app: App, host: Host) -> None:
    client = app.test_client()
    body = {"images": [host.url("a.png"), host.url("status/404")]}
    refused = client.post("/ocr/v1/accurate", json=body)
    assert refused.status_code == 400
    assert "--allow-url-hosts" in refused.get_json()["error"]["message"]

    app.service.fetcher = host.fetcher()
    answer = client.post("/ocr/v1/accurate", json={"image": host.url("a.png")})
    assert answer.get_json()[0]["data"] == "accurate 40x20 字"
    assert "fetch;dur=" in answer.headers["Server-Timing"]
    answer = client.post("/ocr", json={"file": host.url("a.png"), "visualize": False})
    pruned = answer.get_json()["result"]["ocrResults"][0]["prunedResult"]
    assert pruned["rec_texts"] == ["accurate 40x20 字"]

    answer = client.post("/ocr/v1/accurate", json=body)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["index"]) == (422, "unfetchable", 1)


def test_fetching_holds_the_requests_permit(app: App, host: Host) -> None:
    app.service.fetcher = host.fetcher(seconds=1)
    held: list[int] = []

    def resolve(*_: Any) -> list[str]:
        held.append(app.service.admission.held)
        return [HERE]

    app.service.fetcher = host.fetcher(resolve=resolve)
    assert app.test_client().post("/ocr/v1/accurate", json={"image": host.url("a.png")})
    assert held == [1]
