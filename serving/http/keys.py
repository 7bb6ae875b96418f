"""API keys, of which the server knows only the hashes.

A keys file has one key per line, `NAME:SHA256`, with the key's SHA-256 in 64 hexadecimal digits. A
name may have several, so that a new key can be handed out before the old one goes.
Empty lines and lines that start with # are ignored. `ocr-hpi key NAME` makes a key and its line. A
plain hash is enough because keys are 256 random bits, not passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from flask import Flask, g, request

from serving.config.yaml_file import read_file
from serving.errors import ConfigError, Unauthorized
from serving.http.logs import add_log_fields

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_MAX_BYTES = 4 << 20
"""Of the keys file: some 50,000 keys."""

_OPEN = ("/health", "/v2/health", "/docs", "/openapi.json", "/page", "/api/v2/ocr/results")
"""Open like `/`: they reveal nothing about documents, models or usage. Who has the address of
a job's result has the secret in it. The rest needs a key."""


class Keys:
    """The keys that are accepted."""

    def __init__(self, owners: Mapping[str, str]) -> None:
        """owners: the name of each key, by its hash in lower case."""
        self._owners = owners

    def owner(self, key: str) -> str | None:
        """The name of that key; None if it is unknown. Takes constant time for any key."""
        key_hash, owner = _hash(key), None
        for known, name in self._owners.items():
            if hmac.compare_digest(key_hash, known):
                owner = name
        return owner


def read_keys(path: Path) -> Keys:
    """Read a keys file. Raises ConfigError, which names the line but never quotes it."""
    try:
        lines = read_file(path, max_bytes=_MAX_BYTES).decode("utf-8").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"--api-keys-file {path}: there is no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--api-keys-file {path}: not UTF-8 text") from None
    owners: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, value = line.strip().partition(":")
        if not NAME.fullmatch(name) or not _HASH.fullmatch(value):
            raise ConfigError(
                f"{path}, line {number}: not NAME:SHA256 (letters, digits and . _ @ -, a colon, 64 "
                "hexadecimal digits); to make a line, run: ocr-hpi key NAME"
            )
        if owners.setdefault(value.lower(), name) != name:
            raise ConfigError(f"{path}, line {number}: another name has this key")
    if not owners:
        raise ConfigError(f"{path}: contains no key; make one with: ocr-hpi key NAME")
    return Keys(owners)


def new_key(name: str) -> tuple[str, str]:
    """Make a key; return it, and its line for the keys file."""
    key = "ocr_" + secrets.token_urlsafe(32)
    return key, f"{name}:{_hash(key)}"


def require_keys(app: Flask, keys: Keys | None) -> None:
    """Refuse requests without a known key, before their body is read. keys: None accepts all."""

    app.extensions["ocr.keys"] = keys
    if keys is None:
        return

    @app.before_request
    def check() -> None:
        if request.method != "OPTIONS" and not is_open(request.path):
            g.owner = _owner(keys)
            add_log_fields(request.environ, key=g.owner)


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path == "/" or path in _OPEN or path.startswith(tuple(f"{prefix}/" for prefix in _OPEN))


def _owner(keys: Keys) -> str:
    """The name of the request's key. Raises Unauthorized."""
    bearer = request.authorization
    sent = [bearer.token] if bearer is not None and bearer.type == "bearer" else []
    sent.append(request.headers.get("X-API-Key"))
    owners = [keys.owner(key) for key in sent if key]
    owner = next((name for name in owners if name is not None), None)
    if owner is None:
        problem = "unknown API key" if owners else "this server requires an API key"
        raise Unauthorized(
            f"{problem}; send one in the header Authorization: Bearer KEY or X-API-Key: KEY"
        )
    return owner


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
