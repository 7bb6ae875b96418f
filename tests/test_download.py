"""Images by URL: in order, within bytes and seconds."""

from __future__ import annotations

import socket
import time

import pytest
from http_pictures import HERE, PNG, Host, fetch

from serving.download import HostPattern, Url, UrlFetcher, read_url
from serving.errors import BadRequest, InputError, TimedOut, TooLarge, Unfetchable


def test_fetches_urls_in_order_among_sent_bytes(host: Host) -> None:
    sent = [Url(host.url("a.png")), b"sent", Url(host.url("to/" + host.url("b.png?x=1 2")))]
    assert host.fetcher().fetch(sent) == [PNG, b"sent", PNG]
    name = f"pictures.test:{host.port}"
    assert host.requests[0] == (name, "/a.png")
    assert host.requests[-1] == (name, "/b.png?x=1%202")


def test_a_proxy_of_the_environment_is_not_used(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(host.fetcher(), host.url("a.png")) == [PNG]


@pytest.mark.parametrize("path", ["large", "endless"])
def test_no_more_bytes_than_a_body_may_have(host: Host, path: str) -> None:
    with pytest.raises(TooLarge, match="60000 bytes"):
        fetch(host.fetcher(), host.url(path))
    with pytest.raises(TooLarge) as caught:  # the limit is for all together
        fetch(host.fetcher(max_bytes=len(PNG) + 1), host.url("a.png"), host.url("a.png"))
    assert caught.value.index == 1


@pytest.mark.parametrize("path", ["slow", "header"])
def test_no_longer_than_the_timeout(host: Host, path: str) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.4 s"):
        fetch(host.fetcher(seconds=0.4), host.url(path))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("path", ["slow", "header"])
def test_a_url_of_the_users_own_is_limited_too(
    host: Host, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", HERE)
    start = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.4 s"):
        read_url(host.url(path, HERE), max_bytes=60_000, seconds=0.4)
    assert time.monotonic() - start < 10
    for path, expected in (
        ("large", TooLarge),
        ("status/404", Unfetchable),
        ("short", Unfetchable),
    ):
        with pytest.raises(expected):
            read_url(host.url(path, HERE), max_bytes=60_000, seconds=20)
    assert read_url(host.url("to//a.png", HERE), max_bytes=60_000, seconds=20) == PNG


def test_a_long_url_is_refused_before_it_is_parsed(host: Host) -> None:
    """To parse one of 19 MB takes 15 seconds."""
    for fetcher in (host.fetcher(), UrlFetcher([], max_bytes=9, seconds=9)):
        with pytest.raises(BadRequest, match=r"8192 are allowed|fetches no URLs"):
            fetch(fetcher, host.url("%" * 19_000_000))


@pytest.mark.parametrize("path", ["slow", "header"])
def test_a_caller_who_hangs_up_ends_the_fetch(host: Host, path: str) -> None:
    class HungUp(Exception):
        pass

    def cancel() -> None:
        if host.requests:
            raise HungUp

    with pytest.raises(HungUp):
        fetch(host.fetcher(), host.url(path), cancel=cancel)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("status/404", "answers with 404"),
        ("status/500", "answers with 500"),
        ("status/302", "answers with 302"),
        ("short", "IncompleteRead"),
    ],
)
def test_the_error_says_why_there_is_no_image(host: Host, path: str, message: str) -> None:
    with pytest.raises(Unfetchable, match=message):
        fetch(host.fetcher(), host.url(path))


def test_redirects_are_limited(host: Host) -> None:
    path = "a.png"
    for _ in range(6):
        path = f"to/{host.url(path)}"
    with pytest.raises(Unfetchable, match="more than 5 redirects"):
        fetch(host.fetcher(), host.url(path))
    assert fetch(host.fetcher(), host.url(path.removeprefix(f"to/{host.url('')}"))) == [PNG]


def test_the_next_address_is_tried(host: Host) -> None:
    fetcher = host.fetcher(resolve=lambda *_: ["127.0.0.2", HERE], is_public=lambda _: True)
    assert fetch(fetcher, host.url("a.png")) == [PNG]  # the server listens on the second only


def test_a_refused_connection(host: Host) -> None:
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
        fetcher = UrlFetcher(
            [HostPattern("x.test", port=port)],
            max_bytes=10,
            seconds=10,
            resolve=lambda *_: [HERE],
            is_public=lambda _: True,
        )
        with pytest.raises(Unfetchable, match="cannot be fetched"):
            fetch(fetcher, f"http://x.test:{port}/")


def test_an_error_has_an_index_only_among_several(host: Host) -> None:
    with pytest.raises(InputError) as caught:
        fetch(host.fetcher(), host.url("status/404"))
    assert caught.value.index is None
