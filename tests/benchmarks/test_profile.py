"""Profiles of our own pipeline, on the real models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus import Sample
from benchmarks.profile import WAITING, Stopwatch, profile, replayed, timed
from benchmarks.roofline import MacCounter, MatrixProduct
from serving.api import OcrPipeline, load_pipeline
from serving.engines.base import EngineSpec
from serving.errors import EngineError
from serving.evaluate.labels import LabelledPage
from serving.models.conversion import onnx_graph

MODELS = {
    "TextDetection": "PP-OCRv4_mobile_det",
    "TextLineOrientation": "ch_ppocr_mobile_v2.0_cls",
    "TextRecognition": "PP-OCRv4_mobile_rec",
}


@pytest.fixture(scope="module")
def reader(repo: Path, built: Path) -> OcrPipeline:
    return load_pipeline(repo / "configs/PP-OCRv4_mobile.yaml", models=built)


def counter(built: Path, section: str) -> MacCounter:
    return MacCounter(onnx_graph(built / MODELS[section], built / "engines", convert=False))


@pytest.mark.parametrize(
    ("section", "height", "width", "gmac"),
    [
        ("TextDetection", 960, 704, 3.80),
        ("TextRecognition", 48, 320, 0.70),
        ("TextLineOrientation", 48, 192, 0.0163),
    ],
)
def test_multiply_adds_of_the_graphs(
    built: Path, section: str, height: int, width: int, gmac: float
) -> None:
    assert counter(built, section).macs(height, width) / 1e9 == pytest.approx(gmac, rel=0.01)


def test_multiply_adds_between_widths(built: Path) -> None:
    recognition = counter(built, "TextRecognition")
    low, high = recognition.macs(48, 320), recognition.macs(48, 384)
    assert recognition.macs_at_width(48, 320) == low
    assert recognition.macs_at_width(48, 352) == pytest.approx((low + high) / 2)
    assert recognition.macs_at_width(48, 32) < recognition.macs(48, 64)


def test_a_matrix_product_has_a_rate(built: Path) -> None:
    product = MatrixProduct(EngineSpec("onnxruntime"), callers=2)
    product.sample()
    assert product.rate > 1e8
    product.close()


def test_a_timed_pipeline_reads_the_same_and_times_every_stage(
    reader: OcrPipeline, sample_page: Sample
) -> None:
    stopwatch, inputs = Stopwatch(), []
    pipeline = replace(reader.pipeline, score_thresh=0.5)
    timing = timed(
        pipeline, stopwatch, lambda section, image: inputs.append((section, image.shape))
    )
    assert timing.read(sample_page.image) == pipeline.read(sample_page.image)
    seconds = stopwatch.seconds
    assert seconds["TextDetection"] > seconds["TextDetection engine"] > 0
    assert seconds[WAITING] > seconds["TextRecognition"] > 0
    assert seconds["TextRecognition engine"] > 0
    assert ("TextDetection", sample_page.image.shape) in inputs
    assert sum(section == "TextRecognition" for section, _ in inputs) >= len(sample_page.lines) / 2


def test_replayed_engines_answer_the_same_and_nothing_new(
    reader: OcrPipeline, sample_page: Sample
) -> None:
    pipeline, engines = replayed(reader.pipeline)
    first = pipeline.read(sample_page.image)
    for engine in engines:
        engine.replaying = True
    assert pipeline.read(sample_page.image) == first
    assert sum(engine.seconds for engine in engines) > 0
    with pytest.raises(EngineError, match="another input"):
        pipeline.read(np.ascontiguousarray(sample_page.image[::-1]))


def test_profile_of_a_page(repo: Path, built: Path) -> None:
    page = LabelledPage("set", repo / "docs/page.jpg", ())
    (found,) = profile(repo / "configs/PP-OCRv4_mobile.yaml", [page], built)
    ms = {stage.name: stage.ms for stage in found.stages}
    assert min(ms.values()) > 0
    assert ms["lines: engine"] > ms["lines: crop, resize, CTC"]
    detection, recognition = found.efficiency
    assert detection.gmac_per_page > 1
    assert 0 < recognition.share < 2
    assert found.overhead.megapixels > 0.5
    assert found.overhead.lines > 5
    assert 0 < found.overhead.ms < 1000
    assert found.overhead.budget_ms == pytest.approx(
        8 * found.overhead.megapixels + 0.1 * found.overhead.lines
    )
