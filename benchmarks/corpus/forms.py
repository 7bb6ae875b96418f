"""Pages of short entries: a ruled form, a receipt, an invoice's table."""

from __future__ import annotations

import random

from benchmarks.corpus import fonts
from benchmarks.corpus.canvas import Canvas
from benchmarks.corpus.documents import WHITES, body_face, head_face
from benchmarks.corpus.texts import Writer

RULE = (110, 110, 120)


def form(rng: random.Random, writer: Writer) -> Canvas:
    """A ruled form: a label in small type and what was filled in, two fields a row."""
    width = rng.randint(760, 1300)
    size = round(width / 46)
    page = Canvas(width, round(width * 1.0), rng.choice(WHITES))
    face = body_face(rng, writer.language)
    label, value = fonts.load_font(face, round(size * 0.8)), fonts.load_font(face, size)
    head = fonts.load_font(head_face(rng, writer.language), round(size * 1.7))
    page.write_centre(writer.pick("title"), width / 2, size * 3.2, head)
    page.write_right(f"No. {writer.pick('digits')}", width * 0.94, size * 5, label)
    top, left, right, row = size * 6.0, width * 0.06, width * 0.94, size * 3.2
    rows = 11
    labels = [writer.pick("label") for _ in range(rows * 2)]
    for index in range(rows + 1):
        y = top + index * row
        page.pen.line((left, y, right, y), fill=RULE, width=1)
        if index == rows:
            break
        for x in (left, width / 2):
            page.write(labels.pop(), x + size * 0.5, y + size * 1.1, label)
            text = writer.pick("value")
            if value.getlength(text) < (right - left) / 2 - size * 1.5:
                page.write(text, x + size, y + size * 2.6, value, (20, 30, 90))
    for x in (left, width / 2, right):
        page.pen.line((x, top, x, top + rows * row), fill=RULE, width=1)
    page.write_block(
        writer.paragraph(60), left, top + (rows + 0.6) * row, label, right - left, size * 1.3
    )
    return page


def receipt(rng: random.Random, writer: Writer) -> Canvas:
    """A till receipt: centred head, items with prices at the right edge, totals."""
    width = rng.randint(700, 860)
    size = round(width / 30)
    page = Canvas(width, round(width * 1.52), (252, 252, 250))
    chinese = writer.language == "zh"
    font = fonts.load_font(fonts.CHINESE[0] if chinese else "NotoSansMono-Regular.ttf", size)
    head = fonts.load_font(head_face(rng, writer.language), round(size * 1.5))
    left, right, y = size * 1.5, width - size * 1.5, size * 2.5
    page.write_centre(writer.pick("business"), width / 2, y, head)
    for slot in ("address", "phone", "date"):
        y += size * 1.6
        page.write_centre(writer.pick(slot), width / 2, y, font)
    y += size * 1.2
    page.pen.line((left, y, right, y), fill=RULE, width=2)
    for _ in range(9):
        y += size * 1.75
        quantity = f"{rng.randint(1, 12)}x  " if rng.random() < 0.4 else ""
        page.write(quantity + writer.pick("item"), left, y, font)
        page.write_right(f"{rng.uniform(0.5, 300):.2f}", right, y, font)
    y += size * 0.8
    page.pen.line((left, y, right, y), fill=RULE, width=2)
    for _ in range(4):
        y += size * 1.75
        page.write(writer.pick("total"), left, y, font)
        page.write_right(f"{rng.uniform(10, 3000):,.2f}", right, y, font)
    for slot in ("closing", "code", "closing"):
        y += size * 2
        page.write_centre(writer.pick(slot), width / 2, y, font)
    for x in range(round(width * 0.25), round(width * 0.75), 5):
        bar = (x, y + size, x + rng.randint(0, 3), y + size * 3)
        page.pen.rectangle(bar, fill=(20, 20, 20))
    page.write_centre(writer.pick("digits"), width / 2, y + size * 4.4, font)
    return page


def invoice(rng: random.Random, writer: Writer) -> Canvas:
    """An invoice: seller and buyer, a table of items in five columns, terms."""
    width = rng.randint(1000, 1600)
    size = round(width / 62)
    page = Canvas(width, round(width * 0.68), rng.choice(WHITES))
    chinese = writer.language == "zh"
    font = fonts.load_font(body_face(rng, writer.language), size)
    head = fonts.load_font(head_face(rng, writer.language), size * 2)
    left, right, y = width * 0.06, width * 0.94, width * 0.07
    page.write(writer.pick("title"), left, y, head)
    page.write_right(writer.pick("code"), right, y, font)
    for _ in range(3):
        y += size * 2
        page.write(f"{writer.pick('label')} {writer.pick('value')}", left, y, font)
        page.write(f"{writer.pick('label')} {writer.pick('value')}", width * 0.54, y, font)
    y += size * 2
    stops = (left + size, width * 0.46, width * 0.6, width * 0.74, right - size)
    names = (
        ("品名", "单位", "数量", "单价", "金额")
        if chinese
        else ("Description", "Unit", "Qty", "Price", "Amount")
    )
    page.pen.rectangle((left, y, right, y + size * 2), fill=(222, 226, 234))
    page.write(names[0], stops[0], y + size * 1.4, font)
    for name, stop in zip(names[1:], stops[1:], strict=True):
        page.write_right(name, stop, y + size * 1.4, font)
    for _ in range(7):
        y += size * 2
        count, price = rng.randint(1, 400), rng.uniform(0.2, 900)
        unit = writer.pick("unit") if chinese else rng.choice(("pcs", "box", "kg", "m"))
        page.write(writer.pick("item"), stops[0], y + size * 1.4, font)
        for text, stop in zip(
            (unit, str(count), f"{price:.2f}", f"{count * price:,.2f}"), stops[1:], strict=True
        ):
            page.write_right(text, stop, y + size * 1.4, font)
        page.pen.line((left, y + size * 2, right, y + size * 2), fill=RULE, width=1)
    page.write_block(
        writer.paragraph(130 if chinese else 260),
        left,
        y + size * 5,
        font,
        right - left,
        size * 1.6,
    )
    return page
