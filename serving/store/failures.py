"""Kinds of FetchError that the store tells apart to decide what to try next."""

from __future__ import annotations

from serving.errors import FetchError


class NotThere(FetchError):
    """The host answers, but does not have this file: the next source."""


class Unreachable(FetchError):
    """The host does not answer at all: no further package of it."""


class WrongHash(FetchError):
    """Not the bytes of the manifest or of the first fetch: an alarm, so no other source."""
