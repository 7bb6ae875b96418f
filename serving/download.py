"""Downloads over HTTP, by requests: the user's own URLs, and URLs that callers of a server name.

A caller's URL is fetched from allowed hosts and public addresses only. Each hop of a redirect is
checked like the first. A name is resolved once, and the connection goes to the very address that
was checked, so that a name that resolves differently a moment later gains nothing. Neither proxies
nor .netrc are used.
"""

from __future__ import annotations

import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import requote_uri

from serving.errors import BadRequest, TimedOut, TooLarge, Unfetchable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 16
_PORTS = {"http": 80, "https": 443}
_PATTERN = re.compile(r"(\*\.)?([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::(\d{1,5}))?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
_CONNECT_SECONDS = 10.0
_MAX_REDIRECTS = 5
_MAX_URL = 8192
"""Characters."""
_POLL_SECONDS = 0.25
"""Between two looks at the clock and at whether the caller is still connected."""
_HEADERS = {
    "User-Agent": "paddleocr-hpi-serving",
    "Accept": "image/*, application/pdf, */*;q=0.1",
    "Accept-Encoding": "identity",
}


@contextmanager
def open_url(
    url: str, timeout: float, adapter: HTTPAdapter | None = None
) -> Iterator[requests.Response]:
    """The answer to a GET of a URL of the user's own, its body not read yet.

    Proxies, .netrc and certificates are those of the environment. timeout: seconds without a byte.
    adapter: makes the connections. Raises requests.RequestException, also for a status that is an
    error.
    """
    headers = {"Accept-Encoding": "identity"}  # so that sizes are the file's own
    limits = (_CONNECT_SECONDS, timeout)
    with requests.Session() as session:
        if adapter is not None:
            for scheme in _PORTS:
                session.mount(f"{scheme}://", adapter)
        with session.get(url, stream=True, timeout=limits, headers=headers) as response:
            response.raise_for_status()
            yield response


def read_url(url: str, *, max_bytes: int, seconds: float) -> bytes:
    """The bytes behind a URL of the user's own. Raises Unfetchable, TooLarge, TimedOut."""
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise TimedOut(f"not downloaded within {seconds:g} s")

    data = bytearray()
    try:
        with open_url(url, _POLL_SECONDS, _PolledAdapter(check)) as response:
            for chunk in response.iter_content(CHUNK):
                data += chunk
                if len(data) > max_bytes:
                    raise TooLarge(f"more than {max_bytes} bytes: download it yourself")
    except requests.HTTPError as error:
        raise Unfetchable(f"its host answers with {error.response.status_code}") from error
    except (requests.RequestException, OSError, ValueError) as error:
        cause = root_cause(error)
        cause = cause.__cause__ or cause  # urllib3's has the system's
        reason = str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
        raise Unfetchable(f"cannot be fetched: {reason}") from error
    return bytes(data)


def root_cause(error: BaseException) -> BaseException:
    """The innermost reason: requests and urllib3 wrap it several times."""
    inner = [value for value in error.args if isinstance(value, BaseException)]
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        inner.append(reason)
    return root_cause(inner[-1]) if inner else error


@dataclass(frozen=True, slots=True)
class Url:
    """An image that a request names instead of sending it."""

    text: str


@dataclass(frozen=True, slots=True)
class HostPattern:
    """`example.org` or `*.example.org` (its subdomains), either with `:PORT`."""

    host: str
    subdomains: bool = False
    port: int | None = None
    """None allows the scheme's own."""

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Raises ValueError."""
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None or (match[3] and not 0 < int(match[3]) < 65536):
            raise ValueError(f"{text!r} is not HOST, *.HOST or either with :PORT")
        return cls(match[2], match[1] is not None, int(match[3]) if match[3] else None)

    def allows(self, target: Target) -> bool:
        """Whether the target's host and port match."""
        host = target.host
        matches = host.endswith(f".{self.host}") if self.subdomains else host == self.host
        return matches and target.port == (self.port or _PORTS[target.scheme])


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL that may be fetched."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Made anew from the checked parts, so that no second parser reads the caller's text."""
        return f"{self.scheme}://{self.host}:{self.port}{self.path}"


def parse_target(url: str, allowed: Sequence[HostPattern]) -> Target:
    """Split a URL into its parts. Raises BadRequest, unless its host and port are allowed."""
    if not allowed:
        raise BadRequest(
            "this server fetches no URLs (it may be started with --allow-url-hosts); send the "
            "bytes themselves"
        )
    if len(url) > _MAX_URL:
        raise BadRequest(f"a URL of {len(url)} characters; {_MAX_URL} are allowed")
    try:
        parts = urlsplit(requote_uri(url))
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii")
        port = parts.port
    except (ValueError, UnicodeError):
        raise BadRequest("a malformed URL") from None
    if parts.scheme not in _PORTS:
        raise BadRequest(f"a URL of the scheme {parts.scheme[:20]!r}; http and https are fetched")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("a URL with a user name or password is not fetched")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(parts.scheme, host, port or _PORTS[parts.scheme], path)
    if not any(pattern.allows(target) for pattern in allowed):
        raise BadRequest(
            f"this server does not fetch from {target.authority[:260]}; it may be started with "
            "other --allow-url-hosts, or send the bytes themselves"
        )
    return target


def is_public(address: str) -> bool:
    """Whether an IP address is globally routable: not private, loopback, link-local, ..."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        tunnel = ip.sixtofour is not None or ip.teredo is not None
        return ip in _UNICAST and ip.is_global and not tunnel
    return ip.is_global and not ip.is_multicast


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class UrlFetcher:
    """Fetches from `hosts`, within limits of bytes and seconds for all URLs of a request."""

    def __init__(
        self,
        hosts: Sequence[HostPattern],
        *,
        max_bytes: int,
        seconds: float,
        resolve: Callable[[str, int], list[str]] = resolve,
        is_public: Callable[[str], bool] = is_public,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._resolve = resolve
        self._is_public = is_public

    def fetch(
        self, documents: Sequence[bytes | Url], cancel: Callable[[], None] = lambda: None
    ) -> list[bytes]:
        """The documents of a request, in order: bytes as they are, URLs fetched.

        `cancel` is called every 0.25 s while bytes are waited for; what it raises ends the fetch.
        Raises BadRequest (not allowed), Unfetchable, TooLarge, TimedOut.
        """
        end = time.monotonic() + self._seconds

        def check() -> None:
            if time.monotonic() > end:
                raise TimedOut(
                    f"the URLs were not fetched within {self._seconds:g} s; send the bytes "
                    "themselves, or start the server with a larger --timeout"
                )
            cancel()

        bytes_left = self._max_bytes
        fetched = []
        for index, document in enumerate(documents):
            try:
                if isinstance(document, Url):
                    document = self._follow(document.text, check, end, bytes_left)
                    bytes_left -= len(document)
            except (BadRequest, Unfetchable, TooLarge) as error:
                error.index = index if len(documents) > 1 else None
                raise
            fetched.append(document)
        return fetched

    def _follow(self, url: str, check: Callable[[], None], end: float, max_bytes: int) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            target = parse_target(url, self._hosts)
            try:
                with (
                    requests.Session() as session,
                    self._open(session, target, check, end) as response,
                ):
                    if not response.is_redirect:
                        return _body(response, target, max_bytes)
                    location = response.headers["Location"]
            except (OSError, ValueError, requests.RequestException) as error:  # of its header, too
                reason = type(root_cause(error)).__name__
                raise Unfetchable(f"{target.authority}: cannot be fetched ({reason})") from None
            try:
                url = urljoin(url, location)
            except ValueError:
                raise BadRequest(f"{target.authority} redirects to a malformed URL") from None
        raise Unfetchable(f"more than {_MAX_REDIRECTS} redirects")

    def _open(
        self, session: requests.Session, target: Target, check: Callable[[], None], end: float
    ) -> requests.Response:
        """The answer from the target's first address that takes a connection."""
        addresses = self._resolve(target.host, target.port)
        if not addresses or not all(map(self._is_public, addresses)):
            raise BadRequest(
                f"{target.host} leads to a private or reserved address; only public ones are "
                "fetched from: send the bytes themselves"
            )
        session.trust_env = False  # no proxies, no .netrc
        failure: requests.RequestException | None = None
        for address in addresses:
            check()
            session.mount(f"{target.scheme}://", _PinnedAdapter(address, check))
            connect = min(_CONNECT_SECONDS, max(end - time.monotonic(), _POLL_SECONDS))
            try:
                return session.get(
                    target.url,
                    headers={"Host": target.authority, **_HEADERS},
                    timeout=(connect, _POLL_SECONDS),
                    allow_redirects=False,
                    stream=True,
                )
            except requests.ConnectionError as error:
                failure = error
        assert failure is not None
        raise failure


def _body(response: requests.Response, target: Target, max_bytes: int) -> bytes:
    if response.status_code != 200:
        raise Unfetchable(f"{target.authority} answers with {response.status_code}")
    data = bytearray()
    for chunk in response.iter_content(CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise TooLarge(
                f"{target.authority} sends more than the {max_bytes} bytes that are left to this "
                "request (--max-body-mb)"
            )
    return bytes(data)


class _PolledAdapter(HTTPAdapter):
    """Its connections call `check` while they wait for bytes; what it raises ends the request.

    Where it is used, the read timeout is the time between two such calls.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        check = self._check

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            sock: Any

            def connect(self) -> None:
                super().connect()
                self.sock = _PolledSocket(self.sock, check)

        pool.ConnectionCls = Connection
        return pool


class _PinnedAdapter(_PolledAdapter):
    """Connects to `address`, whatever the URL's name resolves to; TLS is checked by the name."""

    def __init__(self, address: str, check: Callable[[], None]) -> None:
        super().__init__(check)
        self._address = address

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, tls = super().build_connection_pool_key_attributes(*args, **kwargs)
        if host["scheme"] == "https":  # trusts the system's certificates; requests adds its own
            context = ssl.create_default_context()
            tls = {**tls, "ssl_context": context, "server_hostname": host["host"]}  # type: ignore[typeddict-unknown-key]
        return {**host, "host": self._address}, tls


class _PolledSocket:
    """A socket whose reads call `check` between short waits: a read timeout alone starts anew
    with each byte, so that a header that trickles in would hold the request for hours."""

    def __init__(self, sock: socket.socket, check: Callable[[], None]) -> None:
        self._sock = sock
        self._check = check

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_PolledReader(self._sock, self._check))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _PolledReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, check: Callable[[], None]) -> None:
        self._sock = sock
        self._check = check
        self._reference = sock.makefile("rb", buffering=0)  # the socket lives until this is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while True:
            self._check()
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue

    def close(self) -> None:
        self._reference.close()
        super().close()
