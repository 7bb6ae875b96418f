"""Screenshots of the page. `OCR_HPI_SCREENSHOTS=docs` keeps those of the README."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, expect

KEEP = os.environ.get("OCR_HPI_SCREENSHOTS")
LINE = 5
"""Index of the line under the pointer."""

SIZES = {
    "light": (1280, 800),
    "dark": (1280, 800),
    "narrow": (390, 844),
}


@pytest.fixture
def folder(repo: Path, tmp_path: Path) -> Path:
    """The folder of OCR_HPI_SCREENSHOTS, else a temporary one."""
    folder = repo / (KEEP or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(params=SIZES)
def look(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    example = requests.get(f"{address}/page/example.jpg", timeout=60).content
    for _ in range(2 if KEEP else 0):  # the first sight of a shape takes longer, as they show
        requests.post(f"{address}/ocr/v1/accurate", data=example, timeout=60)
    width, height = SIZES[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if request.param == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(address)
    page.locator("#pipeline:enabled").wait_for()
    yield page
    context.close()


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def test_screenshots(
    look: Page, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["look"]
    expect(look.get_by_role("button", name="Try the example")).to_be_in_viewport()
    assert not scrolls_sideways(look)
    empty = tmp_path / "empty.png"
    look.screenshot(path=empty)
    corner = Image.open(empty).convert("L").getpixel((2, 2))
    assert isinstance(corner, int)
    assert (corner < 60) == (name == "dark")

    look.get_by_role("button", name="Try the example").click()
    look.locator("#lines li").nth(LINE).hover()
    expect(look.locator("polygon.highlighted")).to_be_in_viewport()
    assert not scrolls_sideways(look)
    taken = folder / f"page-{name}.png"
    look.screenshot(path=taken)
    Image.open(taken).convert("RGB").save(taken, optimize=True)
    assert taken.stat().st_size < 200_000

    if name == "narrow":  # the picture stays in sight while the text is scrolled
        look.locator("#lines li").last.click()
        expect(look.locator("#image")).to_be_in_viewport()
        expect(look.locator("polygon.highlighted")).to_be_in_viewport()
        expect(look.locator("li.highlighted")).to_be_in_viewport()
