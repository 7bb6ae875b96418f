"""A real server, real pages, and Debian's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, serving
from imaging_files import encoded
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.corpus import Sample

HEIGHT = 480
"""Pixels, with eight lines or more."""

expect.set_options(timeout=30_000)  # milliseconds; a page is read in one of many such


@pytest.fixture(scope="session")
def address(unwarmed: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `ocr-hpi serve`."""
    chromium()
    with serving(unwarmed, repo, tmp_path_factory.mktemp("server") / "stderr") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom CI runs; it sees this project's page alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, loaded. At the end: no script error, no CSP violation, no third-party request."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Policy" in said.text else None)
    page.on("request", lambda asked: None if own(asked.url, address) else wrong.append(asked.url))
    page.goto(address)
    page.locator("#pipeline:enabled").wait_for()
    yield page
    context.close()
    assert wrong == []


def own(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", f"blob:{address}/", "data:"))


@pytest.fixture(scope="session")
def upright(sample_page: Sample) -> Image.Image:
    """The first lines of the sample page, which are quick to read."""
    return Image.fromarray(sample_page.image[:HEIGHT, :, ::-1])


@pytest.fixture(scope="session")
def picture(upright: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a PNG file."""
    path = tmp_path_factory.mktemp("pages") / "sample.png"
    path.write_bytes(encoded(upright, "PNG"))
    return path
