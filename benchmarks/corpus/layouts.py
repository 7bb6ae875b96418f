"""Pages whose reading order matters: columns, tables, both. Lines are drawn in that order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from benchmarks.corpus import fonts
from benchmarks.corpus.canvas import Canvas, wrap
from benchmarks.corpus.documents import WHITES, body_face, head_face
from benchmarks.corpus.texts import Writer


class Sheet:
    """A page that is filled from the top."""

    def __init__(self, rng: random.Random, writer: Writer) -> None:
        self.rng, self.writer = rng, writer
        width = rng.randint(1100, 1700)
        self.size = round(width / rng.uniform(66, 84))
        self.page = Canvas(width, round(width * 1.35), rng.choice(WHITES))
        self.body = fonts.load_font(body_face(rng, writer.language), self.size)
        self.head = fonts.load_font(head_face(rng, writer.language), round(self.size * 1.2))
        self.leading = self.size * rng.uniform(1.3, 1.6)
        self.left, self.right = width * 0.07, width * 0.93
        self.y = width * 0.07

    def headline(self) -> None:
        """A line of large type over the middle of the page."""
        face = head_face(self.rng, self.writer.language)
        font = fonts.load_font(face, round(self.size * self.rng.uniform(1.8, 2.6)))
        title = f"{self.writer.pick('title')}  {self.writer.pick('title')}"
        self.page.write_centre(title, self.page.width / 2, self.y + font.size, font)
        self.y += font.size * 2.4

    def paragraph(self) -> None:
        """A paragraph across the page."""
        y, width = self.y + self.size, self.right - self.left
        y = self.page.write_block(self._text(150), self.left, y, self.body, width, self.leading)
        self.y = y + self.size

    def columns(self, count: int) -> None:
        """Columns of three to five paragraphs, some under a heading; they end unevenly."""
        gutter = self.size * self.rng.uniform(2.5, 4)  # Chinese punctuation hangs into it
        width = (self.right - self.left + gutter) / count - gutter
        ends = []
        for index in range(count):
            left, y = self.left + index * (width + gutter), self.y + self.size
            for _ in range(self.rng.randint(3, 5)):
                if self.rng.random() < 0.3:
                    self.page.write(self.writer.pick("department"), left, y, self.head)
                    y += self.leading * 1.3
                text = self._text(300 // count)
                y = self.page.write_block(text, left, y, self.body, width, self.leading)
                y += self.leading * self.rng.choice((0.0, 0.5, 1.0))
            ends.append(y)
        self.y = max(ends) + self.size

    def table(self, slots: Sequence[str], rows: int) -> None:
        """A line for each cell; numbers end under each other, other texts begin so."""
        room = (self.right - self.left) / (len(slots) + 1)
        for _ in range(rows):
            self.y += self.leading * 1.25
            for index, slot in enumerate(slots):
                x = self.left + self.size + room * (index + bool(index))
                if slot in ("amount", "number") and index:
                    x += room * 0.8
                    self.page.write_right(self.writer.pick(slot), x, self.y, self.body)
                else:
                    self.page.write(self.writer.pick(slot), x, self.y, self.body)
        self.y += self.size * 2

    def table_of_texts(self, count: int, rows: int) -> None:
        """A table whose cells have one to four lines."""
        gutter = self.size * 3
        width = (self.right - self.left + gutter) / count - gutter
        for _ in range(rows):
            ends = []
            for index in range(count):
                y = self.y + self.size
                for line in wrap(self._text(150), self.body, width)[: self.rng.randint(1, 4)]:
                    self.page.write(line, self.left + index * (width + gutter), y, self.body)
                    y += self.leading
                ends.append(y)
            self.y = max(ends) + self.leading * 0.6

    def _text(self, shortest: int) -> str:
        """One to three times `shortest` characters, in Chinese half as many."""
        length = self.rng.randint(shortest, 3 * shortest)
        return self.writer.paragraph(length // 2 if self.writer.language == "zh" else length)


_CELLS = ("item", "person", "date", "number", "amount")


def two_columns(sheet: Sheet) -> None:
    """Two columns alone."""
    sheet.columns(2)


def three_columns(sheet: Sheet) -> None:
    """A headline over three columns."""
    sheet.headline()
    sheet.columns(3)


def one_and_two_columns(sheet: Sheet) -> None:
    """A headline and a paragraph over two columns, and a paragraph below."""
    sheet.headline()
    sheet.paragraph()
    sheet.columns(2)
    sheet.paragraph()


def one_column(sheet: Sheet) -> None:
    """Paragraphs across the page."""
    sheet.headline()
    for _ in range(5):
        sheet.paragraph()


def table(sheet: Sheet) -> None:
    """A table of short cells."""
    sheet.headline()
    sheet.table(_CELLS[: sheet.rng.randint(3, 5)], rows=24)


def table_of_texts(sheet: Sheet) -> None:
    """A table of long cells."""
    sheet.table_of_texts(sheet.rng.randint(2, 3), rows=6)


def labels_and_values(sheet: Sheet) -> None:
    """A form with two fields a row."""
    sheet.headline()
    sheet.table(("label", "value", "label", "value"), rows=20)


def mixed(sheet: Sheet) -> None:
    """Two columns, a table, three columns."""
    sheet.headline()
    sheet.columns(2)
    sheet.table(_CELLS[: sheet.rng.randint(2, 5)], rows=8)
    sheet.columns(3)


LAYOUTS: tuple[Callable[[Sheet], None], ...] = (
    two_columns,
    three_columns,
    one_and_two_columns,
    one_column,
    table,
    table_of_texts,
    labels_and_values,
    mixed,
)
