"""Which languages a recogniser can read: those whose letters are all in its dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import yaml

_RARE = 0.01
"""Share of a language's letters that may be missing: rare kanji and hanzi."""
_FEW = 0.1
"""Beyond this share a text is full of wrong letters."""


@dataclass(frozen=True, slots=True)
class Languages:
    """English names of languages, by what a dictionary has of their letters."""

    whole: list[str] = field(default_factory=list)
    partly: dict[str, str] = field(default_factory=dict)
    """With the few letters that are missing."""
    lacking: list[str] = field(default_factory=list)


def languages(characters: Iterable[str]) -> Languages:
    """What a recogniser with this dictionary can read, of the languages in data/languages.yaml.

    A model may read badly a letter that its dictionary has; it never reads one that is missing.
    """
    known, found = set("".join(characters)), Languages()
    for name, letters in _letters().items():
        missing = letters - known
        if len(missing) <= _RARE * len(letters):
            found.whole.append(name)
        elif len(missing) <= _FEW * len(letters):
            found.partly[name] = "".join(sorted(missing))
        else:
            found.lacking.append(name)
    return found


@cache
def _letters() -> Mapping[str, frozenset[str]]:
    text = resources.files("serving").joinpath("data/languages.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    latin = "abcdefghijklmnopqrstuvwxyz"
    letters = {name: _with_capitals(latin + more) for name, more in data["latin"].items()}
    letters |= {name: _with_capitals(all_) for name, all_ in data["other"].items()}
    for name, code in data["codes"].items():
        letters[name] = frozenset(_characters(code["codec"], code["leads"]))
    return dict(sorted(letters.items()))


def _with_capitals(letters: str) -> frozenset[str]:
    return frozenset(letters) | {c.upper() for c in letters if len(c.upper()) == 1}


def _characters(codec: str, leads: Iterable[tuple[int, int]]) -> Iterator[str]:
    """The characters of two bytes whose first is in one of these ranges."""
    for first, last in leads:
        for lead in range(first, last + 1):
            for trail in range(0x40, 0xFF):
                text = bytes([lead, trail]).decode(codec, "ignore")
                yield from text if text > "\x7f" else ()
