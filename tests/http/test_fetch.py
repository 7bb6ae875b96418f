"""Pictures by URL: in order, within bytes and seconds, and what a request with them answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_fake import Client, FakeReader
from http_pictures import HERE, PNG, Host, fetch

from serving.errors import InputError, TimedOut, TooLarge, Unfetchable
from serving.http.app import App, create_app
from serving.http.fetch import Fetcher, HostPattern, Url
from serving.http.gunicorn.worker import warmup_image
from serving.http.registry import Registry
from serving.http.settings import Settings
from serving.http.turns import Gone


def test_fetches_in_order_beside_what_was_sent(host: Host) -> None:
    sent = [Url(host.url("a.png")), b"sent", Url(host.url("to/" + host.url("b.png?x=1 2")))]
    assert host.fetcher().fetch(sent, lambda: False) == [PNG, b"sent", PNG]
    name = f"pictures.test:{host.port}"
    assert host.asked[0] == (name, "/a.png")
    assert host.asked[-1] == (name, "/b.png?x=1%202")


def test_a_proxy_of_the_environment_is_not_asked(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(host.fetcher(), host.url("a.png")) == [PNG]


@pytest.mark.parametrize("path", ["large", "endless"])
def test_no_more_bytes_than_a_body_may_have(host: Host, path: str) -> None:
    with pytest.raises(TooLarge, match="60000 bytes"):
        fetch(host.fetcher(), host.url(path))
    with pytest.raises(TooLarge) as caught:  # all of them together
        fetch(host.fetcher(most=len(PNG) + 1), host.url("a.png"), host.url("a.png"))
    assert caught.value.index == 1


@pytest.mark.parametrize("path", ["slow", "header"])
def test_no_longer_than_the_timeout(host: Host, path: str) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.4 s"):
        fetch(host.fetcher(seconds=0.4), host.url(path))
    assert time.monotonic() - start < 10


def test_nobody_waits_for_it_any_more(host: Host) -> None:
    asked = host.asked
    with pytest.raises(Gone):
        fetch(host.fetcher(), host.url("slow"), gone=lambda: bool(asked))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("status/404", "answers with 404"),
        ("status/500", "answers with 500"),
        ("status/302", "answers with 302"),
        ("short", "stops 999 bytes before the end"),
    ],
)
def test_what_is_not_to_be_had_is_told(host: Host, path: str, words: str) -> None:
    with pytest.raises(Unfetchable, match=words):
        fetch(host.fetcher(), host.url(path))


def test_redirects_end(host: Host) -> None:
    path = "a.png"
    for _ in range(6):
        path = f"to/{host.url(path)}"
    with pytest.raises(Unfetchable, match="more than 5 redirects"):
        fetch(host.fetcher(), host.url(path))
    assert fetch(host.fetcher(), host.url(path.removeprefix(f"to/{host.url('')}"))) == [PNG]


def test_nobody_listens(host: Host) -> None:
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
        fetcher = Fetcher(
            [HostPattern("x.test", port=port)],
            most=10,
            seconds=10,
            resolve=lambda *_: [HERE],
            is_public=lambda _: True,
        )
        with pytest.raises(Unfetchable, match="cannot be fetched"):
            fetch(fetcher, f"http://x.test:{port}/")


@pytest.fixture
def app() -> Iterator[App]:
    pipelines = Registry(["accurate"])
    pipelines.open(FakeReader, warmup_image())
    app = create_app(Settings(pipelines={"accurate": Path()}), pipelines)
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


def test_fetching_holds_no_place(app: App, host: Host) -> None:
    app.service.fetcher = host.fetcher(seconds=1)
    taken: list[int] = []

    def resolve(*_: Any) -> list[str]:
        taken.append(app.service.places.taken)
        return [HERE]

    app.service.fetcher = host.fetcher(resolve=resolve)
    assert app.test_client().post("/ocr/v1/accurate", json={"image": host.url("a.png")})
    assert taken == [0]


def test_index_is_for_several_alone(host: Host) -> None:
    with pytest.raises(InputError) as caught:
        fetch(host.fetcher(), host.url("status/404"))
    assert caught.value.index is None
