"""Pages of running text: a letter, an article in columns, a coloured notice."""

from __future__ import annotations

import random

from benchmarks.corpus import fonts
from benchmarks.corpus.canvas import Canvas, Colour
from benchmarks.corpus.texts import Language, Writer

WHITES: tuple[Colour, ...] = ((255, 255, 255), (250, 248, 242), (244, 244, 240))


def body_face(rng: random.Random, language: Language) -> fonts.Face:
    """A face for running text in `language`."""
    return rng.choice(fonts.CHINESE if language == "zh" else (*fonts.CHINESE, *fonts.LATIN[:2]))


def head_face(rng: random.Random, language: Language) -> fonts.Face:
    """A face for headings in `language`."""
    return rng.choice(fonts.CHINESE if language == "zh" else ("NotoSans-Bold.ttf", *fonts.CHINESE))


def letter(rng: random.Random, writer: Writer) -> Canvas:
    """A business letter: letterhead, address, paragraphs, signature."""
    width = rng.randint(900, 1500)
    size = round(width / 58)
    page = Canvas(width, round(width * 0.92), rng.choice(WHITES))
    face = body_face(rng, writer.language)
    body, small = fonts.load_font(face, size), fonts.load_font(face, round(size * 0.8))
    left, right, y = width * 0.09, width * 0.91, width * 0.08
    page.write(
        writer.pick("business"),
        left,
        y,
        fonts.load_font(head_face(rng, writer.language), size * 2),
    )
    page.write(writer.pick("address"), left, y + size * 1.7, small)
    page.pen.line((left, y + size * 2.4, right, y + size * 2.4), fill=(90, 90, 110), width=2)
    y += size * 5
    page.write_right(writer.pick("zhdate" if writer.language == "zh" else "date"), right, y, body)
    for slot in ("person", "business", "address"):
        page.write(writer.pick(slot), left, y, body)
        y += size * 1.5
    for length in (420, 300, 330):
        length = round(length * 0.6) if writer.language == "zh" else length
        y += size * 1.1
        y = page.write_block(
            writer.paragraph(length), left, y, body, right - left, size * rng.uniform(1.4, 1.7)
        )
    y += size
    page.write(writer.pick("person"), right - size * 14, y, body)
    page.write(writer.pick("department"), right - size * 14, y + size * 1.5, small)
    page.write_centre(f"- {rng.randint(1, 40)} -", width / 2, page.height - size * 1.2, small)
    return page


def article(rng: random.Random, writer: Writer) -> Canvas:
    """A title over two columns of small print."""
    width = rng.randint(1250, 1700)
    size = round(width / 76)
    page = Canvas(width, round(width * 0.68), rng.choice(WHITES))
    body = fonts.load_font(body_face(rng, writer.language), size)
    head = fonts.load_font(head_face(rng, writer.language), round(size * rng.uniform(1.8, 2.6)))
    page.write_centre(writer.pick("title"), width / 2, width * 0.07, head)
    gutter, margin = width * 0.04, width * 0.06
    column = (width - 2 * margin - gutter) / 2
    leading = size * rng.uniform(1.4, 1.6)
    for left in (margin, margin + column + gutter):
        y = width * 0.12
        for length in (520, 420, 330):
            length = round(length * 0.6) if writer.language == "zh" else length
            y = page.write_block(writer.paragraph(length), left, y, body, column, leading) + size
    return page


def notice(rng: random.Random, writer: Writer) -> Canvas:
    """A picture from a shop's web site: coloured panels, large and small type, both scripts."""
    width = rng.randint(700, 1000)
    hue = [rng.randint(150, 250) for _ in range(3)]
    page = Canvas(width, round(width * 1.05), (hue[0], hue[1], hue[2]))
    y = width * 0.02
    while y < page.height * 0.9:
        size = rng.choice((20, 24, 30, 40, 56, 72))
        font = fonts.load_font(rng.choice(fonts.CHINESE), size)
        dark = rng.random() < 0.5
        panel = tuple(rng.randint(10, 110) if dark else rng.randint(200, 255) for _ in range(3))
        page.pen.rounded_rectangle(
            (width * 0.04, y, width * 0.96, y + size * 1.7), size // 4, fill=panel
        )
        ink: Colour = (255, 250, 235) if dark else (rng.randint(0, 160), 20, rng.randint(0, 90))
        x = width * 0.06
        for slot in rng.sample(("slogan", "item", "code", "closing", "slogan", "sentence"), 6):
            text = writer.pick(slot)
            if x + font.getlength(text) > width * 0.94:
                continue
            x = page.write(text, x, y + size * 1.15, font, ink) + size * 2
        y += size * 2.1
    return page
