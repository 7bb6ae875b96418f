"""An engine as PaddleX calls a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from paddlex_env import layout_model

from serving.engines.base import Array, Engine, EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.integrations.paddlex.hook import EngineRunner


class Recorder(Engine):
    """Answers with what it was given, and keeps how many rows each call had."""

    def __init__(self, *inputs: str, streams: int) -> None:
        super().__init__(EngineSpec("fake", streams=streams, threads=streams))
        self.inputs = inputs
        self.rows: list[int] = []

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self.rows.append(len(images))
        return (images, *more)


@pytest.mark.parametrize(
    ("lines", "streams", "rows"), [(True, 2, [1, 1, 1]), (True, 1, [3]), (False, 2, [3])]
)
def test_rows_run_side_by_side_where_they_may(lines: bool, streams: int, rows: list[int]) -> None:
    engine = Recorder("x", streams=streams)
    runner = EngineRunner(engine, lines=lines, width_classes=False)
    batch = np.arange(24, dtype=np.float32).reshape(3, 1, 2, 4)
    (found,) = runner([batch])
    runner.close()
    assert np.array_equal(found, batch)
    assert engine.rows == rows


@pytest.mark.parametrize("streams", [1, 2])
def test_lines_may_be_padded_to_a_class_of_widths_and_back(streams: int) -> None:
    met = []

    def steps(images: Array) -> tuple[Array, ...]:
        met.append(images)
        return (images[:, 0, 0, ::8, None],)  # (N, T, 1)

    engine = FakeEngine(steps)
    engine.spec = EngineSpec("fake", streams=streams, threads=streams)
    runner = EngineRunner(engine, lines=True, width_classes=True)
    (found,) = runner([np.ones((2, 3, 48, 100), np.float32)])
    runner.close()
    assert {images.shape[1:] for images in met} == {(3, 48, 112)}
    assert all(images[..., :100].all() and not images[..., 100:].any() for images in met)
    assert found.shape == (2, 13, 1)


def test_arrays_come_in_the_order_of_sorted_names() -> None:
    runner = EngineRunner(
        Recorder("scale", "image", "shape", streams=2), lines=True, width_classes=True
    )
    image, scale, shape = (np.full((2, 1), value, np.float32) for value in (1, 2, 3))
    assert [array[0, 0] for array in runner([image, scale, shape])] == [2, 1, 3]
    with pytest.raises(EngineError, match="scale, image, shape"):
        runner([image])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_takes_several_inputs(tmp_path: Path, backend: str) -> None:
    folder = layout_model(tmp_path / "layout")
    engine = open_engine(folder / "inference.onnx", EngineSpec(backend))
    assert engine.inputs == ("scale_factor", "image", "im_shape")
    scale, shape = np.full((1, 2), 0.5, np.float32), np.array([[8, 4]], np.float32)
    boxes, count = engine.run(scale, np.zeros((1, 3, 8, 4), np.float32), shape)
    assert boxes.tolist() == [[0, 0.5, 10, 20, 8, 16]]
    assert count.tolist() == [1]
    engine.close()
