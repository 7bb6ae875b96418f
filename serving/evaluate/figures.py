"""Accuracy of one or two pipelines on labelled images, and whether their difference is noise.

| figure | of 0 to 1; parts and wholes are added over a set, then divided |
| --- | --- |
| det_precision, det_recall, det_hmean | boxes that pair with a labelled one at IoU above 0.5, and at 0.7 with the suffix _70; PaddleOCR's DetectionIoUEvaluator |
| char_precision, char_recall, char_f1; token_f1 | a page's characters without white space, and words, as bags |
| ned | 1 - edit distance of a page's whole text over the longer length: counts the order of lines, too |
| word_accuracy | 1 - edit distance of a page's words over their number, not below 0 |
| rec_accuracy, rec_ned | of crops of lines: equal texts; the mean of 1 - edit distance over the longer length; PaddleOCR's RecMetric. With _no_spaces, white space is left out |
| ms, rec_ms | ms a page, and a crop of a line, without decoding its file |
"""  # noqa: E501  (a table)

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rapidfuzz import process

from serving.api import OcrPipeline, load_pipeline
from serving.config.options import MAX_PAGES
from serving.errors import ConfigError, InputError, TimedOut
from serving.evaluate.labels import LabelledPage, Labels
from serving.imaging.decode import Decoder
from serving.imaging.formats import MAX_PIXELS, Limits
from serving.imaging.source import load
from serving.ocr.pipeline import Pipeline
from serving.scores import (
    Overlap,
    Polygon,
    bootstrap,
    box_overlap,
    box_pairs,
    character_overlap,
    edit_distance,
    not_ignored,
    token_overlap,
)
from serving.types import Image

TIMES = "ms", "rec_ms"
FIGURES = (
    "det_precision", "det_recall", "det_hmean", "det_precision_70", "det_recall_70", "det_hmean_70",
    "char_precision", "char_recall", "char_f1", "token_f1", "ned", "word_accuracy",
    "rec_accuracy", "rec_ned", "rec_accuracy_no_spaces", "rec_ned_no_spaces", *TIMES,
)  # fmt: skip
JUDGED = "det_hmean", "char_f1", "token_f1", "rec_accuracy", "rec_ned"
"""Which decide whether one pipeline is better or worse than another."""
MIN_UNITS = 10
"""Pages or lines; of fewer, nothing is said about a difference: samples of so few are too alike."""
_LINES_PER_CALL = 64
_FULL_WIDTH = {0xFEE0 + code: code for code in range(0x21, 0x7F)} | {0x3000: 0x20}


class Reading(NamedTuple):
    """What one pipeline made of a labelled page."""

    texts: tuple[str, ...]
    boxes: tuple[Polygon, ...]
    ms: float


class Difference(NamedTuple):
    """Of a figure, first pipeline less second."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What one pipeline, or two, read on labelled pages, and the figures of it."""

    pipelines: tuple[str, ...]
    """One, or two to compare."""
    pages: list[LabelledPage]
    """Those that could be read."""
    readings: list[tuple[Reading, ...]]
    """Of each page by each pipeline."""
    problems: list[str]
    """What was left out: wrong labels, and images that could not be read."""

    @cached_property
    def groups(self) -> dict[str, int]:
        """The sets, with the number of their pages or lines."""
        return dict(Counter(page.group for page in self.pages))

    @cached_property
    def counts(self) -> npt.NDArray[np.float32]:
        """(pages, pipelines, FIGURES, 2): part and whole of each figure."""
        table = np.zeros((len(self.pages), len(self.pipelines), len(FIGURES), 2), np.float32)
        for row, page, readings in zip(table, self.pages, self.readings, strict=True):
            for cells, reading in zip(row, readings, strict=True):
                for name, count in _counts(page, reading).items():
                    cells[FIGURES.index(name)] = count
        return table

    def figures(self, group: str | None = None) -> dict[str, tuple[float, ...]]:
        """Of each pipeline, of a set or, without `group`, of all; only those that the labels have.

        Precision is 0 of a pipeline that reads nothing, where another one does.
        """
        parts, wholes = np.moveaxis(self.counts[self._rows(group)].sum(0, dtype=float), 2, 0)
        values = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
        return {
            name: tuple(values[:, index].tolist())
            for index, name in enumerate(FIGURES)
            if wholes[:, index].any()
        }

    def differences(self, group: str | None = None) -> dict[str, Difference]:
        """First pipeline less second, with a 95 % interval; none of times, nor of under 10 units.

        Paired: each sample of the bootstrap has the same pages or lines for both.
        """
        figures, tails = self.figures(group), (0.025, 0.975)
        return {
            name: Difference(figures[name][0] - figures[name][1], *np.quantile(sample, tails))
            for name, sample in self._samples(group).items()
        }

    def changes(self, by: float = 0.0, confidence: float = 0.95) -> dict[str, str]:
        """The JUDGED figures in which the first pipeline is better or worse by more than `by`.

        With that confidence for all of them together (Bonferroni).
        """
        samples = {name: s for name, s in self._samples(None).items() if name in JUDGED}
        changed = {}
        for name, sample in samples.items():
            tail = (1 - confidence) / 2 / len(samples)
            low, high = np.quantile(sample, (tail, 1 - tail))
            if high < -by or low > by:
                changed[name] = "better" if low > by else "worse"
        return changed

    def _samples(self, group: str | None) -> dict[str, npt.NDArray[np.float64]]:
        """Bootstrap samples of each difference in a set, or in all."""
        if group in self._sampled:
            return self._sampled[group]
        found = self._sampled[group] = {}
        lines = np.array([page.is_line for page in self.pages])
        for kind in (lines, ~lines):
            counts = self.counts[self._rows(group) & kind]
            if len(self.pipelines) < 2 or len(counts) < MIN_UNITS:
                continue
            known = [
                index
                for index in np.flatnonzero(counts[..., 1].any(axis=(0, 1))).tolist()
                if FIGURES[index] not in TIMES
            ]
            parts, wholes = np.moveaxis(counts[:, :, known], 3, 0)
            ratios = np.nan_to_num(bootstrap(parts, wholes))
            delta = (ratios[:, 0] - ratios[:, 1]).T
            found |= zip((FIGURES[index] for index in known), delta, strict=True)
        return found

    @cached_property
    def _sampled(self) -> dict[str | None, dict[str, npt.NDArray[np.float64]]]:
        return {}

    def _rows(self, group: str | None) -> npt.NDArray[np.bool_]:
        return np.array([group in (None, page.group) for page in self.pages])

    def pairs(self, index: int) -> Iterator[tuple[str, Polygon | None, tuple[str, ...]]]:
        """Each line of a page: its truth, its box, and as what each pipeline read it.

        Found by its box, else as the read line that resembles it most; not found, it is empty.
        """
        page, readings = self.pages[index], self.readings[index]
        if page.is_line:
            yield page.texts[0], None, tuple(reading.texts[0] for reading in readings)
        elif page.boxes is None:
            for text in page.texts:
                best = (process.extractOne(text, r.texts, score_cutoff=50) for r in readings)
                yield text, None, tuple(found[0] if found else "" for found in best)
        else:
            found = [dict(box_pairs(page.boxes, reading.boxes, 0.5)) for reading in readings]
            for number, (text, box) in enumerate(zip(page.texts, page.boxes, strict=True)):
                yield (
                    text,
                    box,
                    tuple(
                        reading.texts[pairs[number]] if number in pairs else ""
                        for reading, pairs in zip(readings, found, strict=True)
                    ),
                )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: fractions, milliseconds."""

        def table(group: str | None) -> dict[str, Any]:
            found = self.differences(group)
            return {
                name: {"values": values} | (found[name]._asdict() if name in found else {})
                for name, values in self.figures(group).items()
            }

        return {
            "pipelines": self.pipelines,
            "sets": {
                group: {"images": images, "figures": table(group)}
                for group, images in self.groups.items()
            },
            "overall": table(None),
            "changes": self.changes(),
            "problems": self.problems,
        }


def evaluate(
    yamls: Sequence[Path],
    labels: Labels,
    models: Path,
    *,
    fold: Collection[str] = (),
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    device: str | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Read every page by one or two pipelines, in turn.

    A document counts as one page, and its boxes only if it has one. fold: `case` and `width` take
    upper case and full-width forms for their counterparts. max_pixels: of a page. threads,
    device: of the plans, as in load_pipeline. on_progress: gets a message for each image.

    Raises what load_pipeline raises, EngineError, and ConfigError where no image can be read.
    """
    done: list[tuple[LabelledPage, tuple[Reading, ...]]] = []
    pages, problems = labels.pages, [*labels.problems]
    with ExitStack() as stack:
        load_one = partial(
            load_pipeline, models=models, threads=threads, device=device, max_pixels=max_pixels
        )
        pipelines = [stack.enter_context(load_one(yaml)) for yaml in yamls]
        for yaml, pipeline in zip(yamls, pipelines, strict=True):
            if not isinstance(pipeline.pipeline, Pipeline) and any(page.is_line for page in pages):
                raise ConfigError(
                    f"{yaml}: PaddleX runs it, and reads no crops of single lines; give labels "
                    "of pages, or set enable_hpi: True"
                )
        decoder = stack.enter_context(Decoder(Limits(max_pixels, MAX_PAGES)))
        for number, batch in enumerate(_batches(pages)):
            on_progress(f"{len(done)} of {len(pages)} read; next {batch[0].path.name}")
            loaded: list[tuple[LabelledPage, list[Image]]] = []
            for page in batch:
                try:
                    images = [item.image for item in load(page.path, decoder=decoder)]
                except (InputError, TimedOut) as error:
                    problems.append(str(error))
                    continue
                if len(images) != 1:
                    page = replace(page, boxes=None, ignored=())
                loaded.append((replace(page, texts=_folded(page.texts, fold)), images))
            if loaded:
                turns = pipelines[:: -1 if number % 2 else 1]  # neither always goes first
                read = [_read(pipeline, loaded, fold) for pipeline in turns]
                columns = zip(*read[:: -1 if number % 2 else 1], strict=True)
                done += zip((page for page, _ in loaded), columns, strict=True)
    if not done:
        raise ConfigError(f"none of the {len(pages)} images can be read: {problems[-1]}")
    names = tuple(str(yaml) for yaml in yamls)
    return Evaluation(names, [page for page, _ in done], [read for _, read in done], problems)


def _batches(pages: Sequence[LabelledPage]) -> Iterator[list[LabelledPage]]:
    """Up to 64 lines, or a page."""
    for is_line, run in groupby(pages, key=lambda page: page.is_line):
        while batch := list(islice(run, _LINES_PER_CALL if is_line else 1)):
            yield batch


def _read(
    pipeline: OcrPipeline, batch: Sequence[tuple[LabelledPage, list[Image]]], fold: Collection[str]
) -> list[Reading]:
    start = time.perf_counter()
    if batch[0][0].is_line:
        assert isinstance(pipeline.pipeline, Pipeline)
        read = pipeline.pipeline.recognise([images[0] for _, images in batch])
        ms = (time.perf_counter() - start) * 1e3 / len(batch)
        return [Reading(_folded([line.text], fold), (), ms) for line in read]
    lines = [line for image in batch[0][1] for line in pipeline.pipeline.read(image).lines]
    ms = (time.perf_counter() - start) * 1e3
    boxes = tuple(line.quad for line in lines)
    return [Reading(_folded([line.text for line in lines], fold), boxes, ms)]


def _folded(texts: Sequence[str], fold: Collection[str]) -> tuple[str, ...]:
    if "width" in fold:
        texts = [text.translate(_FULL_WIDTH) for text in texts]
    return tuple(text.casefold() for text in texts) if "case" in fold else tuple(texts)


def _counts(page: LabelledPage, reading: Reading) -> dict[str, tuple[float, float]]:
    """Part and whole of each figure of one page or line."""
    if page.is_line:
        counts: dict[str, tuple[float, float]] = {"rec_ms": (reading.ms, 1)}
        truth, read = page.texts[0], reading.texts[0]
        for suffix in ("", "_no_spaces"):
            counts[f"rec_accuracy{suffix}"] = float(truth == read), 1
            edits, length = edit_distance(truth, read), max(len(truth), len(read))
            counts[f"rec_ned{suffix}"] = 1 - edits / max(1, length), 1
            truth, read = "".join(truth.split()), "".join(read.split())
        return counts
    counts = {"ms": (reading.ms, 1)}
    if page.boxes is not None:
        for suffix, threshold in (("", 0.5), ("_70", 0.7)):
            overlap = box_overlap(page.boxes, reading.boxes, threshold, page.ignored)
            names = (f"det_{name}{suffix}" for name in ("precision", "recall", "hmean"))
            counts |= zip(names, _shares(overlap), strict=True)
    texts = not_ignored(reading.texts, reading.boxes, page.ignored)
    truth, read = "\n".join(page.texts), "\n".join(texts)
    length, words = max(len(truth), len(read)), truth.split()
    edits = edit_distance(words, read.split())
    characters = _shares(character_overlap(page.texts, texts))
    counts |= zip(("char_precision", "char_recall", "char_f1"), characters, strict=True)
    return counts | {
        "token_f1": _shares(token_overlap(page.texts, texts))[2],
        "ned": (length - edit_distance(truth, read), length),
        "word_accuracy": (max(0, len(words) - edits), len(words)),
    }


def _shares(overlap: Overlap) -> list[tuple[float, float]]:
    """Part and whole of precision, recall and their harmonic mean."""
    common, truth, read = overlap.common, overlap.truth, overlap.read
    return [(common, read), (common, truth), (2 * common, truth + read)]
