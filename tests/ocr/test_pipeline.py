"""The whole reading on real models: rendered pages, turned pages, lines on their own."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import cycle, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import corpus
from serving.config import load_config
from serving.config.options import Options
from serving.engines.base import EngineSpec
from serving.errors import BadRequest
from serving.imaging.crop import crop
from serving.ocr.pipeline import Pipeline
from serving.ocr.recognise import line_steps, next_step, width_classes
from serving.plan.load import open_pipeline
from serving.scores import Overlap, character_overlap
from serving.types import Image, Page


@pytest.fixture(scope="module")
def pages() -> list[corpus.Sample]:
    """Of little text: a receipt, an invoice and a notice, clean and degraded, in both languages."""
    return list(islice(corpus.pages(seed=5, count=11), 7, None))


@pytest.fixture(scope="module")
def readings(pipeline: Pipeline, pages: list[corpus.Sample]) -> list[Page]:
    """What is read on each of the pages, upright and alone."""
    return [pipeline.read(page.image) for page in pages]


@pytest.fixture(scope="module")
def turned(pipeline: Pipeline, pages: list[corpus.Sample]) -> list[Page]:
    """What is read on the first two pages upside down."""
    return [pipeline.read(upside_down(page.image)) for page in pages[:2]]


def upside_down(image: Image) -> Image:
    return np.ascontiguousarray(image[::-1, ::-1])


def character_f1(pages: list[corpus.Sample], readings: list[Page]) -> float:
    total = Overlap()
    for page, reading in zip(pages, readings, strict=True):
        texts = [line.text for line in reading.lines]
        total += character_overlap([line.text for line in page.lines], texts)
    return total.f1


def test_rendered_pages_are_read(pages: list[corpus.Sample], readings: list[Page]) -> None:
    assert character_f1(pages, readings) > 0.95


def test_pages_are_read_while_the_pipeline_warms(
    repo: Path, built: Path, pages: list[corpus.Sample], readings: list[Page]
) -> None:
    """It warms until the page is read, or for five minutes if that waits for the end of that."""
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    cold = open_pipeline(config, models=built, warm=False)
    read, limit = threading.Event(), time.monotonic() + 300
    endless: dict[str, Any] = {
        section: takewhile(lambda _: not read.is_set() and time.monotonic() < limit, cycle(sizes))
        for section, sizes in cold.hot_shapes.items()
    }
    warming = threading.Thread(target=replace(cold, hot_shapes=endless).warm)
    warming.start()
    try:
        assert cold.read(pages[0].image).lines == readings[0].lines
        assert warming.is_alive()
    finally:
        read.set()
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
        config,
        models=built,
        on_batch=lambda section, lines: calls.append((section, lines)),
        warm=False,
    )
    one_each = {section: sizes[:1] for section, sizes in observed.hot_shapes.items()}
    replace(observed, hot_shapes=one_each).warm()
    assert calls == []  # warming is not reported
    upright = Options(use_textline_orientation=False)
    page = observed.read(pages[0].image, upright)
    assert page == replace(pipeline.read(pages[0].image, upright), timing=page.timing)
    assert {section for section, _ in calls} == {"TextRecognition"}
    assert sum(lines for _, lines in calls) >= len(page.lines) > 5
    as_sent = Options(use_doc_orientation_classify=False)
    for turned in pages:  # until one has a line that is doubtful enough for the classifier
        if ("TextLineOrientation", 1) not in calls:
            observed.read(upside_down(turned.image), as_sent)
    observed.close()
    assert ("TextLineOrientation", 1) in calls


def test_pages_upside_down_read_as_well(
    pages: list[corpus.Sample], readings: list[Page], turned: list[Page]
) -> None:
    upright = character_f1(pages[:2], readings[:2])
    assert character_f1(pages[:2], turned) > upright - 0.02


def test_a_turned_line_says_so_and_its_box_starts_at_its_own_top_left(
    readings: list[Page], turned: list[Page]
) -> None:
    """Lines that are read for sure, and whose text is on the page once."""
    times = Counter(line.text for line in readings[0].lines)
    sure = [line for line in readings[0].lines if line.score > 0.95 and times[line.text] == 1]
    upright = {line.text: line for line in sure}
    height, width = readings[0].height, readings[0].width
    known = [line for line in turned[0].lines if line.text in upright and line.score > 0.95]
    assert len(known) > 5
    assert {line.turn for line in known} == {180}
    for line in known:
        x, y = upright[line.text].box[0]
        assert abs(width - x - line.box[0][0]) <= 12
        assert abs(height - y - line.box[0][1]) <= 12


def test_a_line_that_runs_down_the_page_is_laid_flat(
    pipeline: Pipeline, pages: list[corpus.Sample], readings: list[Page]
) -> None:
    down = np.ascontiguousarray(np.rot90(pages[0].image, -1))
    texts = {line.text for line in readings[0].lines}
    found = pipeline.read(down).lines
    assert {line.turn for line in found if line.text in texts} == {90}
    assert len(texts & {line.text for line in found}) > 0.5 * len(texts)


def test_a_page_without_text_is_an_empty_page(pipeline: Pipeline) -> None:
    for shape in ((300, 400), (1, 1), (3, 900), (20, 20)):
        page = pipeline.read(np.full((*shape, 3), 255, np.uint8))
        assert (page.height, page.width, page.lines) == (*shape, ())


def test_options_hold_for_one_call(
    pipeline: Pipeline, pages: list[corpus.Sample], readings: list[Page]
) -> None:
    image, before = pages[0].image, readings[0]
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
    ][::4]
    assert len(crops) > 30
    read = pipeline.recogniser.read
    alone = [read(picture) for picture in crops]
    order = np.random.default_rng(0).permutation(len(crops)).tolist()
    crowd = pipeline.scheduler.map(read, [crops[i] for i in order])
    assert [alone[i] for i in order] == crowd

    differing: list[int] = []

    def caller(seed: int) -> None:
        mine = np.random.default_rng(seed).permutation(len(crops)).tolist()[:12]
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
    """The upper parts of the pages, with a few lines each."""
    parts = [page.image[: len(page.image) // 4] for page in pages]
    alone = [pipeline.read(part).lines for part in parts]
    assert min(len(lines) for lines in alone) > 2
    found: dict[int, object] = {}

    def caller(i: int) -> None:
        found[i] = pipeline.read(parts[i % len(parts)]).lines

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(16)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert all(lines == alone[i % len(parts)] for i, lines in found.items())
    assert len(found) == 16


@pytest.mark.parametrize(
    ("spec", "count", "single", "step", "share"),
    [
        (EngineSpec("openvino", "bfloat16"), 20, 256, 63, 0.34),
        (EngineSpec("onnxruntime"), 75, 256, 15, 0.1),
        (EngineSpec("onnxruntime", device="gpu:0"), 9, 320, 159, 0.5),
    ],
    ids=["OpenVINO", "ONNX Runtime", "GPU"],
)
def test_widths_come_in_a_bounded_set_of_classes_close_above(
    spec: EngineSpec, count: int, single: int, step: int, share: float
) -> None:
    steps = line_steps(spec)
    classes = width_classes(steps)
    assert len(classes) == count
    for width in range(1, 3201):
        # A single character gets as much padding as the model was trained with.
        closest = single if width <= 52 else max(96, width + step, width * (1 + share))
        assert width <= next_step(width, steps) <= closest
        assert next_step(width, steps) in classes


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
