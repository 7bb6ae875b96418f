"""Every way to add a document, and what is shown of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pypdfium2
import pytest
import requests
from page_actions import choose, points, texts
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.corpus import Sample
from serving.scores import character_overlap


def answer(address: str, path: Path) -> dict[str, Any]:
    """The server's answer to any other client."""
    url = f"{address}/ocr/v1/accurate?format=pages"
    found: dict[str, Any] = requests.post(url, data=path.read_bytes(), timeout=60).json()
    return found


def test_a_chosen_file_is_read_and_shown(
    page: Page, address: str, picture: Path, upright: Image.Image, sample_page: Sample
) -> None:
    choose(page, picture)
    found = texts(page)
    assert character_overlap([line.text for line in sample_page.lines], found).precision > 0.95
    [told] = answer(address, picture)["pages"]
    assert found == [line["data"] for line in told["lines"]]
    assert points(page) == [line["box"] for line in told["lines"]]
    width, height = upright.size
    assert page.locator("#boxes").get_attribute("viewBox") == f"0 0 {width} {height}"
    scores = page.locator("#lines .score").all_text_contents()
    assert scores[0].startswith(f"{min(round(told['lines'][0]['score'] * 100), 99)} %")
    expect(page.locator("#summary")).to_contain_text(f"{len(found)} lines")
    expect(page.locator("#timing")).to_contain_text("recognise")
    expect(page.locator("#status")).to_contain_text(f"sample.png: {len(found)} lines")
    assert page.locator("#image").evaluate("image => image.naturalWidth") == width


def test_the_boxes_lie_on_the_picture(page: Page, picture: Path) -> None:
    choose(page, picture)
    texts(page)
    for fit in ("Full width", "Whole page"):
        sheet = page.locator("#image").bounding_box()
        boxes = page.locator("#boxes").bounding_box()
        assert sheet == boxes and sheet and sheet["width"] > 300
        page.get_by_role("button", name=fit).click()


def test_a_dropped_file_is_read(page: Page, picture: Path) -> None:
    devtools = page.context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(picture)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 90, "data": dragged})
    expect(page.get_by_text("Drop to read")).to_be_visible()
    devtools.send("Input.dispatchDragEvent", {"type": "drop", "x": 600, "y": 90, "data": dragged})
    assert len(texts(page)) > 5
    expect(page.locator("#name")).to_have_text("sample.png")
    expect(page.get_by_text("Drop to read")).to_be_hidden()


def test_a_pasted_picture_is_read(page: Page, picture: Path) -> None:
    page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
            const blob = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(picture.read_bytes()).decode(),
    )
    page.keyboard.press("Control+V")
    assert len(texts(page)) > 5


def test_a_line_lights_its_box_and_a_box_its_line(page: Page, picture: Path) -> None:
    choose(page, picture)
    count = len(texts(page))
    for index in (0, count // 2, count - 1):
        page.locator("#lines li").nth(index).hover()
        expect(page.locator("polygon.highlighted")).to_have_attribute("data-index", str(index))
        expect(page.locator("polygon.highlighted")).to_be_in_viewport()
    page.locator("h1").hover()
    expect(page.locator(".highlighted")).to_have_count(0)
    for index in (0, count - 1):
        page.locator("polygon").nth(index).hover()
        expect(page.locator("li.highlighted")).to_have_attribute("data-index", str(index))
        expect(page.locator("li.highlighted")).to_be_in_viewport()
    page.locator("polygon").nth(2).click()
    page.locator("h1").hover()
    expect(page.locator("li.highlighted")).to_be_focused()
    expect(page.locator("li.highlighted")).to_have_attribute("data-index", "2")


def test_copy_all(page: Page, picture: Path) -> None:
    choose(page, picture)
    found = texts(page)
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(found)
    expect(page.locator("#status")).to_have_text(f"{len(found)} lines copied")


def test_copy_all_without_a_secure_connection(page: Page, picture: Path) -> None:
    clipboard = page.evaluate_handle("navigator.clipboard")
    clipboard.evaluate("clipboard => clipboard.writeText('before')")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    choose(page, picture)
    found = texts(page)
    page.get_by_role("button", name="Copy all").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard.evaluate("clipboard => clipboard.readText()") == "\n".join(found)


def test_downloads(page: Page, address: str, picture: Path) -> None:
    """Each is what the server answers with the same options."""

    def downloaded(name: str) -> tuple[str, bytes]:
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
            page.get_by_role("button", name=name, exact=True).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    choose(page, picture)
    found = texts(page)
    name, data = downloaded("JSON")
    saved, told = json.loads(data), answer(address, picture)
    assert (name, saved["engine"]) == ("sample.json", told["engine"])
    assert [page["lines"] for page in saved["pages"]] == [page["lines"] for page in told["pages"]]
    name, data = downloaded("Text")
    assert (name, data.decode()) == ("sample.txt", "\n".join(found) + "\n")
    name, data = downloaded("Picture with boxes")
    url = f"{address}/ocr/v1/accurate?format=image"
    drawn = requests.post(url, data=picture.read_bytes(), timeout=60).content
    assert (name, data) == ("sample-boxes.png", drawn)
    name, data = downloaded("Searchable PDF")
    pdf = pypdfium2.PdfDocument(data)
    assert name == "sample.pdf" and found[0] in pdf[0].get_textpage().get_text_bounded()
    expect(page.locator("#status")).to_have_text("sample.pdf downloaded")


def test_options_are_sent_once_they_are_applied(page: Page, picture: Path) -> None:
    choose(page, picture)
    all_lines = texts(page)
    button = page.get_by_role("button", name="Options")
    dialog = page.get_by_role("dialog", name="Options")
    score = dialog.get_by_label("Line score from")
    button.click()
    score.fill("0.5")
    page.keyboard.press("Escape")
    button.click()
    expect(score).to_have_value("")  # it was not applied
    score.fill("2")
    dialog.get_by_role("button", name="Apply").click()
    expect(dialog).to_be_visible()  # it is no score
    score.fill("1")
    dialog.get_by_label("Order of lines").select_option("By columns")
    dialog.get_by_label("Turned pages").select_option("Leave")
    with page.expect_request("**/ocr/v1/accurate?*") as request:
        dialog.get_by_role("button", name="Apply").click()
    assert parse_qs(urlsplit(request.value.url).query) == {
        "text_rec_score_thresh": ["1"],
        "order": ["columns"],
        "use_doc_orientation_classify": ["false"],
        "format": ["pages"],
    }
    expect(page.get_by_text("No text found on this page.")).to_be_visible()
    expect(button).to_have_accessible_name("Options, 3 set")
    button.click()
    dialog.get_by_role("button", name="Reset").click()
    dialog.get_by_role("button", name="Apply").click()
    expect(page.locator("#lines li")).to_have_count(len(all_lines))
    expect(button).to_have_accessible_name("Options")


def test_zoom(page: Page, picture: Path) -> None:
    def width() -> float:
        box = page.locator("#image").bounding_box()
        assert box == page.locator("#boxes").bounding_box() and box
        return box["width"]

    choose(page, picture)
    texts(page)
    fitted = width()
    smaller = page.get_by_role("button", name="Zoom out")
    expect(smaller).to_be_disabled()
    page.get_by_role("button", name="Zoom in").click()
    assert width() == pytest.approx(1.4 * fitted, abs=1)
    pane = page.get_by_role("region", name="Picture")
    pane.focus()
    page.keyboard.press("+")
    assert width() == pytest.approx(1.96 * fitted, abs=1)
    pane.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_function("width => image.getBoundingClientRect().width > width", arg=2 * fitted)
    page.locator("#lines li").last.hover()
    expect(page.locator("polygon.highlighted")).to_be_in_viewport()
    pane.focus()
    page.keyboard.press("0")
    assert width() == pytest.approx(fitted, abs=1)
    expect(smaller).to_be_disabled()


def test_the_text_is_drawn_in_its_boxes(page: Page, picture: Path) -> None:
    choose(page, picture)
    found = texts(page)
    button = page.get_by_role("button", name="Text in place")
    expect(page.locator("#texts")).to_be_hidden()
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    drawn = page.locator("#texts text")
    assert drawn.all_text_contents() == found
    for index in range(len(found)):
        box, text = (
            page.locator(kind).nth(index).bounding_box() for kind in ("polygon", "#texts text")
        )
        assert box and text
        assert abs(box["x"] - text["x"]) < 4 and abs(box["width"] - text["width"]) < 6
        assert abs(box["y"] + box["height"] / 2 - text["y"] - text["height"] / 2) < 5
    button.click()
    expect(page.locator("#texts")).to_be_hidden()


def test_by_keyboard_alone(page: Page) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(20):
            if page.locator(selector).evaluate("one => one === document.activeElement"):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"Tab does not reach {selector}")

    page.on("filechooser", lambda chooser: None)  # in time: without a listener, Chromium's opens
    tab_to("#choose")
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    tab_to("#example")
    page.keyboard.press("Enter")
    count = len(texts(page))
    tab_to("#lines li:first-child")
    expect(page.locator("polygon.highlighted")).to_have_attribute("data-index", "0")
    page.keyboard.press("ArrowDown")
    expect(page.locator("polygon.highlighted")).to_have_attribute("data-index", "1")
    page.keyboard.press("End")
    expect(page.locator("polygon.highlighted")).to_have_attribute("data-index", str(count - 1))
    expect(page.locator("li.highlighted")).to_be_in_viewport()
    expect(page.locator("li.highlighted")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    tab_to("#copy")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    tab_to("#clear")
    page.keyboard.press("Enter")
    expect(page.locator("#choose")).to_be_focused()


def test_another_pipeline_reads_the_document_anew(page: Page, picture: Path) -> None:
    choose(page, picture)
    before = texts(page)
    with page.expect_response("**/ocr/v1/again?*") as response:
        page.get_by_label("Pipeline").select_option("again")
    assert response.value.ok
    assert texts(page) == before
