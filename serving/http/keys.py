"""Who may ask: keys of which only the hashes are kept.

A keys file has a line a key, `NAME:SHA256`, where SHA256 is the key's SHA-256 in 64 hexadecimal
digits. Empty lines and lines that begin with # are passed over. `ocr-hpi key NAME` makes both. A
plain hash is enough, for keys are not chosen by people: they have 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from flask import Flask, request

from serving.errors import ConfigError, Unauthorized
from serving.http.logs import note

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"[0-9a-fA-F]{64}")

_OPEN = ("/health", "/docs", "/openapi.json", "/page")
"""Beside `/`, what tells nothing of documents, models or use. All else needs a key."""


class Keys:
    """The keys that are let in."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {name: value.lower() for name, value in hashes.items()}

    def owner(self, key: str) -> str | None:
        """The name of that key; None for an unknown one. Takes as long for any key."""
        given, owner = _hash(key), None
        for name, known in self._hashes.items():
            if hmac.compare_digest(given, known):
                owner = name
        return owner


def read_keys(path: Path) -> Keys:
    """Read a keys file. Raises ConfigError, naming the line, never what is in it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--api-keys-file {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--api-keys-file {path}: not a text file in UTF-8") from None
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, value = line.strip().partition(":")
        if not NAME.fullmatch(name) or not _HASH.fullmatch(value):
            raise ConfigError(
                f"{path}, line {number}: not NAME:SHA256 (letters, digits and . _ @ -, a colon, 64 "
                "hexadecimal digits); make a line with: ocr-hpi key NAME"
            )
        if name in hashes:
            raise ConfigError(f"{path}, line {number}: a second key of the same name")
        hashes[name] = value
    if not hashes:
        raise ConfigError(f"{path}: no key in it, so nobody could ask; run: ocr-hpi key NAME")
    return Keys(hashes)


def new_key(name: str) -> tuple[str, str]:
    """A new key, and its line for the keys file."""
    key = "ocr_" + secrets.token_urlsafe(32)
    return key, f"{name}:{_hash(key)}"


def ask_for_keys(app: Flask, keys: Keys | None) -> None:
    """Let only who has a key use `app`; without keys, everybody. A body is not read before."""

    app.extensions["ocr.keys"] = keys
    if keys is None:
        return

    @app.before_request
    def check() -> None:
        if not is_open(request.path):
            note(request.environ, key=_owner(keys))


def is_open(path: str) -> bool:
    """Whether an address needs no key."""
    return path == "/" or path in _OPEN or path.startswith(tuple(f"{way}/" for way in _OPEN))


def _owner(keys: Keys) -> str:
    """Whose key came along. Raises Unauthorized."""
    bearer = request.authorization
    given = [bearer.token] if bearer is not None and bearer.type == "bearer" else []
    given.append(request.headers.get("X-API-Key"))
    found = [keys.owner(key) for key in given if key]
    owner = next((name for name in found if name is not None), None)
    if owner is None:
        problem = "this key is not known here" if found else "a key is needed"
        raise Unauthorized(
            f"{problem}; send it as the header Authorization: Bearer KEY or X-API-Key: KEY"
        )
    return owner


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
