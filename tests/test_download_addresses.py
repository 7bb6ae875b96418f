"""Images by URL: from allowed hosts and public addresses only, whatever a name resolves to."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from http_pictures import HERE, PNG, PRIVATE, Host, fetch

from serving.download import HostPattern, UrlFetcher, is_public, resolve
from serving.errors import BadRequest, Unfetchable


@pytest.mark.parametrize(
    ("url", "message"),
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
def test_a_url_that_is_not_allowed_is_not_requested(host: Host, url: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        fetch(host.fetcher(), url)
    redirect = host.url("to/" + url)
    with pytest.raises(BadRequest, match=message):
        fetch(host.fetcher(), redirect)
    assert all(name == f"pictures.test:{host.port}" for name, _ in host.requests)


def test_loopback_is_refused_by_default(host: Host) -> None:
    fetcher = UrlFetcher([HostPattern("localhost", port=host.port)], max_bytes=1000, seconds=10)
    with pytest.raises(BadRequest, match="private or reserved"):
        fetch(fetcher, host.url("a.png", "localhost"))
    assert not host.requests


def test_one_private_address_among_public_ones_is_refused(host: Host) -> None:
    fetcher = host.fetcher(resolve=lambda *_: [HERE, PRIVATE])
    with pytest.raises(BadRequest, match="private or reserved"):
        fetch(fetcher, host.url("a.png"))


def test_a_name_is_resolved_once_for_each_url(host: Host) -> None:
    answers = iter([[HERE], [PRIVATE]])
    fetcher = host.fetcher(resolve=lambda *_: next(answers))
    assert fetch(fetcher, host.url("a.png")) == [PNG]
    with pytest.raises(BadRequest, match="private or reserved"):  # the next URL is resolved anew
        fetch(fetcher, host.url("a.png"))


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
        other = UrlFetcher(
            [HostPattern("other.test", port=host.port)],
            max_bytes=60_000,
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
def test_private_and_reserved_addresses(addresses: str) -> None:
    assert not any(is_public(address) for address in addresses.split())


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_odd_spellings_of_loopback_resolve_to_it() -> None:
    for spelling in ("2130706433", "0x7f.1", "127.1"):
        try:
            addresses = resolve(spelling, 80)
        except OSError:
            continue
        assert not any(is_public(address) for address in addresses)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Example.org", HostPattern("example.org")),
        ("*.example.org", HostPattern("example.org", subdomains=True)),
        (" a.b:8443 ", HostPattern("a.b", port=8443)),
    ],
)
def test_patterns(text: str, pattern: HostPattern) -> None:
    assert HostPattern.parse(text) == pattern


@pytest.mark.parametrize("text", ["*", "a.*.b", "http://a", "a:0", "a:70000", "a/b", "", "a b"])
def test_an_invalid_host_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        HostPattern.parse(text)


def test_a_subdomain_pattern_does_not_match_the_host_itself(host: Host) -> None:
    fetcher = UrlFetcher([HostPattern("test", subdomains=True)], max_bytes=1, seconds=1)
    for url in ("http://test/", "http://nottest/", "http://a.test.evil/"):
        with pytest.raises(BadRequest, match="does not fetch"):
            fetch(fetcher, url)
