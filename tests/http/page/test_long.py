"""A long document: its pages arrive one by one, and Cancel also stops the server.

OCR_HPI_LONG_PAGES=60 makes the PDF as long.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from http_fake import HELD, document
from http_server import Server, eventually
from imaging_files import encoded
from page_actions import choose, texts
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks import corpus

PAGES = int(os.environ.get("OCR_HPI_LONG_PAGES", "4"))
BLACK = (0, 0, 0)
MOST = 24 * 2**20
"""Bytes of the page's script heap, however long the document is: pictures are Blobs."""


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    """A server without models that has a single permit."""
    return start(threads=1, queue=0).wait_ready()


@pytest.fixture
def reading(browser: Browser, server: Server, tmp_path: Path) -> Iterator[Page]:
    """The page, two pages of four read, the third in progress until the server's gate opens."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(server.base)
    page.locator("#pipeline:enabled").wait_for()
    path = tmp_path / "four.tiff"
    path.write_bytes(document(BLACK, BLACK, HELD, BLACK))
    choose(page, path)
    expect(page.locator("#meter")).to_have_js_property("value", 2)
    yield page
    context.close()


def test_pages_are_shown_while_others_are_read(reading: Page, server: Server) -> None:
    meter = reading.get_by_role("progressbar", name="Pages read")
    expect(meter).to_have_attribute("max", "4")
    expect(reading.locator("#summary")).to_have_text("2 of 4 pages read · 2 lines")
    expect(reading.locator("#status")).to_have_text("1 of 4 pages read")  # once in a while
    expect(reading.locator("#position")).to_have_text("Page 1 of 4")
    expect(reading.get_by_role("button", name="Copy all")).to_be_hidden()
    following = reading.get_by_role("button", name="Next page")
    following.click()
    expect(reading.locator("#position")).to_have_text("Page 2 of 4")
    expect(following).to_be_disabled()
    line = reading.locator("#lines li").first
    line.focus()
    server.gate.touch()
    expect(meter).to_be_hidden()
    expect(line).to_be_focused()  # what came meanwhile did not take it away
    expect(reading.locator("polygon.highlighted")).to_have_count(1)
    expect(reading.locator("#position")).to_have_text("Page 2 of 4")
    expect(reading.locator("#status")).to_contain_text("four.tiff: 4 lines")
    expect(reading.get_by_role("button", name="Copy all")).to_be_visible()
    following.click()
    following.click()
    expect(reading.locator("#position")).to_have_text("Page 4 of 4")
    expect(following).to_be_disabled()


def test_cancel_keeps_what_was_read_and_frees_the_servers_place(
    reading: Page, server: Server
) -> None:
    assert server.post().status_code == 429
    reading.get_by_role("button", name="Cancel").focus()
    reading.keyboard.press("Enter")
    expect(reading.locator("#timing")).to_have_text("Cancelled. You cancelled the request.")
    expect(reading.locator("#status")).to_have_text("four.tiff: Cancelled")
    expect(reading.locator("#name")).to_be_focused()  # not lost with the button
    expect(reading.locator("#summary")).to_have_text("2 of 4 pages read · 2 lines")
    server.gate.touch()  # the page that was in work is finished, no more
    assert eventually(lambda: server.post().status_code == 200)
    assert eventually(lambda: '"complete": false' in server.errors())
    lines = [json.loads(line) for line in server.errors().splitlines()]
    assert next(line["pages"] for line in lines if line.get("complete") is False) == 2
    reading.get_by_role("button", name="Next page").click()
    expect(reading.locator("#lines li")).to_have_count(1)
    expect(reading.get_by_role("button", name="Copy all")).to_be_visible()
    reading.get_by_role("button", name="Retry").click()
    expect(reading.locator("#summary")).to_contain_text("4 lines")
    expect(reading.get_by_role("button", name="Retry")).to_be_hidden()


def test_a_long_pdf_on_real_models(page: Page, tmp_path: Path) -> None:
    clean = (sample.image for sample in corpus.pages(seed=0, count=12) if not sample.degraded)
    three = [Image.fromarray(image[:480, :, ::-1].copy()) for image in islice(clean, 3)]
    images = [three[number % 3] for number in range(PAGES)]
    path = tmp_path / "long.pdf"
    path.write_bytes(
        encoded(images[0], "PDF", save_all=True, append_images=images[1:], resolution=144)
    )
    choose(page, path)
    expect(page.get_by_role("button", name="Copy all")).to_be_visible(timeout=PAGES * 30_000)
    found = [texts(page)]
    for number in range(2, PAGES + 1):
        page.get_by_role("button", name="Next page").click()
        expect(page.locator("#position")).to_have_text(f"Page {number} of {PAGES}")
        expect(page.locator("#image")).to_have_js_property("naturalWidth", images[number - 1].width)
        found.append(texts(page))
    assert found[0] == found[3]
    assert found[0] != found[1] != found[2]
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    assert devtools.send("Runtime.getHeapUsage")["usedSize"] < MOST
