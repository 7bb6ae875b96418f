"""Dynamic batching: sizes and order of batches, errors, the observer, results as without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus
from serving.config import load_config
from serving.config.model import RecognitionModel
from serving.engines.base import Array, Engine, EngineSpec, ObservedEngine, batch_sizes
from serving.engines.batching import DynamicBatcher
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.imaging.crop import crop
from serving.models.pipeline_models import pipeline_models
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler
from serving.plan.graphs import Graphs


class BlockingEngine(Engine):
    """Returns each image's sum and first byte. Its first call blocks until `release` is set."""

    def __init__(self, batch: int, check: Callable[[Array], None] = lambda _: None) -> None:
        super().__init__(EngineSpec("fake", batch=batch))
        self.inputs = ("image",)
        self.calls: list[tuple[int, ...]] = []
        self.release, self.blocked = threading.Event(), threading.Event()
        self._check = check

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self.calls.append(images.shape)
        if len(self.calls) == 1:
            self.blocked.set()
            assert self.release.wait(60)
        self._check(images)
        return images.sum(axis=(1, 2, 3)), images[:, 0, 0, 0]


def image(value: int, width: int = 8) -> Array:
    return np.full((1, 4, width, 3), value, np.uint8)


def run_concurrently(
    batcher: DynamicBatcher, engine: BlockingEngine, images: list[Array]
) -> list[object]:
    """Queues all images while a first call blocks the engine; their results or errors, in order."""

    def run(one: Array) -> object:
        try:
            return batcher.run(one)[1].tolist()
        except EngineError as error:
            return str(error)

    with ThreadPoolExecutor(len(images) + 1) as callers:
        first = callers.submit(run, image(1, 2))
        assert engine.blocked.wait(60)
        rest = [callers.submit(run, one) for one in images]
        while batcher.waiting < len(images):
            time.sleep(0.001)
        engine.release.set()
        assert first.result(60) == [1]
        return [caller.result(60) for caller in rest]


def test_batch_sizes() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(6) == [1, 2, 4, 6]


def test_images_of_one_shape_share_a_batch_padded_to_a_fixed_size() -> None:
    engine = BlockingEngine(batch=4)
    batcher = DynamicBatcher(engine)
    images = [image(value) for value in range(10, 17)]
    assert run_concurrently(batcher, engine, images) == [[value] for value in range(10, 17)]
    # The first runs at once, alone; the seven queued meanwhile are a batch of 4 and one of 3 + 1.
    assert engine.calls == [(1, 4, 2, 3), (4, 4, 8, 3), (4, 4, 8, 3)]
    batcher.close()


def test_each_shape_has_its_own_batch_the_oldest_first() -> None:
    engine = BlockingEngine(batch=4)
    batcher = DynamicBatcher(engine)
    answers = run_concurrently(
        batcher, engine, [image(9, 16), image(8), image(7), image(6, 16), image(5)]
    )
    assert answers == [[9], [8], [7], [6], [5]]
    assert sorted(engine.calls[1:]) == [(2, 4, 16, 3), (4, 4, 8, 3)]
    batcher.close()


def test_an_error_reaches_the_callers_of_its_batch_only() -> None:
    def check(images: Array) -> None:
        if images.shape[2] == 16:
            raise EngineError("sixteen")

    engine = BlockingEngine(4, check)
    batcher = DynamicBatcher(engine)
    answers = run_concurrently(batcher, engine, [image(9, 16), image(8), image(7, 16), image(6)])
    assert answers == ["sixteen", [8], "sixteen", [6]]
    assert batcher.run(image(3))[1].tolist() == [3]
    batcher.close()


def test_pages_share_the_batches_fairly() -> None:
    """A page of five lines does not wait for all of a page of two hundred."""
    engine = BlockingEngine(batch=4)
    batcher = DynamicBatcher(engine)
    pool = Scheduler(8)
    order: list[int] = []

    def read(value: int) -> None:
        batcher.run(image(value))
        order.append(value)

    large = threading.Thread(target=pool.map, args=(read, [1] * 200))
    large.start()
    assert engine.blocked.wait(60)
    small = threading.Thread(target=pool.map, args=(read, [2] * 5))
    small.start()
    while pool.waiting < 2:
        time.sleep(0.001)
    engine.release.set()
    small.join(60)
    large.join(60)
    assert len(order) == 205
    last_of_small = max(place for place, value in enumerate(order) if value == 2)
    assert last_of_small < 60
    pool.close()
    batcher.close()


def test_close_runs_what_is_queued_and_refuses_the_rest() -> None:
    engine = BlockingEngine(batch=2)
    batcher = DynamicBatcher(engine)
    assert run_concurrently(batcher, engine, [image(4), image(5)]) == [[4], [5]]
    batcher.close()
    with pytest.raises(EngineError, match="closed"):
        batcher.run(image(1))


def test_warm_runs_every_batch_size() -> None:
    engine = BlockingEngine(batch=6)
    engine.release.set()
    batcher = DynamicBatcher(engine)
    batcher.warm(48, 320)
    assert engine.calls == [(size, 48, 320, 3) for size in (1, 2, 4, 6)]
    batcher.close()


def test_lines_read_the_same_in_batches(repo: Path, built: Path) -> None:
    """ONNX Runtime on the CPU, the real recogniser, up to 8 lines per call."""
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    part = next(
        part for part in pipeline_models(config, built) if part.section == "TextRecognition"
    )
    assert isinstance(part.model, RecognitionModel)
    graph = Graphs(built).find(part.folder, part.model)
    lines = [
        crop(page.image, np.array(line.quad, np.int32))[0]
        for page in islice(corpus.pages(seed=5, count=8), 6, None)  # two receipts: short lines
        for line in page.lines
    ]
    assert len(lines) > 30

    alone = open_engine(graph, EngineSpec("onnxruntime", threads=2))
    stage = Recogniser(alone, part.model, min_space=0.03)
    expected = [stage.read(line) for line in lines]
    sizes: list[int] = []
    lines_of_calls: list[int] = []
    inner = ObservedEngine(open_engine(graph, EngineSpec("onnxruntime", threads=2)), sizes.append)
    inner.spec = EngineSpec("onnxruntime", threads=2, batch=8)
    batcher = DynamicBatcher(inner, lines_of_calls.append)
    stage = Recogniser(batcher, part.model, min_space=0.03)
    scheduler = Scheduler(16)
    read = scheduler.map(stage.read, lines)
    scheduler.close()
    batcher.close()
    assert [line.text for line in read] == [line.text for line in expected]
    assert max(abs(a.score - b.score) for a, b in zip(read, expected, strict=True)) <= 1e-3
    assert max(sizes) > 1
    assert set(sizes) <= {1, 2, 4, 8}
    assert sum(lines_of_calls) == len(lines)  # padding is not counted
    assert all(lines <= size for lines, size in zip(lines_of_calls, sizes, strict=True))


def test_each_observer_sees_the_calls_of_its_own_engine_only() -> None:
    """Two pipelines on engines of one kind: the observer belongs to the engine it was passed to."""
    seen: dict[str, list[int]] = {"first": [], "second": []}
    engines = {}
    for name, calls in seen.items():
        engine = BlockingEngine(batch=4)
        engine.release.set()
        engines[name] = DynamicBatcher(engine, calls.append)
    engines["first"].warm(4, 8)
    engines["first"].run(np.concatenate([image(value) for value in (1, 2, 3)]))
    engines["second"].run(image(4))
    for batcher in engines.values():
        batcher.close()
    assert seen == {"first": [3], "second": [1]}


def test_an_engine_without_batching_reports_the_images_of_each_call() -> None:
    engine, calls = BlockingEngine(batch=1), list[int]()
    engine.release.set()
    observed = ObservedEngine(engine, calls.append)
    observed.warm(4, 8)
    observed.run(image(1))
    observed.run(np.concatenate([image(1), image(2)]))
    engine.run(image(3))  # not through the observer
    assert calls == [1, 2]
