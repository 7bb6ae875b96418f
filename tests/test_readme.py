"""The README and docs/ name what is there, and say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from docs_text import commands, links, pages, programs

from serving.config import load_config


@pytest.fixture(scope="module")
def readme(repo: Path) -> str:
    return (repo / "README.md").read_text(encoding="utf-8")


def test_every_link_and_picture_is_there(repo: Path) -> None:
    found = [(page, target) for page, text in pages(repo).items() for target in links(text)]
    assert len(found) > 10
    for page, target in found:
        assert (page.parent / target).is_file(), (page.name, target)


def test_every_page_is_linked_from_the_readme(readme: str, repo: Path) -> None:
    told = set(links(readme))
    assert {f"docs/{page.name}" for page in (repo / "docs").glob("*.md")} <= told


def test_every_file_that_a_command_names_exists(repo: Path) -> None:
    for page, text in pages(repo).items():
        for command in commands(text):
            for path in re.findall(r"(?:scripts|configs|docs)/[\w./-]+", command):
                assert (repo / path).is_file(), (page.name, command)


def test_the_pythons_compile_and_the_first_line_is_the_pictures(
    readme: str, repo: Path, built: Path
) -> None:
    from serving import load_pipeline

    for page, text in pages(repo).items():
        for program in programs(text):
            compile(program, page.name, "exec")
    (told,) = re.findall(r'"data": "(The [^"]+)"', readme)
    with load_pipeline(repo / "configs/PP-OCRv4_mobile.yaml", models=built) as pipeline:
        (result,) = pipeline.predict(repo / "docs/page.jpg")
    # Which spaces of English PP-OCRv4 finds differs with the precision that a machine computes in.
    assert result.lines[0].text.replace(" ", "") == told.replace(" ", "")


def test_every_pipeline_that_is_shipped_is_told_of(repo: Path) -> None:
    told = "".join(pages(repo).values())
    for path in (repo / "configs").rglob("*.yaml"):
        assert f"{path.relative_to(repo)}" in told
        assert yaml.safe_load(path.read_text())["pipeline_name"] == "OCR"
        load_config(path)
