"""The whole reading on real models: rendered pages, turned pages, lines on their own."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus
from serving.config import load_config
from serving.config.options import Options
from serving.errors import BadRequest
from serving.imaging.crop import crop
from serving.ocr.pipeline import Pipeline
from serving.ocr.recognise import width_class, width_classes
from serving.plan.load import open_pipeline
from serving.scores import Overlap, character_overlap


@pytest.fixture(scope="module")
def pages() -> list[corpus.Sample]:
    return list(corpus.pages(seed=5, count=6))


def character_f1(pipeline: Pipeline, pages: list[corpus.Sample], *, turned: bool = False) -> float:
    total = Overlap()
    for page in pages:
        image = np.ascontiguousarray(page.image[::-1, ::-1]) if turned else page.image
        texts = [line.text for line in pipeline.read(image).lines]
        total += character_overlap([line.text for line in page.lines], texts)
    return total.f1


def test_rendered_pages_are_read(pipeline: Pipeline, pages: list[corpus.Sample]) -> None:
    assert character_f1(pipeline, pages) > 0.95


def test_pages_are_read_while_the_pipeline_warms(
    repo: Path, built: Path, pipeline: Pipeline, pages: list[corpus.Sample]
) -> None:
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    cold = open_pipeline(config, models=built, warm=False)
    warming = threading.Thread(target=cold.warm)
    warming.start()
    try:
        during = 0
        for page in pages:
            during += warming.is_alive()
            assert cold.read(page.image).lines == pipeline.read(page.image).lines
        assert during > 1
    finally:
        warming.join()
        cold.close()


def test_the_time_of_a_page_is_in_its_timing(
    pipeline: Pipeline, pages: list[corpus.Sample]
) -> None:
    start = time.perf_counter()
    timing = pipeline.read(pages[0].image).timing
    took = 1e3 * (time.perf_counter() - start)
    assert 0.5 * took < timing["detect"] + timing["recognise"] < took
    assert min(timing.values()) > 0


def test_the_observer_gets_the_section_and_the_lines_of_each_call(
    pipeline: Pipeline, pages: list[corpus.Sample], built: Path, repo: Path
) -> None:
    calls: list[tuple[str, int]] = []
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    observed = open_pipeline(
        config, models=built, on_batch=lambda section, lines: calls.append((section, lines))
    )
    assert calls == []  # warming is not reported
    upright = Options(use_textline_orientation=False)
    page = observed.read(pages[0].image, upright)
    assert page == replace(pipeline.read(pages[0].image, upright), timing=page.timing)
    assert {section for section, _ in calls} == {"TextRecognition"}
    assert sum(lines for _, lines in calls) >= len(page.lines) > 5
    for turned in pages:
        observed.read(np.ascontiguousarray(turned.image[::-1, ::-1]))
    observed.close()
    assert ("TextLineOrientation", 1) in calls


def test_pages_upside_down_read_as_well(pipeline: Pipeline, pages: list[corpus.Sample]) -> None:
    upright = character_f1(pipeline, pages)
    assert character_f1(pipeline, pages, turned=True) > upright - 0.02


def test_a_turned_line_says_so_and_its_box_starts_at_its_own_top_left(pipeline: Pipeline) -> None:
    page = next(iter(corpus.pages(seed=5, count=1)))
    upright = {line.text: line for line in pipeline.read(page.image).lines if line.score > 0.95}
    height, width = page.image.shape[:2]
    turned = pipeline.read(np.ascontiguousarray(page.image[::-1, ::-1])).lines
    known = [line for line in turned if line.text in upright and line.score > 0.95]
    assert len(known) > 5
    assert {line.turn for line in known} == {180}
    for line in known:
        x, y = upright[line.text].box[0]
        assert abs(width - x - line.box[0][0]) <= 12
        assert abs(height - y - line.box[0][1]) <= 12


def test_a_line_that_runs_down_the_page_is_laid_flat(pipeline: Pipeline) -> None:
    page = next(iter(corpus.pages(seed=5, count=1)))
    down = np.ascontiguousarray(np.rot90(page.image, -1))
    texts = {line.text for line in pipeline.read(page.image).lines}
    found = pipeline.read(down).lines
    assert {line.turn for line in found if line.text in texts} == {90}
    assert len(texts & {line.text for line in found}) > 0.5 * len(texts)


def test_a_page_without_text_is_an_empty_page(pipeline: Pipeline) -> None:
    for shape in ((300, 400), (1, 1), (3, 900), (20, 20)):
        page = pipeline.read(np.full((*shape, 3), 255, np.uint8))
        assert (page.height, page.width, page.lines) == (*shape, ())


def test_options_hold_for_one_call(pipeline: Pipeline, pages: list[corpus.Sample]) -> None:
    image = pages[0].image
    before = pipeline.read(image)
    assert pipeline.read(image, Options(text_det_box_thresh=0.999)).lines == ()
    sure = pipeline.read(image, Options(text_rec_score_thresh=0.97)).lines
    assert sure == tuple(line for line in before.lines if line.score >= 0.97)
    assert pipeline.read(image) == before
    settings = pipeline.settings(Options(text_det_thresh=0.4))
    assert settings["text_det_params"]["thresh"] == 0.4
    assert pipeline.settings()["text_det_params"]["thresh"] == 0.3


def test_an_option_it_cannot_obey_is_refused(pipeline: Pipeline) -> None:
    without = replace(pipeline, orienter=None)
    with pytest.raises(BadRequest, match="use_textline_orientation"):
        without.read(np.zeros((64, 64, 3), np.uint8), Options(use_textline_orientation=True))


def test_a_line_reads_the_same_alone_among_others_and_under_16_callers(
    pipeline: Pipeline, pages: list[corpus.Sample]
) -> None:
    """Bit for bit: text and score are equal, not nearly equal."""
    crops = [
        crop(page.image, np.array(line.quad, np.int32))[0] for page in pages for line in page.lines
    ][:120]
    read = pipeline.recogniser.read
    alone = [read(picture) for picture in crops]
    rng = np.random.default_rng(0)
    for _ in range(2):
        order = rng.permutation(len(crops)).tolist()
        crowd = pipeline.scheduler.map(read, [crops[i] for i in order])
        assert [alone[i] for i in order] == crowd

    differing: list[int] = []

    def caller(seed: int) -> None:
        mine = np.random.default_rng(seed).permutation(len(crops)).tolist()[:60]
        found = pipeline.scheduler.map(read, [crops[i] for i in mine])
        differing.extend(i for i, got in zip(mine, found, strict=True) if got != alone[i])

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(16)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert differing == []


def test_a_page_reads_the_same_under_concurrent_requests(
    pipeline: Pipeline, pages: list[corpus.Sample]
) -> None:
    alone = [pipeline.read(page.image).lines for page in pages]
    found: dict[int, object] = {}

    def caller(i: int) -> None:
        found[i] = pipeline.read(pages[i % len(pages)].image).lines

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(16)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert all(lines == alone[i % len(pages)] for i, lines in found.items())
    assert len(found) == 16


def test_widths_come_in_a_bounded_set_of_classes_close_above() -> None:
    classes = width_classes()
    assert len(classes) == 20
    for width in range(1, 3201):
        # A single character gets as much padding as the model was trained with.
        closest = 256 if width <= 52 else max(96, width + 63, width * 1.34)
        assert width <= width_class(width) <= closest
        assert width_class(width) in classes


def test_describe_is_plain(pipeline: Pipeline) -> None:
    described = json.loads(json.dumps(pipeline.to_dict()))
    assert described["TextRecognition"]["model"] == "PP-OCRv4_mobile_rec"
    engine = described["TextRecognition"]["engine"]
    each = engine["threads"] // engine["streams"]
    assert f"{engine['streams']}x{each}" in engine["name"]  # as `ocr-hpi plan` prints it


def test_an_empty_answer_at_a_small_scale_says_so(pipeline: Pipeline) -> None:
    """A long screenshot that is scaled to nothing, and an ordinary page without text."""
    long = np.full((7000, 500, 3), 255, np.uint8)
    page = pipeline.read(long, Options(text_det_tiling=False))
    assert page.lines == ()
    assert "scaled to 14%" in page.hint
    assert pipeline.read(np.full((900, 700, 3), 255, np.uint8)).hint == ""
