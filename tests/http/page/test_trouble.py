"""Errors on the page, and how to recover from them."""

from __future__ import annotations

import json
from pathlib import Path

import imaging_files
import pytest
from page_actions import choose, texts
from playwright.sync_api import Page, Route, expect

OCR = "**/ocr/v1/*"
HOSTILE = "<img src=x onerror=\"document.title='mine'\"><script>document.title='mine'</script>"


NDJSON = "application/x-ndjson"


def stream(*parts: dict[str, object]) -> str:
    """Pages one by one, as the server sends them."""
    return "".join(json.dumps(line) + "\n" for line in parts)


def refuse(status: int, code: str, message: str, **headers: str) -> dict[str, object]:
    """An answer of the contract's error form, to stand in for the server's."""
    body = {"error": {"code": code, "message": message, "request_id": "abc123"}}
    return {"status": status, "headers": headers, "json": body}


@pytest.mark.parametrize(
    ("name", "data", "title", "message"),
    [
        ("notes.txt", b"no picture", "This file is not an image or PDF", "PDF"),
        ("broken.jpg", b"\xff\xd8\xff\xe0" + b"x" * 99, "This file cannot be opened", ""),
        ("huge.png", imaging_files.png(90_000, 90_000), "The file is too large", "90000 x 90000"),
        ("empty.png", b"", "The server rejected this request", "The image is empty"),
    ],
)
def test_error_responses(
    page: Page, tmp_path: Path, name: str, data: bytes, title: str, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    choose(page, path)
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.locator("#failed-message")).to_contain_text(message)
    expect(page.locator("#failed-id")).to_contain_text("Request ")
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    expect(page.locator("#status")).to_have_text(f"{name}: {title}")
    expect(page.get_by_role("button", name="Copy all")).to_be_hidden()


@pytest.mark.parametrize(
    ("answer", "title", "hint"),
    [
        (
            refuse(429, "busy", "no permit is left", **{"Retry-After": "3"}),
            "The server is busy",
            "Try again in 3 seconds.",
        ),
        (refuse(504, "timeout", "not done within 60 s"), "The request timed out", ""),
        (refuse(503, "not_ready", "still loading"), "The server is still starting", ""),
        ({"status": 502, "body": "<h1>Bad Gateway</h1>"}, "Unexpected response", ""),
        ({"status": 200, "body": "<h1>Hello</h1>"}, "Unexpected response", ""),
    ],
)
def test_errors_that_a_retry_fixes(
    page: Page, picture: Path, answer: dict[str, object], title: str, hint: str
) -> None:
    page.route(OCR, lambda route: route.fulfill(**answer), times=1)  # type: ignore[arg-type]
    choose(page, picture)
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    if hint:
        expect(page.locator("#failed-hint")).to_have_text(hint)
    page.get_by_role("button", name="Try again").click()
    assert len(texts(page)) > 5


def test_a_server_that_does_not_respond(page: Page, picture: Path) -> None:
    page.context.set_offline(True)
    choose(page, picture)
    expect(page.get_by_role("heading", name="The server does not respond")).to_be_visible()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    assert len(texts(page)) > 5


def test_a_reading_can_be_cancelled(page: Page, picture: Path) -> None:
    page.route(OCR, lambda route: None, times=1)  # no answer ever comes
    with page.expect_request(OCR):
        choose(page, picture)
    expect(page.get_by_text("Reading…", exact=True)).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    assert len(texts(page)) > 5


PAGE = {"page": 0, "image": 0, "width": 40, "height": 20, "lines": [], "timing": {}, "pages": 3}


@pytest.mark.parametrize(
    ("lines", "title", "message"),
    [
        ([], "The server does not respond", "The response was cut off."),
        ([PAGE], "The server does not respond", "The response was cut off."),
        (
            [PAGE, {"error": {"code": "timeout", "message": "not done within 90 s"}}],
            "The request timed out",
            "Not done within 90 s.",
        ),
    ],
)
def test_an_answer_that_ends_midway(
    page: Page, tmp_path: Path, lines: list[dict[str, object]], title: str, message: str
) -> None:
    path = tmp_path / "three.pdf"
    path.write_bytes(imaging_files.encoded(imaging_files.picture(size=(40, 20)), "PDF"))
    answer = {"body": stream(*lines), "content_type": NDJSON}
    page.route(OCR, lambda route: route.fulfill(**answer), times=1)  # type: ignore[arg-type]
    choose(page, path)
    if lines:  # the pages that arrived stay, with the error
        expect(page.locator("#summary")).to_contain_text("1 of 3 pages read")
        expect(page.locator("#timing")).to_have_text(f"{title}. {message}")
        page.get_by_role("button", name="Retry").click()
    else:
        expect(page.get_by_role("heading", name=title)).to_be_visible()
        expect(page.locator("#failed-message")).to_have_text(message)
        page.get_by_role("button", name="Try again").click()
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.get_by_role("button", name="Download")).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_be_hidden()


def test_another_pipeline_chosen_while_reading(page: Page, picture: Path) -> None:
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:  # no answer ever comes
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route(OCR, hold_the_first)
    with page.expect_request(OCR):
        choose(page, picture)
    expect(page.get_by_text("Reading…", exact=True)).to_be_visible()
    with page.expect_response("**/ocr/v1/again?*") as response:
        page.get_by_label("Pipeline").select_option("again")
    assert response.value.ok
    assert len(texts(page)) > 5


def test_a_download_that_fails(page: Page, picture: Path) -> None:
    choose(page, picture)
    texts(page)
    page.route("**/ocr/v1/*format=pdf*", lambda route: route.fulfill(**refuse(429, "busy", "full")))  # type: ignore[arg-type]
    page.get_by_role("button", name="Download").click()
    page.get_by_role("button", name="Searchable PDF").click()
    expect(page.get_by_role("alert")).to_have_text("The server is busy. Full.")
    expect(page.get_by_role("button", name="Download")).to_be_visible()  # no longer "Preparing…"


def test_a_key_is_requested_and_kept_in_the_tab(page: Page, picture: Path) -> None:
    keys: list[str | None] = []

    def guard(route: Route) -> None:
        key = route.request.header_value("Authorization")
        if "/ocr/v1/" in route.request.url:
            keys.append(key)
        if key == "Bearer right":
            route.continue_()
        else:
            message = "this server requires an API key" if key is None else "unknown API key"
            route.fulfill(**refuse(401, "unauthorized", message))  # type: ignore[arg-type]

    page.route("**/ocr/**", guard)
    choose(page, picture)
    dialog = page.get_by_role("dialog", name="This server requires an API key")
    expect(dialog).to_contain_text("This server requires an API key.")
    dialog.get_by_label("API key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Unknown API key.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="API key required")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    dialog.get_by_label("API key", exact=True).fill("right")
    page.keyboard.press("Enter")
    assert len(texts(page)) > 5
    assert keys == [None, "Bearer wrong", None, "Bearer right"]
    page.reload()
    expect(page.get_by_label("Pipeline")).to_be_enabled()
    page.context.new_page().goto(page.url)
    assert page.context.pages[1].evaluate("sessionStorage.length") == 0


def test_a_key_is_requested_at_once_if_the_list_of_pipelines_requires_one(page: Page) -> None:
    page.route(
        "**/ocr/v1",
        lambda route: route.fulfill(
            **refuse(401, "unauthorized", "this server requires an API key")
        ),  # type: ignore[arg-type]
        times=1,
    )
    page.reload()
    page.get_by_role("dialog").get_by_label("API key", exact=True).fill("right")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Pipeline")).to_have_value("accurate")


def test_text_of_a_document_is_never_html(page: Page, picture: Path, tmp_path: Path) -> None:
    line = {"data": HOSTILE, "score": 0.5, "box": [[1, 1], [9, 1], [9, 9], [1, 9]]}
    page_part = {"width": 40, "height": 20, "lines": [line], "pages": 1}
    body = stream(page_part, {"request_id": "x", "timing": {HOSTILE: 1}, "engine": {}})
    page.route(OCR, lambda route: route.fulfill(body=body, content_type=NDJSON))
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_bytes(imaging_files.encoded(imaging_files.picture(size=(40, 20)), "PNG"))
    choose(page, path)
    assert texts(page) == [HOSTILE]
    expect(page.locator("#name")).to_have_text(path.name)
    expect(page.locator("#timing")).to_contain_text(HOSTILE)
    expect(page.locator("#texts")).to_have_text(HOSTILE)  # drawn in place
    expect(page.get_by_text("Doubtful: a score below 90 %.")).to_be_visible()
    expect(page.locator("img, script")).to_have_count(2)  # the picture's, and main.js
    assert "mine" not in page.title()
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>no</b>'")
