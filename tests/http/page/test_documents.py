"""Documents of several pages, several documents, rotated pictures."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from imaging_files import encoded
from page_actions import choose, points, texts
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks import corpus

HEIGHT = 480
"""Pixels of a page: its first lines."""
ON_ITS_SIDE = 6
"""EXIF: the viewer has to turn it by 90 degrees clockwise."""


@pytest.fixture(scope="module")
def two_pages() -> list[Image.Image]:
    clean = (page for page in corpus.pages(seed=0, count=12) if not page.degraded)
    return [Image.fromarray(page.image[:HEIGHT, :, ::-1]) for page in islice(clean, 2)]


def pixels(page: Page) -> tuple[int, int]:
    """Width and height of the boxes' coordinates."""
    view = page.locator("#boxes").get_attribute("viewBox") or ""
    _, _, width, height = map(int, view.split())
    return width, height


def difference(page: Page, wanted: Image.Image) -> float:
    """Mean difference between the picture on screen and the expected one, in grey levels of 256."""
    page.locator("#boxes").evaluate("boxes => boxes.style.visibility = 'hidden'")
    seen = Image.open(io.BytesIO(page.locator("#image").screenshot()))
    page.locator("#boxes").evaluate("boxes => boxes.style.visibility = ''")
    coarse = [np.asarray(image.convert("L").resize((90, 90)), int) for image in (seen, wanted)]
    return float(np.abs(coarse[0] - coarse[1]).mean())


@pytest.mark.parametrize("kind", ["PDF", "TIFF"])
def test_a_document_is_shown_page_by_page(
    page: Page, two_pages: list[Image.Image], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"two.{kind.lower()}"
    dpi = {"resolution": 144} if kind == "PDF" else {}
    first, second = (image.copy() for image in two_pages)  # Pillow leaves its settings on them
    path.write_bytes(encoded(first, kind, save_all=True, append_images=[second], **dpi))
    choose(page, path)
    first_texts = texts(page)
    expect(page.locator("#position")).to_have_text("Page 1 of 2")
    assert page.get_by_role("button", name="Previous page").is_disabled()
    for image in two_pages:
        assert pixels(page) == image.size
        corners = np.array(points(page))
        assert (corners.min(axis=(0, 1)) >= 0).all()
        assert (corners.max(axis=(0, 1)) <= image.size).all()
        assert difference(page, image) < 3
        others = [other for other in two_pages if other is not image]
        assert difference(page, others[0]) > 6
        if image is two_pages[0]:
            page.get_by_role("button", name="Next page").click()
            expect(page.locator("#position")).to_have_text("Page 2 of 2")
    second_texts = texts(page)
    assert first_texts != second_texts
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "\n".join(first_texts) + "\n\n" + "\n".join(second_texts)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_a_picture_on_its_side_is_shown_upright(
    page: Page, upright: Image.Image, picture: Path, kind: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = ON_ITS_SIDE
    path = tmp_path / f"turned.{kind.lower()}"
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    path.write_bytes(encoded(turned, kind, exif=exif, quality=95))

    choose(page, picture)
    straight = texts(page)
    choose(page, path, button="Open…")
    expect(page.locator("#name")).to_have_text(path.name)
    expect(page.locator("#lines")).to_be_visible()
    assert abs(len(texts(page)) - len(straight)) <= 1
    assert difference(page, upright) < 3 < 6 < difference(page, upright.rotate(180))
    assert pixels(page) == upright.size


def test_several_documents_and_one_is_none(page: Page, picture: Path, tmp_path: Path) -> None:
    odd = tmp_path / "notes.txt"
    odd.write_text("no picture")
    blank = tmp_path / "blank.png"
    blank.write_bytes(encoded(Image.new("RGB", (300, 200), "white"), "PNG"))
    choose(page, odd, blank, picture)
    documents = page.get_by_role("navigation", name="Documents").get_by_role("button")
    expect(documents).to_have_text(["notes.txt", "blank.png", "sample.png"])
    expect(page.get_by_role("heading", name="This file is not an image or PDF")).to_be_visible()
    documents.nth(1).click()
    expect(page.get_by_text("No text found on this page.")).to_be_visible()
    documents.nth(2).click()
    assert len(texts(page)) > 5
    expect(documents.nth(2)).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("heading", name="Drop a page")).to_be_visible()
