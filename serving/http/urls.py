"""URLs in place of pictures: which may be fetched, and from which addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.utils import requote_uri

from serving.errors import BadRequest

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
