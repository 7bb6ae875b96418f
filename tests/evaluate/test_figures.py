"""Figures of labelled pages and lines, held against PaddleOCR's metrics, and their differences."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely

from benchmarks import corpus
from serving.api import load_pipeline
from serving.errors import ConfigError
from serving.evaluate.figures import Evaluation, Reading, evaluate
from serving.evaluate.labels import LabelledPage, Labels, read_labels
from serving.scores import Polygon, box_overlap

YAML = "configs/PP-OCRv4_mobile.yaml"


def quad(x: float, y: float, width: float = 100, height: float = 20) -> Polygon:
    return ((x, y), (x + width, y), (x + width, y + height), (x, y + height))


def page(
    *texts: str, boxes: tuple[Polygon, ...] | None = None, ignored: tuple[Polygon, ...] = ()
) -> LabelledPage:
    return LabelledPage("set", Path("a.png"), texts, boxes, ignored)


def crop(text: str) -> LabelledPage:
    return LabelledPage("crops", Path("a.png"), (text,), is_line=True)


def reading(*texts: str, boxes: tuple[Polygon, ...] = ()) -> Reading:
    return Reading(texts, boxes or tuple(quad(0, 40 * i) for i in range(len(texts))), 5.0)


def found(*pairs: tuple[LabelledPage, tuple[Reading, ...]]) -> Evaluation:
    names = ("a.yaml", "b.yaml")[: len(pairs[0][1])]
    return Evaluation(names, [page for page, _ in pairs], [read for _, read in pairs], [])


def metric_of_paddleocr(
    truth: list[Polygon], ignored: list[Polygon], read: list[Polygon], iou: float
) -> tuple[int, int, int]:
    """DetectionIoUEvaluator.evaluate_image, after its description: matched, truth, detected."""
    labels = [shapely.Polygon(box) for box in truth]
    labels = [label for label in labels if label.is_valid]
    regions = [region for box in ignored if (region := shapely.Polygon(box)).is_valid]
    detections = []
    for box in read:
        polygon = shapely.Polygon(box)
        if polygon.is_valid and not any(
            polygon.area and region.intersection(polygon).area / polygon.area > 0.5
            for region in regions
        ):
            detections.append(polygon)
    used_labels, used = set(), set()
    for i, label in enumerate(labels):
        for j, detection in enumerate(detections):
            if i not in used_labels and j not in used:
                common = label.intersection(detection).area
                if common / label.union(detection).area > iou:
                    used_labels.add(i)
                    used.add(j)
    return len(used), len(labels), len(detections)


@pytest.mark.parametrize("iou", [0.5, 0.7])
def test_boxes_are_counted_as_by_paddleocrs_metric(iou: float) -> None:
    """Concave and crossing polygons, ignored regions, overlapping boxes."""
    rng = np.random.default_rng(0)

    def polygons(count: int, corners: int) -> list[Polygon]:
        centres = rng.uniform(0, 300, (count, 1, 2))
        angles = np.sort(rng.uniform(0, 2 * np.pi, (count, corners)))
        if corners > 4:
            angles[::5] = rng.permutation(angles[::5], axis=1)
        radii = rng.uniform(20, 60, (count, corners, 1))
        shapes = centres + radii * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        return [tuple(map(tuple, shape)) for shape in shapes.tolist()]

    matched = 0
    for _ in range(30):
        truth, ignored = polygons(15, 7), polygons(3, 5)
        near = [
            tuple((x + rng.normal(0, 4), y + rng.normal(0, 4)) for x, y in box) for box in truth
        ]
        read = [*near, *polygons(6, 4)]
        overlap = box_overlap(truth, read, iou, ignored)
        counts = overlap.common, overlap.truth, overlap.read
        assert counts == metric_of_paddleocr(truth, ignored, read, iou)
        matched += overlap.common
    assert matched > 100


def test_detection_by_hand() -> None:
    labels = page("a", "b", boxes=(quad(0, 0), quad(0, 40)), ignored=(quad(0, 80, 300, 60),))
    boxes = quad(10, 0), quad(40, 40), quad(10, 90), quad(300, 300)
    one = found((labels, (reading("a", "b", "c", "d", boxes=boxes),)))
    figures = {name: value for name, (value,) in one.figures().items()}
    # IoU 9/11 of the first, 6/14 of the second; the third lies in the ignored region.
    assert figures["det_precision"] == pytest.approx(1 / 3)
    assert figures["det_recall_70"] == pytest.approx(1 / 2)
    assert figures["det_hmean"] == pytest.approx(2 / 5)
    assert figures["char_precision"] == pytest.approx(2 / 3)
    both = found((labels, (reading(), reading("a", boxes=(quad(0, 0),))))).figures()
    assert both["det_precision"] == (0.0, 1.0)


def test_recognition_is_scored_as_by_paddleocrs_metric() -> None:
    """Its acc, and its norm_edit_dis: the mean over lines, with spaces or without."""
    one = found(
        (crop("ab c"), (reading("abc"),)),
        (crop("abcd"), (reading("abxd"),)),
        (crop("é"), (reading("é"),)),
        (crop("ab"), (reading(""),)),
    )
    figures = {name: value for name, (value,) in one.figures().items()}
    assert figures.pop("rec_ms") == 5.0
    assert figures == {
        "rec_accuracy": pytest.approx(1 / 4),
        "rec_accuracy_no_spaces": pytest.approx(2 / 4),
        "rec_ned": pytest.approx((3 / 4 + 3 / 4 + 1 + 0) / 4),
        "rec_ned_no_spaces": pytest.approx((1 + 3 / 4 + 1 + 0) / 4),
    }


def test_text_of_pages_by_hand() -> None:
    in_order, reverse = reading("Total S", "Cash"), reading("Cash", "Total S")
    figures = found((page("Total 5", "Cash"), (in_order, reverse))).figures()
    assert figures["token_f1"] == pytest.approx((2 / 3, 2 / 3))
    assert figures["char_f1"] == pytest.approx((9 / 10, 9 / 10))
    assert figures["word_accuracy"] == pytest.approx((2 / 3, 0))
    assert figures["ned"][0] == pytest.approx(11 / 12)
    assert figures["ned"][1] < 0.5
    assert "det_hmean" not in figures


def test_sets_are_averaged_by_their_sizes() -> None:
    first, second = page("aaaa"), replace(page("b"), group="other")
    both = found((first, (reading("aaaa"),)), (second, (reading("c"),)))
    assert both.groups == {"set": 1, "other": 1}
    assert both.figures("set")["char_f1"] == (1.0,)
    assert both.figures("other")["char_f1"] == (0.0,)
    assert both.figures()["char_f1"] == pytest.approx((8 / 10,))


def test_lines_are_paired_with_what_was_read() -> None:
    boxed = page("a", "b", boxes=(quad(0, 40), quad(0, 80)))
    one = found((boxed, (reading("x", "a", boxes=(quad(0, 0), quad(0, 41))),)))
    assert list(one.pairs(0)) == [("a", quad(0, 40), ("a",)), ("b", quad(0, 80), ("",))]
    bare = found((page("Total 5", "Cash"), (reading("Thank you", "Tota1 5"),)))
    assert list(bare.pairs(0)) == [("Total 5", None, ("Tota1 5",)), ("Cash", None, ("",))]


def noisy(rng: np.random.Generator, share: float) -> Reading:
    return reading("abcdefghij" if rng.random() > share else "abcdefghiX")


def test_a_difference_has_an_interval_and_noise_is_not_taken_for_one() -> None:
    rng = np.random.default_rng(0)
    lines = [crop("abcdefghij")] * 500
    worse = found(*((line, (noisy(rng, 0.25), noisy(rng, 0.1))) for line in lines))
    value, low, high = worse.differences()["rec_accuracy"]
    # Standard deviation of the difference: sqrt((0.25 * 0.75 + 0.1 * 0.9) / 500) = 0.024.
    assert (value - low, high - value) == pytest.approx((0.047, 0.047), abs=0.008)
    assert worse.changes() == {"rec_accuracy": "worse", "rec_ned": "worse"}
    assert worse.changes(by=0.05) == {"rec_accuracy": "worse"}
    assert worse.changes(by=0.2) == {}
    few = replace(worse, pages=worse.pages[:9], readings=worse.readings[:9])
    assert few.differences() == few.changes() == {}
    assert "rec_ms" not in worse.differences()


def test_equal_accuracy_is_told_apart_no_more_often_than_was_asked_for() -> None:
    """As good as each other, but with errors on other lines, 100 times."""
    rng = np.random.default_rng(0)
    lines = [crop("abcdefghij")] * 100
    told = sum(
        bool(found(*((line, (noisy(rng, 0.2), noisy(rng, 0.2))) for line in lines)).changes())
        for _ in range(100)
    )
    assert told <= 8  # 5 expected at most


def test_many_lines_are_sampled_in_groups() -> None:
    rng = np.random.default_rng(0)
    right, wrong = reading("a"), reading("b")
    pairs = [(right if rng.random() < 0.9 else wrong, right) for _ in range(20_000)]
    many = found(*((crop("a"), pair) for pair in pairs))
    value, low, high = many.differences()["rec_accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (0.1 * 0.9 / 20_000) ** 0.5, rel=0.1)
    assert low < value < high


@pytest.fixture(scope="module")
def labels(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """A strip of a page, 24 rendered crops, a file that is broken, and a wrong label."""
    folder = tmp_path_factory.mktemp("labels")
    strip = cv2.imread(str(repo / "docs/page.jpg"))[:80]
    cv2.imwrite(str(folder / "strip.png"), strip)
    corners = [[165, 30], [587, 34], [587, 71], [165, 67]]
    line = {"transcription": "ＴHE NORTHGATE　BAKERY", "points": corners}
    (folder / "Label.txt").write_text(f"strip.png\t{json.dumps([line])}")
    rows = []
    for sample in islice((line for line in corpus.lines(seed=5, count=40) if line.lines), 24):
        cv2.imwrite(str(folder / f"{sample.name}.png"), sample.image)
        rows.append(f"{sample.name}.png\t{sample.lines[0].text}")
    (folder / "broken.png").write_bytes((folder / "strip.png").read_bytes()[:100])
    (folder / "rec_gt.txt").write_text(
        "\n".join([*rows, "broken.png\tA", "no tab"]), encoding="utf-8"
    )
    return read_labels(folder)


def test_a_pipeline_is_as_good_as_itself(
    labels: Labels, repo: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages read whole and crops of lines, in turn; what cannot be read is counted.

    Three pipelines are opened, cold: to warm them would take longer than all that they read.
    """
    cold = partial(load_pipeline, warm=False)
    monkeypatch.setattr("serving.evaluate.figures.load_pipeline", cold)
    same = evaluate([repo / YAML] * 2, labels, built, fold=("case", "width"))
    assert len(same.pages) == 25
    wrong, broken = same.problems
    assert "there is no tab" in wrong
    assert "broken.png" in broken
    figures = same.figures()
    assert figures["det_hmean"] == figures["char_f1"] == (1.0, 1.0)
    assert figures["rec_ned"][0] > 0.8
    assert min(figures["ms"] + figures["rec_ms"]) > 0
    assert {tuple(difference) for difference in same.differences().values()} == {(0.0, 0.0, 0.0)}
    assert same.changes() == {}
    with pytest.raises(ConfigError, match=r"none of the 1 images .*broken\.png"):
        evaluate([repo / YAML], Labels(labels.pages[-1:], []), built)
