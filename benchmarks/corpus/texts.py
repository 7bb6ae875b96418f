"""What the rendered pages say: lists of data/texts.yaml, expanded, and generated values."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import yaml

Language = Literal["en", "zh"]
Lists = Mapping[str, Mapping[str, Sequence[str]]]

_SLOT = re.compile(r"\{(\w+)\}")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def load_lists() -> Lists:
    """The word and sentence lists, by language and slot."""
    source = Path(__file__).parent / "data" / "texts.yaml"
    # YAML reads bare words such as NEW or 50 as what they look like; here all are texts.
    text = source.read_text(encoding="utf-8")
    return cast(Lists, yaml.load(text, yaml.BaseLoader))  # noqa: S506  # nosec B506


class Writer:
    """Makes up texts in one language, the same ones for the same random state."""

    def __init__(self, rng: random.Random, language: Language, lists: Lists) -> None:
        self.rng = rng
        self.language = language
        self._lists = lists[language]
        self._makers: Mapping[str, Callable[[], str]] = {
            "amount": self.amount,
            "zhamount": lambda: f"{rng.uniform(1, 99999):,.2f}",
            "date": self.date,
            "zhdate": self.zhdate,
            "phone": self.phone,
            "email": self.email,
            "code": self.code,
            "plate": self.plate,
            "rare": self.rare,
            "percent": lambda: f"{rng.uniform(0, 100):.{rng.randint(0, 2)}f}%",
            "weight": lambda: f"{rng.uniform(0.1, 90):.1f} kg",
            "size": lambda: f"{rng.randint(2, 90)} x {rng.randint(2, 90)} mm",
            "number": lambda: str(rng.randint(1, 9999)),
            "digits": lambda: str(rng.randint(10**8, 10**9 - 1)),
            "small": lambda: str(rng.randint(1, 9)),
            "quantity": lambda: str(rng.choice((2, 5, 12, 24, 36, 150, 1200))),
            "capital": lambda: rng.choice("ABCDEFGHKLMNPRSTWXYZ"),
            "initial": lambda: rng.choice("ABCDEFGHJKLMNPRSTVW"),
            "postcode": lambda: f"{rng.randint(10000, 99999)}",
        }

    def pick(self, slot: str) -> str:
        """One expanded entry of the list `slot`; a capital first letter asks for a capital one."""
        maker = self._makers.get(slot)
        if maker is not None:
            return maker()
        text = self.expand(self.rng.choice(self._lists[slot.lower()]))
        return text[:1].upper() + text[1:] if slot[0].isupper() else text

    def expand(self, template: str) -> str:
        """`template` with every {slot} filled in."""
        return _SLOT.sub(lambda found: self.pick(found[1]), template)

    def paragraph(self, length: int) -> str:
        """Sentences, at least `length` characters in all."""
        text = ""
        while len(text) < length:
            text += self.pick("sentence") + (" " if self.language == "en" else "")
        return text.strip()

    def amount(self) -> str:
        value = self.rng.uniform(0.5, self.rng.choice((20, 500, 90000)))
        return self.rng.choice(("${:,.2f}", "{:,.2f}", "€{:.2f}", "RM{:.2f}", "{:.2f}")).format(
            value
        )

    def date(self) -> str:
        rng = self.rng
        year, month, day = rng.randint(1985, 2029), rng.randint(1, 12), rng.randint(1, 28)
        return rng.choice(
            (
                f"{day:02}/{month:02}/{year}",
                f"{year}-{month:02}-{day:02}",
                f"{_MONTHS[month - 1]} {day}, {year}",
                f"{day} {_MONTHS[month - 1]} {year}",
                f"{month}/{day}/{year % 100:02}",
            )
        )

    def zhdate(self) -> str:
        rng = self.rng
        year, month, day = rng.randint(1985, 2029), rng.randint(1, 12), rng.randint(1, 28)
        return rng.choice((f"{year}年{month}月{day}日", f"{year}-{month:02}-{day:02}"))

    def phone(self) -> str:
        rng = self.rng
        if self.language == "zh":
            return rng.choice(
                (f"1{rng.randint(3 * 10**9, 10**10 - 1)}", f"0571-{self.pick('digits')[:8]}")
            )
        return f"({rng.randint(200, 999)}) {rng.randint(200, 999)}-{rng.randint(0, 9999):04}"

    def email(self) -> str:
        return f"{self.pick('word')}{self.rng.randint(1, 99)}@{self.pick('word')}.com"

    def code(self) -> str:
        rng = self.rng
        letters = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=rng.randint(1, 3)))
        return (
            f"{letters}{rng.choice('-/ ') if rng.random() < 0.6 else ''}{rng.randint(100, 9999999)}"
        )

    def plate(self) -> str:
        rng = self.rng
        tail = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789", k=5))
        return f"{self.pick('plate_head')}{rng.choice('ABCDEFGHJK')}{tail}"

    def rare(self) -> str:
        """A few hanzi drawn evenly from GB2312 level 1: what no sentence list would ever hold."""

        # Row 0xD7 ends at 0xF9; drawing from 0xB0 to 0xD6 keeps to full rows.
        def hanzi() -> bytes:
            return bytes((self.rng.randint(0xB0, 0xD6), self.rng.randint(0xA1, 0xFE)))

        return b"".join(hanzi() for _ in range(self.rng.randint(3, 8))).decode("gb2312")
