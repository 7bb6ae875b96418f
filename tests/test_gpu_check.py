"""The verdict of `scripts/check_gpu.sh`: on a pipeline that reads the same, and on spoilt ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_fakes import hide_gpus

from benchmarks import corpus
from benchmarks.devices import check_device, main
from serving.ocr.pipeline import Pipeline
from serving.plan.load import open_pipeline
from serving.types import Page


@pytest.fixture(scope="module")
def pipeline(built: Path, repo: Path) -> Iterator[Pipeline]:
    pipeline = open_pipeline(repo / "configs/PP-OCRv4_mobile.yaml", models=built, device="cpu")
    yield pipeline
    pipeline.close()


class Spoilt:
    """The same pipeline, but every other page of a crowd reads otherwise."""

    def __init__(self, pipeline: Pipeline, *, blind: bool) -> None:
        self.describe = pipeline.describe
        self._pipeline, self._blind, self._read = pipeline, blind, 0

    def read(self, image: Any) -> Page:
        self._read += 1
        page = self._pipeline.read(image)
        spoilt = self._blind or self._read > 1
        return replace(page, lines=page.lines[:1]) if spoilt else page


def test_the_same_pipeline_holds_and_a_spoilt_one_does_not(pipeline: Pipeline) -> None:
    pages = list(corpus.pages(seed=7, count=1))
    assert all(check.holds for check in check_device(pipeline, pipeline, pages, []))

    def held(second: Any) -> list[bool]:
        return [check.holds for check in check_device(pipeline, second, pages, [])]

    assert held(Spoilt(pipeline, blind=True)) == [True, False, False, True]
    assert held(Spoilt(pipeline, blind=False)) == [True, True, True, False]


def test_without_a_gpu_it_says_so(
    built: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_gpus(monkeypatch)
    yaml = str(repo / "configs/PP-OCRv4_mobile.yaml")
    assert main([yaml, "--models", str(built)]) == 1
    assert capsys.readouterr().err.startswith("Error: ")
