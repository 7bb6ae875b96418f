"""Lines of many callers in one call: the same texts, the right errors, nobody waits for others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus
from serving.config import load_config
from serving.config.model import RecognitionModel
from serving.engines.base import Array, Engine, EngineSpec, batch_sizes
from serving.engines.batching import DynamicBatcher
from serving.engines.factory import open_engine
from serving.engines.observed import observed
from serving.errors import EngineError
from serving.imaging.crop import crop
from serving.models.pipeline_models import parts
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler
from serving.plan.graphs import Graphs


class Held(Engine):
    """Answers with each image's sum; the first call waits until it is let go."""

    def __init__(self, batch: int, check: Callable[[Array], None] = lambda _: None) -> None:
        super().__init__(EngineSpec("fake", batch=batch))
        self.inputs = ("image",)
        self.calls: list[tuple[int, ...]] = []
        self.go, self.reached = threading.Event(), threading.Event()
        self._check = check

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self.calls.append(images.shape)
        if len(self.calls) == 1:
            self.reached.set()
            assert self.go.wait(30)
        self._check(images)
        return images.sum(axis=(1, 2, 3)), images[:, 0, 0, 0]


def image(value: int, width: int = 8) -> Array:
    return np.full((1, 4, width, 3), value, np.uint8)


def crowd(engine: DynamicBatcher, held: Held, images: list[Array]) -> list[object]:
    """All at once, while a first call holds the engine: results or errors, in their order."""

    def run(one: Array) -> object:
        try:
            return engine.run(one)[1].tolist()
        except EngineError as error:
            return str(error)

    with ThreadPoolExecutor(len(images) + 1) as callers:
        first = callers.submit(run, image(1, 2))
        assert held.reached.wait(30)
        rest = [callers.submit(run, one) for one in images]
        while engine.waiting < len(images):
            pass
        held.go.set()
        assert first.result(30) == [1]
        return [caller.result(30) for caller in rest]


def test_sizes_of_calls() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(6) == [1, 2, 4, 6]


def test_one_shape_shares_a_call_filled_up_to_a_fixed_size() -> None:
    held = Held(batch=4)
    engine = DynamicBatcher(held)
    images = [image(value) for value in range(10, 17)]
    assert crowd(engine, held, images) == [[value] for value in range(10, 17)]
    # The first went alone, at once; seven that came meanwhile are a batch of 4 and one of 3 + 1.
    assert held.calls == [(1, 4, 2, 3), (4, 4, 8, 3), (4, 4, 8, 3)]
    engine.close()


def test_other_shapes_are_other_calls_the_longest_waiting_first() -> None:
    held = Held(batch=4)
    engine = DynamicBatcher(held)
    answers = crowd(engine, held, [image(9, 16), image(8), image(7), image(6, 16), image(5)])
    assert answers == [[9], [8], [7], [6], [5]]
    assert sorted(held.calls[1:]) == [(2, 4, 16, 3), (4, 4, 8, 3)]
    engine.close()


def test_an_error_reaches_the_callers_of_its_call_and_no_other() -> None:
    def check(images: Array) -> None:
        if images.shape[2] == 16:
            raise EngineError("sixteen")

    held = Held(4, check)
    engine = DynamicBatcher(held)
    answers = crowd(engine, held, [image(9, 16), image(8), image(7, 16), image(6)])
    assert answers == ["sixteen", [8], "sixteen", [6]]
    assert engine.run(image(3))[1].tolist() == [3]
    engine.close()


def test_pages_take_turns_in_the_batches() -> None:
    """A page of five lines does not wait for all of a page of two hundred."""
    held = Held(batch=4)
    engine = DynamicBatcher(held)
    pool = Scheduler(8)
    order: list[int] = []

    def read(value: int) -> None:
        engine.run(image(value))
        order.append(value)

    large = threading.Thread(target=pool.map, args=(read, [1] * 200))
    large.start()
    assert held.reached.wait(30)
    small = threading.Thread(target=pool.map, args=(read, [2] * 5))
    small.start()
    while pool.waiting < 2:
        pass
    held.go.set()
    small.join(30)
    large.join(30)
    assert len(order) == 205
    last_of_small = max(place for place, value in enumerate(order) if value == 2)
    assert last_of_small < 60
    pool.close()
    engine.close()


def test_a_closed_engine_answers_what_waits_and_refuses_the_rest() -> None:
    held = Held(batch=2)
    engine = DynamicBatcher(held)
    assert crowd(engine, held, [image(4), image(5)]) == [[4], [5]]
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(image(1))


def test_warming_runs_every_size() -> None:
    held = Held(batch=6)
    held.go.set()
    engine = DynamicBatcher(held)
    engine.warm(48, 320)
    assert held.calls == [(size, 48, 320, 3) for size in (1, 2, 4, 6)]
    engine.close()


def test_real_lines_read_the_same_in_a_crowd(repo: Path, built: Path) -> None:
    """ONNX Runtime on the CPU, the real recogniser, 8 lines a call."""
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    part = next(part for part in parts(config, built) if part.section == "TextRecognition")
    assert isinstance(part.model, RecognitionModel)
    graph = Graphs(built).find(part.folder, part.model)
    lines = [
        crop(page.image, np.array(line.quad, np.int32))[0]
        for page in corpus.pages(seed=5, count=3)
        for line in page.lines
    ]
    assert len(lines) > 30

    alone = open_engine(graph, EngineSpec("onnxruntime", threads=2))
    stage = Recogniser(alone, part.model, restore_spaces=True)
    wanted = [stage.read(line) for line in lines]
    sizes = []

    engine = DynamicBatcher(open_engine(graph, EngineSpec("onnxruntime", threads=2, batch=8)))
    inner = engine._engine
    run = inner.run
    inner.run = lambda images: (sizes.append(len(images)), run(images))[1]
    told: list[int] = []
    assert observed(engine, told.append) is engine
    stage = Recogniser(engine, part.model, restore_spaces=True)
    pool = Scheduler(16)
    read = pool.map(stage.read, lines)
    pool.close()
    engine.close()
    assert [line.text for line in read] == [line.text for line in wanted]
    assert max(abs(a.score - b.score) for a, b in zip(read, wanted, strict=True)) <= 1e-3
    assert max(sizes) > 1
    assert set(sizes) <= {1, 2, 4, 8}
    assert sum(told) == len(lines)  # each line in one call, and no blank one counted
    assert len(told) == len(sizes)
    assert all(lines <= size for lines, size in zip(sorted(told), sorted(sizes), strict=True))
