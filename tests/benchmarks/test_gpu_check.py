"""The verdict of `scripts/check_gpu.sh`, on a pipeline that reads the same and on broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from gpu_fakes import hide_gpus

from benchmarks import corpus
from benchmarks.__main__ import main
from benchmarks.gpu_check import check_device, measure_speed
from serving.config import load_config
from serving.ocr.pipeline import Pipeline
from serving.plan.load import open_pipeline
from serving.types import Page


@pytest.fixture(scope="module")
def pipeline(built: Path, repo: Path) -> Iterator[Pipeline]:
    pipeline = open_pipeline(
        load_config(repo / "configs/PP-OCRv4_mobile.yaml"), models=built, device="cpu", warm=False
    )
    yield pipeline
    pipeline.close()


class Broken:
    """The same pipeline, which loses lines: of every page, or of all but the first that it reads
    (as one whose batches change what a line reads).
    """

    def __init__(self, pipeline: Pipeline, *, always: bool) -> None:
        self.to_dict = pipeline.to_dict
        self._pipeline, self._always, self._read = pipeline, always, 0

    def read(self, image: Any) -> Page:
        self._read += 1
        page = self._pipeline.read(image)
        broken = self._always or self._read > 1
        return replace(page, lines=page.lines[:1]) if broken else page


def test_the_same_pipeline_passes_and_a_broken_one_does_not(pipeline: Pipeline) -> None:
    pages = list(corpus.pages(seed=7, count=1))

    def passed(device: Any) -> list[bool]:
        return [check.passed for check in check_device(pipeline, device, pages, [])]

    assert passed(pipeline) == [True, True, True, True]
    assert passed(Broken(pipeline, always=True)) == [True, False, False, True]
    assert passed(Broken(pipeline, always=False)) == [True, True, True, False]


def test_speed_is_measured_for_each_pipeline(pipeline: Pipeline) -> None:
    image = next(corpus.pages(seed=7, count=1)).image[:200]  # it is read 50 times
    first, second = measure_speed((pipeline, pipeline), [image])
    assert first.callers == second.callers >= 4
    assert min(first.throughput, first.latency, second.throughput, second.latency) > 0


def test_without_a_gpu_the_command_says_so(
    built: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_gpus(monkeypatch)
    yaml = str(repo / "configs/PP-OCRv4_mobile.yaml")
    result = CliRunner().invoke(main, ["check-gpu", yaml, "--models", str(built)])
    assert result.exit_code == 1
    assert "Error: " in result.output
