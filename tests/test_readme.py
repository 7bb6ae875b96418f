"""The README and docs/ are short, and name what exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml
from docs_text import links, pages, programs

from serving import OcrPipeline, PageResult, load_pipeline
from serving.config import load_config
from serving.http.errors import TABLE
from serving.http.routes.ocr import OcrQuery


@pytest.fixture(scope="module")
def readme(repo: Path) -> str:
    return (repo / "README.md").read_text(encoding="utf-8")


WORDS = 650
"""Two minutes."""


def test_the_readme_takes_two_minutes(readme: str) -> None:
    assert len(readme.split()) <= WORDS


def test_every_link_and_picture_exists(repo: Path) -> None:
    targets = [(page, target) for page, text in pages(repo).items() for target in links(text)]
    assert len(targets) > 10
    for page, target in targets:
        assert (page.parent / target).is_file(), (page.name, target)


def test_every_page_is_linked_from_the_readme(readme: str, repo: Path) -> None:
    assert {f"docs/{page.name}" for page in (repo / "docs").glob("*.md")} <= set(links(readme))


def test_what_is_where_names_every_part_of_the_package(readme: str, repo: Path) -> None:
    _, _, table = readme.partition("## What is where")
    named = set(re.findall(r"`((?:serving|benchmarks)[\w./]*)`", table))
    assert all((repo / path).exists() for path in named)
    parts = {path.parent for path in (repo / "serving").glob("*/__init__.py")}
    assert {str(part.relative_to(repo)) for part in parts} <= named


def test_every_file_that_a_page_names_exists(repo: Path) -> None:
    for page, text in pages(repo).items():
        for path in re.findall(r"\b(?:scripts|configs|docs|tests|serving)/[\w./-]*\w", text):
            assert (repo / path).exists(), (page.name, path)


def test_the_programs_compile_and_the_answer_is_the_pictures_first_line(
    readme: str, repo: Path, built: Path
) -> None:
    for page, text in pages(repo).items():
        for program in programs(text):
            compile(program, page.name, "exec")
    (first,) = re.findall(r'"data": "(The [^"]+)"', readme)
    with load_pipeline(repo / "configs/PP-OCRv4_mobile.yaml", models=built) as pipeline:
        (result,) = pipeline.predict(repo / "docs/page.jpg")
    # Which spaces PP-OCRv4 finds depends on the precision in which a machine computes.
    assert result.lines[0].text.replace(" ", "") == first.replace(" ", "")


def test_the_python_page_names_every_method_and_argument(
    repo: Path,
) -> None:
    text = (repo / "docs" / "python.md").read_text(encoding="utf-8")
    methods = [name for name in vars(PageResult) if not name.startswith("_")]
    assert {"lines", "json", "save_all"} <= set(methods)
    calls = (load_pipeline, OcrPipeline.predict, PageResult.save_to_json, PageResult.print)
    arguments = {name for call in calls for name in inspect.signature(call).parameters}
    for name in [*methods, *arguments - {"self", "options"}]:
        assert re.search(rf"\b{name}\b", text), name


def test_every_shipped_pipeline_is_named(repo: Path) -> None:
    text = "".join(pages(repo).values())
    for path in (repo / "configs").rglob("*.yaml"):
        assert f"{path.relative_to(repo)}" in text
        assert yaml.safe_load(path.read_text())["pipeline_name"] == "OCR"
        load_config(path)


def test_every_error_and_every_option_of_a_request_is_documented(repo: Path) -> None:
    text = (repo / "docs" / "http.md").read_text(encoding="utf-8")
    rows = [f"| {status} | `{code}` |" for status, code in TABLE.values()]
    assert [row for row in rows if row not in text] == []
    assert [
        name for name in OcrQuery.model_fields if f"`{name}" not in text and f"{name}=" not in text
    ] == []
