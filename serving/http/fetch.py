"""Fetching pictures by URL, from allowed hosts and public addresses alone.

Each hop of a redirect is checked like the first. A name is resolved once, and the connection goes
to the very address that was checked, so that a name that changes its mind gains nothing. No proxy
and no .netrc is looked at.

URLs in place of pictures: which may be fetched, and from which addresses.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urljoin, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, requote_uri

from serving.errors import BadRequest, TimedOut, TooLarge, Unfetchable
from serving.http.turns import Gone

PORTS = {"http": 80, "https": 443}

_PATTERN = re.compile(r"(\*\.)?([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::(\d{1,5}))?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")


@dataclass(frozen=True, slots=True)
class Url:
    """A picture that a request names instead of sending it."""

    text: str


@dataclass(frozen=True, slots=True)
class HostPattern:
    """`example.org`, `*.example.org` (what is below it), either with `:PORT`."""

    host: str
    below: bool = False
    port: int | None = None
    """None allows the scheme's own."""

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Raises ValueError."""
        found = _PATTERN.fullmatch(text.strip().lower())
        if found is None or (found[3] and not 0 < int(found[3]) < 65536):
            raise ValueError(f"{text!r} is not HOST, *.HOST or either with :PORT")
        return cls(found[2], found[1] is not None, int(found[3]) if found[3] else None)

    def allows(self, target: Target) -> bool:
        """Whether it is one of these."""
        same = target.host.endswith(f".{self.host}") if self.below else target.host == self.host
        return same and target.port == (self.port or PORTS[target.scheme])


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        return self.host if self.port == PORTS[self.scheme] else f"{self.host}:{self.port}"


def target_of(url: str, allowed: Sequence[HostPattern]) -> Target:
    """Take a URL apart. Raises BadRequest, unless its host and port are allowed."""
    try:
        parts = urlsplit(requote_uri(url))
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii")
        port = parts.port
    except (ValueError, UnicodeError):
        raise BadRequest("a malformed URL") from None
    if parts.scheme not in PORTS:
        raise BadRequest(f"a URL of the scheme {parts.scheme[:20]!r}; http and https are fetched")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("a URL with a user name or password is not fetched")
    if not allowed:
        raise BadRequest(
            "this server fetches no URLs (it may be started with --allow-url-hosts); send the "
            "bytes themselves, in JSON as base64"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(parts.scheme, host, port or PORTS[parts.scheme], path)
    if not any(pattern.allows(target) for pattern in allowed):
        raise BadRequest(
            f"this server does not fetch from {target.authority[:260]}; it may be started with "
            "other --allow-url-hosts, or send the bytes themselves"
        )
    return target


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's: not private, loopback, link-local, multicast, ..."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        tunnel = ip.sixtofour is not None or ip.teredo is not None
        return ip in _UNICAST and ip.is_global and not tunnel
    return ip.is_global and not ip.is_multicast


_CONNECT_TIME = 10.0
_REDIRECTS = 5
_PIECE = 64 * 1024
_LOOK = 0.25
"""Seconds between two looks at the clock and at whether the caller is still there."""
_MOVED = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": "paddleocr-hpi-serving", "Accept": "image/*, application/pdf, */*;q=0.1"}


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Fetcher:
    """Fetches from `hosts`, within limits of bytes and seconds for all URLs of a request."""

    def __init__(
        self,
        hosts: Sequence[HostPattern],
        *,
        most: int,
        seconds: float,
        resolve: Callable[[str, int], list[str]] = resolve,
        is_public: Callable[[str], bool] = is_public,
    ) -> None:
        self._hosts = hosts
        self._most = most
        self._seconds = seconds
        self._resolve = resolve
        self._is_public = is_public

    def fetch(self, sent: Sequence[bytes | Url], gone: Callable[[], bool]) -> list[bytes]:
        """The documents of a request: bytes as they are, URLs fetched, in order.

        Raises BadRequest (not allowed), Unfetchable, TooLarge, TimedOut; Gone once `gone()`.
        """
        watch = _Watch(self._seconds, gone)
        left = self._most
        documents = []
        with watch:
            for index, document in enumerate(sent):
                try:
                    if isinstance(document, Url):
                        document = self._follow(document.text, watch, left)
                        left -= len(document)
                except (BadRequest, Unfetchable, TooLarge) as error:
                    error.index = index if len(sent) > 1 else None
                    raise
                documents.append(document)
        return documents

    def _follow(self, url: str, watch: _Watch, most: int) -> bytes:
        for _ in range(_REDIRECTS + 1):
            target = target_of(url, self._hosts)
            try:
                found = self._get(target, watch, most)
            except (OSError, http.client.HTTPException) as error:
                watch.check()
                kind = type(error).__name__
                raise Unfetchable(f"{target.authority}: cannot be fetched ({kind})") from None
            if isinstance(found, bytes):
                return found
            try:
                url = urljoin(url, found)
            except ValueError:
                raise BadRequest(f"{target.authority} leads on to a malformed URL") from None
        raise Unfetchable(f"more than {_REDIRECTS} redirects")

    def _get(self, target: Target, watch: _Watch, most: int) -> bytes | str:
        """What is there, or where it has moved to."""
        with self._connect(target, watch) as connection:
            asking = http.client.HTTPConnection(target.host, target.port)
            asking.sock = connection
            asking.request("GET", target.path, headers={"Host": target.authority, **_HEADERS})
            with asking.getresponse() as response:
                location = response.headers.get("Location")
                if response.status in _MOVED and location is not None:
                    return location
                if response.status != 200:
                    raise Unfetchable(f"{target.authority} answers with {response.status}")
                return _body(response, target, watch, most)

    def _connect(self, target: Target, watch: _Watch) -> socket.socket:
        addresses = self._resolve(target.host, target.port)
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise BadRequest(
                f"{target.host} leads to a private or reserved address; only public ones are "
                "fetched from: send the bytes themselves"
            )
        connection = _first(addresses, target.port, watch)
        try:
            watch.over(connection)
            if target.scheme == "http":
                return connection
            return self._tls.wrap_socket(connection, server_hostname=target.host)
        except BaseException:
            connection.close()
            raise

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Trusts what the system trusts, and where that is nothing, what `requests` does."""
        context = ssl.create_default_context()
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        return context


def _first(addresses: Sequence[str], port: int, watch: _Watch) -> socket.socket:
    """A connection to the first address that takes one. Raises OSError, TimedOut, Gone."""
    problem: OSError = OSError("no address")
    for address in addresses:
        watch.check()
        try:
            limit = min(_CONNECT_TIME, max(watch.left, _LOOK))
            connection = socket.create_connection((address, port), timeout=limit)
        except OSError as error:
            problem = error
        else:
            connection.settimeout(None)  # the watch ends it
            return connection
    raise problem


def _body(response: http.client.HTTPResponse, target: Target, watch: _Watch, most: int) -> bytes:
    data = bytearray()
    if (response.length or 0) <= most:
        while piece := response.read1(_PIECE):
            data += piece
            if len(data) > most:
                break
    watch.check()
    if len(data) > most or (response.length or 0) > most:
        raise TooLarge(
            f"{target.authority} sends more than the {most} bytes that are left to this request "
            "(--max-body-mb)"
        )
    if response.length:
        raise Unfetchable(f"{target.authority} stops {response.length} bytes before the end")
    return bytes(data)


class _Watch:
    """Ends a connection that is over time, or whose caller has gone, whatever it waits for."""

    def __init__(self, seconds: float, gone: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._gone = gone
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._reason: Exception | None = None
        self._thread = threading.Thread(target=self._look, name="fetch-watch", daemon=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def over(self, connection: socket.socket) -> None:
        """Watch over this connection from now on. Raises TimedOut and Gone."""
        twin = connection.dup()  # TLS takes the socket itself over
        with self._lock:
            self._forget()
            self._connection = twin
        self.check()

    def check(self) -> None:
        """Raise TimedOut or Gone, if it has come to that."""
        if self._reason is not None:
            raise self._reason

    def _look(self) -> None:
        while not self._done.is_set():
            if self.left <= 0:
                self._reason = self._reason or TimedOut(
                    f"the URLs were not fetched within {self._seconds:g} s; send the bytes "
                    "themselves, or start the server with a larger --timeout"
                )
            elif self._gone():
                self._reason = self._reason or Gone()
            if self._reason is not None:
                self._shut()
            self._done.wait(min(_LOOK, max(0.01, self.left)))

    def _shut(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # closed by its host
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._forget()
