"""What the tests of the page do in the browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page


def choose(page: Page, *paths: Path, button: str = "Choose files") -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button).click()
    chooser.value.set_files([str(path) for path in paths])


def texts(page: Page) -> list[str]:
    page.locator("#lines li").first.wait_for()
    return page.locator("#lines .data").all_text_contents()


def points(page: Page) -> list[list[list[int]]]:
    return [
        [[int(number) for number in point.split(",")] for point in polygon.split()]
        for polygon in page.locator("#boxes polygon").evaluate_all(
            "all => all.map(one => one.getAttribute('points'))"
        )
    ]
