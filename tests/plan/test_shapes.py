from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fake_engine import FakeEngine, width_as_text

from serving.config import load_config
from serving.engines.base import Array, EngineSpec
from serving.errors import EngineError
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.models.store import Store
from serving.plan.shapes import cold_shape_ms

SPEC = EngineSpec("fake")


class Closable(FakeEngine):
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def parts(repo: Path, model_store: Store) -> dict[str, PipelineModel]:
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    return {part.section: part for part in pipeline_models(config, model_store.root)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Closable]:
    """The engines that `cold_shape_ms` opens; the third shape fails where the spec says so."""
    engines: list[Closable] = []

    def open_fake(graph: Path, spec: EngineSpec, model: object) -> Closable:
        def compute(images: Array) -> tuple[Array, ...]:
            if spec.precision == "fails" and images.shape[2] == 448:
                raise EngineError("no memory")
            return width_as_text(images)

        engines.append(Closable(compute))
        return engines[-1]

    monkeypatch.setattr("serving.plan.shapes.open_fused", open_fake)
    return engines


def test_the_engine_of_a_cold_shape_is_closed(
    parts: dict[str, PipelineModel], opened: list[Closable]
) -> None:
    cold_shape_ms(parts["TextRecognition"], Path("x"), SPEC)
    with pytest.raises(EngineError, match="no memory"):
        failing = dataclasses.replace(SPEC, precision="fails")
        cold_shape_ms(parts["TextDetection"], Path("x"), failing)
    assert [engine.closed for engine in opened] == [True, True]


def test_a_model_with_one_shape_opens_nothing(
    parts: dict[str, PipelineModel], opened: list[Closable]
) -> None:
    assert cold_shape_ms(parts["TextLineOrientation"], Path("x"), SPEC) == 0
    assert opened == []
