"""Pictures by URL: from allowed hosts and public addresses alone, within bytes and seconds."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from http_fake import Client, FakeReader, picture

from serving.errors import BadRequest, InputError, TimedOut, TooLarge, Unfetchable
from serving.http.app import App, create_app
from serving.http.fetch import Fetcher, resolve
from serving.http.registry import Registry
from serving.http.settings import Settings
from serving.http.turns import Gone
from serving.http.urls import HostPattern, Url, is_public
from serving.http.warmup import warmup_image

PNG = picture()
HERE = "127.0.0.1"
PRIVATE = "10.1.2.3"


class Pictures(BaseHTTPRequestHandler):
    """Answers as the path says."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str]]
    done: threading.Event

    def do_GET(self) -> None:
        self.asked.append((self.headers["Host"], self.path))
        kind, _, more = self.path[1:].partition("/")
        if kind == "to":
            self.answer(302, b"", Location=more)
        elif kind == "status":
            self.answer(int(more), b"no")
        elif kind == "large":
            self.answer(200, b"x" * 100_000)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            self.drip(b"x" * 50_000, 0.0)
        elif kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
        elif kind == "slow":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.drip(b"x", 0.02)
        elif kind == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            self.drip(b"x", 0.02)
        else:
            self.answer(200, PNG)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def drip(self, piece: bytes, pause: float) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            while not self.done.wait(pause):
                self.wfile.write(piece)
                self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are what is tested."""


class Host:
    """A server of pictures on this machine."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.done = threading.Event()
        handler = type("Handler", (Pictures,), {"asked": self.asked, "done": self.done})
        self._server = QuietServer((HERE, 0), handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str, host: str = "pictures.test") -> str:
        return f"http://{host}:{self.port}/{path}"

    def fetcher(self, **options: Any) -> Fetcher:
        """One that takes this server for a public one."""
        hosts = [HostPattern("pictures.test", port=self.port), HostPattern("inside.test")]
        hosts += [HostPattern("inside.test", port=self.port)]
        names = {"pictures.test": [HERE], "inside.test": [PRIVATE]}
        told: dict[str, Any] = {
            "most": 60_000,
            "seconds": 20,
            "resolve": lambda host, port: names[host],
            "is_public": lambda address: address == HERE,
        }
        return Fetcher(hosts, **{**told, **options})

    def close(self) -> None:
        self.done.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def fetch(fetcher: Fetcher, *urls: str, gone: Callable[[], bool] = lambda: False) -> list[bytes]:
    return fetcher.fetch([Url(url) for url in urls], gone)


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


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://elsewhere.test/a.png", "does not fetch from elsewhere.test"),
        ("http://pictures.test/a.png", "does not fetch from pictures.test"),
        ("http://inside.test:22/", "does not fetch from inside.test:22"),
        ("http://inside.test.evil.test/", "does not fetch from"),
        ("http://inside.test@evil.test/", "user name"),
        ("http://evil.test\\@inside.test/", "user name"),
        ("http://u:p@inside.test/", "user name"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("gopher://inside.test/", "scheme 'gopher'"),
        ("http://[::1/", "malformed"),
        ("http://inside.test:99999/", "malformed"),
        ("http://inside.test/", "private or reserved"),
        ("https://inside.test/", "private or reserved"),
    ],
)
def test_what_is_not_allowed_is_not_asked_for(host: Host, url: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        fetch(host.fetcher(), url)
    redirect = host.url("to/" + url)
    with pytest.raises(BadRequest, match=words):
        fetch(host.fetcher(), redirect)
    assert all(name == f"pictures.test:{host.port}" for name, _ in host.asked)


def test_loopback_is_refused_by_default(host: Host) -> None:
    fetcher = Fetcher([HostPattern("localhost", port=host.port)], most=1000, seconds=10)
    with pytest.raises(BadRequest, match="private or reserved"):
        fetch(fetcher, host.url("a.png", "localhost"))
    assert not host.asked


def test_one_private_address_among_public_ones_is_refused(host: Host) -> None:
    fetcher = host.fetcher(resolve=lambda *_: [HERE, PRIVATE])
    with pytest.raises(BadRequest, match="private or reserved"):
        fetch(fetcher, host.url("a.png"))


def test_a_name_is_resolved_once_so_that_it_cannot_change_its_mind(host: Host) -> None:
    answers = iter([[HERE], [PRIVATE]])
    fetcher = host.fetcher(resolve=lambda *_: next(answers))
    assert fetch(fetcher, host.url("a.png")) == [PNG]
    with pytest.raises(BadRequest, match="private or reserved"):  # the next URL is another matter
        fetch(fetcher, host.url("a.png"))


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


def test_tls_is_checked_against_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("pictures.test").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    host = Host(context)
    url = host.url("a.png").replace("http:", "https:")
    try:
        with pytest.raises(Unfetchable, match="SSLCertVerificationError"):
            fetch(host.fetcher(), url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert fetch(host.fetcher(), url) == [PNG]
        other = Fetcher(
            [HostPattern("other.test", port=host.port)],
            most=60_000,
            seconds=10,
            resolve=lambda *_: [HERE],
            is_public=lambda _: True,
        )
        with pytest.raises(Unfetchable, match="SSLCertVerificationError"):
            fetch(other, url.replace("pictures", "other"))
    finally:
        host.close()


@pytest.mark.parametrize(
    "addresses",
    [
        "127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1",
        "240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1",
        "::1 :: fe80::1 fe80::1%eth0 fc00::1 fec0::1 ff02::1 2001:db8::1",
        "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::7f00:1 64:ff9b::7f00:1 64:ff9b::a00:1",
        "2002:7f00:1::1 2001:0:7f00:1::1",
    ],
)
def test_addresses_that_are_not_public(addresses: str) -> None:
    assert not any(is_public(address) for address in addresses.split())


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


def test_odd_spellings_of_loopback_resolve_to_it() -> None:
    for spelling in ("2130706433", "0x7f.1", "127.1"):
        try:
            found = resolve(spelling, 80)
        except OSError:
            continue
        assert not any(is_public(address) for address in found)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Example.org", HostPattern("example.org")),
        ("*.example.org", HostPattern("example.org", below=True)),
        (" a.b:8443 ", HostPattern("a.b", port=8443)),
    ],
)
def test_patterns(text: str, pattern: HostPattern) -> None:
    assert HostPattern.parse(text) == pattern


@pytest.mark.parametrize("text", ["*", "a.*.b", "http://a", "a:0", "a:70000", "a/b", "", "a b"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        HostPattern.parse(text)


def test_below_is_not_the_host_itself(host: Host) -> None:
    fetcher = Fetcher([HostPattern("test", below=True)], most=1, seconds=1)
    for url in ("http://test/", "http://nottest/", "http://a.test.evil/"):
        with pytest.raises(BadRequest, match="does not fetch"):
            fetch(fetcher, url)


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
