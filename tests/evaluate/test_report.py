"""The report of an evaluation: HTML without a third-party host, JSON and CSV."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from browser import chromium

from benchmarks.corpus import Sample
from serving.evaluate.figures import Evaluation, Reading
from serving.evaluate.labels import LabelledPage
from serving.evaluate.report import write_report
from serving.types import Image

HOSTILE = "<img src=x onerror=alert(1)>{{ 7 * 7 }}"
HALF = "\ud800"
"""Half of a surrogate pair, as JSON may have it; no encoding can write it."""


@pytest.fixture(scope="module")
def evaluation(sample_page: Sample, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """A rendered page of which one pipeline misses a line, and crops that both misread."""
    folder = tmp_path_factory.mktemp("images")
    lines = sample_page.lines
    cv2.imwrite(str(folder / "page.png"), sample_page.image)
    cv2.imwrite(str(folder / "crop.png"), sample_page.image[:40, :300])
    boxes = tuple(tuple(map(tuple, line.quad)) for line in lines)
    texts = tuple(line.text for line in lines)
    page = LabelledPage("pages", folder / "page.png", texts, boxes)
    crops = [
        LabelledPage("crops", folder / "crop.png", (text,), is_line=True)
        for text in (HOSTILE, HALF, *(f"line {number}" for number in range(2000)))
    ]
    whole, part = Reading(texts, boxes, 5.0), Reading(texts[1:], boxes[1:], 4.0)
    read = [
        (Reading(("Iine" + text[4:],), (), 1.0), Reading((text,), (), 1.0))
        for (text,) in (crop.texts for crop in crops)
    ]
    read[0] = Reading((HOSTILE[1:],), (), 1.0), Reading((HOSTILE,), (), 1.0)
    return Evaluation(
        (f"{HOSTILE}.yaml", "b.yaml"), [page, *crops], [(part, whole), *read], [f"a: {HOSTILE}"]
    )


def test_what_is_in_the_three_files(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(evaluation, path)
    html = path.read_text(encoding="utf-8")
    assert "<img src=x" not in html
    assert not re.search(r"https?://", html)
    assert html.count('class="missed"') == 2  # the first pipeline's, and the key
    assert ">I <" in html and "U+0049" in html
    assert "rec_accuracy is worse" in html
    assert len(html) < 3_000_000
    summary = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert summary["sets"]["crops"]["figures"]["rec_accuracy"]["values"] == [0.0, 1.0]
    assert summary["changes"] == {"rec_accuracy": "worse", "rec_ned": "worse"}
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(evaluation.pages[0].texts) + 2002
    assert rows[-1]["errors of b.yaml"] == "0"
    assert rows[-1]["b.yaml"] == rows[-1]["truth"] == "line 1999"


def test_of_a_few_lines_no_difference_is_told(evaluation: Evaluation, tmp_path: Path) -> None:
    few = replace(evaluation, pages=evaluation.pages[:9], readings=evaluation.readings[:9])
    write_report(few, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "So few tell no difference from noise." in html
    assert "is worse" not in html


def test_large_pictures_do_not_make_it_large(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import numpy as np

    noise: Image = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.jpg"), noise)
    box = ((0.0, 0.0), (1999.0, 0.0), (1999.0, 1999.0), (0.0, 1999.0))
    pages = [LabelledPage("noise", tmp_path / "noise.jpg", ("a" * 5000,) * 10, (box,) * 10)] * 40
    read = [(Reading(("b" * 5000,), (box,), 1.0),)] * 40
    write_report(Evaluation(("a.yaml",), pages, read, ["x" * 1000] * 1000), tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 20_000_000


def test_a_browser_shows_it_and_asks_no_host(evaluation: Evaluation, tmp_path: Path) -> None:
    executable = chromium()
    from playwright.sync_api import sync_playwright

    write_report(evaluation, tmp_path / "report.html")
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: asked.append(message.text))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.locator("td", has_text=HOSTILE).count() > 0
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert widths and min(widths) > 0
        browser.close()
    assert [url[:10] for url in asked if not url.startswith(("file:", "data:image"))] == []
