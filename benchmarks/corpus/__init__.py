"""Rendered pages with their texts, for measuring engines and for tests.

Made from data/ alone: the same seed gives the same texts everywhere, and the same pixels with the
same versions of Pillow, OpenCV and NumPy.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from benchmarks.corpus import fonts
from benchmarks.corpus.canvas import Canvas, Sample, TruthLine
from benchmarks.corpus.degrade import degrade
from benchmarks.corpus.documents import article, letter, notice
from benchmarks.corpus.forms import form, invoice, receipt
from benchmarks.corpus.layouts import LAYOUTS, Sheet
from benchmarks.corpus.texts import Language, Writer, load_lists

__all__ = ["Sample", "TruthLine", "calibration", "in_order", "lines", "pages", "singles"]

_LAYOUTS = (letter, article, form, receipt, invoice, notice)
_LANGUAGES: tuple[Language, ...] = ("en", "zh")
_CALIBRATION_PAGES = 14
_CALIBRATION_SEED = 1


def pages(seed: int = 0, count: int = 12) -> Iterator[Sample]:
    """`count` pages, 700 to 1700 pixels wide before degradation: every second one is degraded.

    Layouts, languages and ways of degradation take turns. The same seed gives the same pages.
    """
    lists = load_lists()
    for index in range(count):
        pair, degraded = divmod(index, 2)
        layout = _LAYOUTS[pair % len(_LAYOUTS)]
        # Shifted by one each round, and between the clean and the degraded of a pair, so that
        # every layout comes in both languages.
        language = _LANGUAGES[(pair + pair // len(_LAYOUTS) + degraded) % 2]
        rng = random.Random(f"{seed}/{index}")  # noqa: S311  repeatable, not secret
        canvas = layout(rng, Writer(rng, language, lists))
        name = f"{layout.__name__}-{language}-{seed}-{index}"
        page = Sample(name, canvas.image(), tuple(canvas.lines), degraded=False)
        yield degrade(page, pair, rng.getrandbits(32)) if degraded else page


def lines(seed: int = 0, count: int = 100) -> Iterator[Sample]:
    """`count` crops of one line each, 24 to 64 pixels high: every second one is degraded."""
    lists = load_lists()
    for index in range(count):
        rng = random.Random(f"line {seed}/{index}")  # noqa: S311
        writer = Writer(rng, _LANGUAGES[index // 2 % 2], lists)
        text = writer.pick(rng.choice(("sentence", "label", "value", "item", "code", "title")))
        font = fonts.load_font(rng.choice(fonts.CHINESE), rng.randint(18, 46))
        height = round(font.size * 1.5)
        canvas = Canvas(round(font.getlength(text) + font.size), height, (250, 250, 248))
        canvas.write(text, font.size * 0.4, font.size * 1.1, font)
        crop = Sample(f"line-{seed}-{index}", canvas.image(), tuple(canvas.lines), degraded=False)
        yield degrade(crop, index // 4, rng.getrandbits(32)) if index % 2 else crop


def in_order(seed: int = 0, count: int = 16) -> Iterator[Sample]:
    """`count` clean pages whose lines are in reading order, of the layouts in turn.

    Names begin with the layout's.
    """
    lists = load_lists()
    for index in range(count):
        round_, turn = divmod(index, len(LAYOUTS))
        rng = random.Random(f"order {seed}/{index}")  # noqa: S311
        sheet = Sheet(rng, Writer(rng, _LANGUAGES[(round_ + turn) % 2], lists))
        LAYOUTS[turn](sheet)
        name = f"{LAYOUTS[turn].__name__}-{sheet.writer.language}-{seed}-{index}"
        yield Sample(name, sheet.page.image(), tuple(sheet.page.lines), degraded=False)


def singles(seed: int = 0) -> Sample:
    """A page of 160 cells with a single character each: half common hanzi, half digits."""
    rng = random.Random(f"singles {seed}")  # noqa: S311
    words = "".join(itertools.chain.from_iterable(load_lists()["zh"].values()))
    hanzi = sorted({sign for sign in words if "一" < sign <= "鿿"})  # 一 alone is a dash
    signs = [*rng.sample(hanzi, 80), *("0123456789" * 8)]
    canvas = Canvas(1120, 760, (250, 250, 248))
    for index, sign in enumerate(signs):
        row, column = divmod(index, 16)
        font = fonts.load_font(fonts.CHINESE[index % 2], 26 + 4 * (row % 4))
        canvas.write(sign, 30 + 66 * column, 60 + 70 * row, font)
    return Sample(f"singles-{seed}", canvas.image(), tuple(canvas.lines), degraded=False)


def calibration() -> list[Sample]:
    """What render_calibration.py writes: more than 600 lines with 12,000 characters in all.

    Half of the pages are degraded, so that the gate sees where engines begin to disagree. Single
    characters have a page of their own: their crops are narrower than any other line's.
    """
    full = pages(seed=_CALIBRATION_SEED, count=_CALIBRATION_PAGES)
    return [*full, singles(seed=_CALIBRATION_SEED)]
