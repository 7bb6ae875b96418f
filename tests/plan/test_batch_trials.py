"""Short lines on a CPU: several go into one call, where that is faster and changes nothing."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine, width_as_text

from benchmarks import corpus
from serving.config import load_config
from serving.config.pipeline import HpiConfig
from serving.engines.base import Array, EngineSpec, OnBatch
from serving.engines.factory import open_fused
from serving.errors import ConfigError, EngineError
from serving.machine import usable_cores
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.ocr.pipeline import Pipeline
from serving.ocr.recognise import Recogniser
from serving.plan.build import Builder
from serving.plan.calibration import Calibration, calibration_set
from serving.plan.candidates import candidates
from serving.plan.graphs import Graphs
from serving.plan.load import open_pipeline
from serving.plan.plan import BatchTrial, Deployment, Plan, find_plan
from serving.plan.trials import measure_batches, run_batch_trials
from serving.progress import Quiet

YAML = "configs/PP-OCRv4_mobile.yaml"
SECTION = "TextRecognition"


@pytest.fixture(scope="module")
def part(repo: Path, built: Path) -> PipelineModel:
    return next(
        part for part in pipeline_models(load_config(repo / YAML), built) if part.section == SECTION
    )


@pytest.fixture(scope="module")
def few() -> Calibration:
    """The head of two pages, and a few short lines: as many as a call may take, of each width."""
    whole = calibration_set()
    heads = tuple(page[:160] for page in whole.pages[:2])
    both = zip(whole.crops, whole.texts, strict=True)
    short = [(crop, text) for crop, text in both if crop.shape[1] < 5 * crop.shape[0]][::12]
    crops, texts = zip(*short, strict=True)
    return dataclasses.replace(whole, pages=heads, crops=crops, texts=texts)


def test_the_width_of_lines_bounds_their_number_in_a_call() -> None:
    spec = EngineSpec("openvino", batch=4)
    widths = (96, 128, 144, 256, 272, 3200)
    assert [spec.max_batch(width) for width in widths] == [4, 4, 2, 2, 1, 1]
    assert EngineSpec("openvino", batch=3).max_batch(96) == 2
    assert EngineSpec("openvino").max_batch(96) == 1
    # Batches on a GPU are formed by the engine itself.
    assert EngineSpec("tensorrt", device="gpu:0", batch=8).max_batch(96) == 1


def test_warming_runs_every_batch_size() -> None:
    calls: list[tuple[int, ...]] = []

    def record(images: Array) -> tuple[Array, ...]:
        calls.append(images.shape)
        return width_as_text(images)

    engine = FakeEngine(record)
    engine.spec = EngineSpec("fake", batch=4)
    engine.warm(48, 96)
    engine.warm(48, 320)
    assert calls == [(1, 48, 96, 3), (2, 48, 96, 3), (4, 48, 96, 3), (1, 48, 320, 3)]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_real_engines_read_a_line_the_same_in_a_batch(
    part: PipelineModel, built: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shortest of five runs each, and no more of them where the machine is busy.
    monkeypatch.setattr("serving.plan.timing._MIN_SECONDS", 0.0)
    monkeypatch.setattr("serving.plan.timing._noise", lambda _: 0.0)
    spec = EngineSpec(backend, streams=2, threads=2)
    graph = Graphs(built).find(part.folder, part.model)
    with closing(open_fused(graph, spec, part.model)) as engine:
        reader = Recogniser(engine, part.model, min_space=None)  # type: ignore[arg-type]
        result = measure_batches(engine, [reader.fit(c) for c in calibration_set().crops[::4]])
    assert result is not None
    assert result.parity
    assert 0.2 < result.time_ratio < 2


def lines(*widths: int) -> list[Array]:
    return [np.full((48, width, 3), index, np.uint8) for index, width in enumerate(widths)]


def test_an_engine_that_mixes_lines_has_no_parity() -> None:
    def mixed(images: Array) -> tuple[Array, ...]:
        index, score, space = width_as_text(images)
        return index, score + np.float32(1e-7) * (len(images) == 2), space

    engine = FakeEngine(mixed)
    result = measure_batches(engine, lines(96, 96, 96, 96, 96, 160))
    assert result is not None
    assert not result.parity
    assert not result.worthwhile
    assert measure_batches(engine, lines(96, 112, 512, 512)) is None


def test_batches_must_save_5_percent_and_keep_parity() -> None:
    assert BatchTrial(0.9, parity=True).worthwhile
    assert not BatchTrial(0.97, parity=True).worthwhile
    assert not BatchTrial(0.5, parity=False).worthwhile
    assert not BatchTrial(None, parity=False, reason="takes one").worthwhile


def with_batch(
    built: Path, repo: Path, batch: int, monkeypatch: pytest.MonkeyPatch, on_batch: OnBatch
) -> Pipeline:
    """Opens the default pipeline with that many lines a call, whatever was chosen.

    A stream has one thread: where several share a call, a batch is divided among them otherwise.
    """
    cores = usable_cores()
    one_thread_each = EngineSpec("openvino", "float32", streams=cores, threads=cores, batch=batch)
    original = Deployment.plan

    def changed(self: Deployment, device: str, requested: str | None = None) -> Plan:
        plan = original(self, device, requested)
        model = plan.models[SECTION]
        models = {**plan.models, SECTION: dataclasses.replace(model, choice=one_thread_each)}
        return dataclasses.replace(plan, models=models)

    monkeypatch.setattr(Deployment, "plan", changed)
    return open_pipeline(load_config(repo / YAML), models=built, on_batch=on_batch, warm=False)


def test_a_page_reads_the_same_with_its_short_lines_in_batches(
    repo: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Forms, of which one is degraded, and a receipt: most of their lines are short.
    pages = [page.image for page in corpus.pages(seed=7, count=7)][4:]
    read, calls = {}, {}
    for batch in (1, 4):
        sizes: list[int] = []
        pipeline = with_batch(
            built, repo, batch, monkeypatch, lambda _, lines, sizes=sizes: sizes.append(lines)
        )
        read[batch] = [pipeline.read(page).lines for page in pages]
        calls[batch] = sizes
        pipeline.close()
        monkeypatch.undo()
    assert read[4] == read[1]
    assert set(calls[1]) == {1}
    assert {2, 4} <= set(calls[4]) <= {1, 2, 4}
    assert sum(calls[4]) == sum(calls[1])


def test_the_plan_records_whether_batches_are_worthwhile(repo: Path, built: Path) -> None:
    model = find_plan(load_config(repo / YAML), built).models[SECTION]
    assert model.batch_trial is not None
    assert model.choice.batch == (4 if model.batch_trial.worthwhile else 1)
    assert model.trial is not None
    assert model.trial.verdict == "chosen"


def test_the_yaml_may_set_the_batch() -> None:
    two = HpiConfig(backend="openvino", backend_config={"batch": 2})
    assert {spec.batch for spec in candidates(two, cores=2, lines=True)} == {2}
    assert {spec.batch for spec in candidates(two, cores=2)} == {1}
    for wrong in (3, 8, 32):
        with pytest.raises(ConfigError, match="batch: must be 1, 2 or 4 on a CPU"):
            candidates(HpiConfig(backend_config={"batch": wrong}), cores=2, lines=True)


def built_with(repo: Path, store: Path, hpi: str) -> Plan:
    """Without orientation models, and on small pages: neither changes how lines are read."""
    yaml = store.parent / "batch.yaml"
    text = (repo / YAML).read_text().replace("limit_side_len: 960", "limit_side_len: 320")
    for step in ("doc_preprocessor", "textline_orientation"):
        text = text.replace(f"use_{step}: True", f"use_{step}: False")
    yaml.write_text(f"{text}\nhpi_config: {hpi}\n")
    plan, made = Builder(store, usable_cores(), Quiet()).build(load_config(yaml))
    assert made
    return plan


@pytest.mark.usefixtures("short_races")
def test_a_requested_batch_is_built_and_measured(
    repo: Path, store: Path, few: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.plan.build.calibration_set", lambda _: few)
    hpi = "{auto_config: False, backend: onnxruntime, backend_config: {batch: 2}}"
    model = built_with(repo, store, hpi).models[SECTION]
    assert model.batch_trial is not None
    assert model.choice.batch == 2


@pytest.mark.parametrize(
    ("requested", "measured", "batch"),
    [
        (None, BatchTrial(0.5, parity=True), 4),
        (None, BatchTrial(0.97, parity=True), 1),
        (None, BatchTrial(0.5, parity=False), 1),
        (None, None, 1),
        (1, BatchTrial(0.5, parity=True), 1),
    ],
)
def test_the_yaml_or_the_trial_decides_on_batches(
    part: PipelineModel,
    built: Path,
    few: Calibration,
    monkeypatch: pytest.MonkeyPatch,
    requested: int | None,
    measured: BatchTrial | None,
    batch: int,
) -> None:
    monkeypatch.setattr("serving.plan.trials.measure_batches", lambda *_: measured)
    [(spec, trial)] = batch_trials(part, built, few, requested)
    assert spec.batch == batch
    assert trial == (None if requested == 1 else measured)


def test_a_requested_batch_without_parity_is_an_error(
    part: PipelineModel, built: Path, few: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = BatchTrial(0.5, parity=False)
    monkeypatch.setattr("serving.plan.trials.measure_batches", lambda *_: mixed)
    with pytest.raises(EngineError, match="leave batch out"):
        batch_trials(part, built, few, 4)


def batch_trials(
    part: PipelineModel, built: Path, few: Calibration, requested: int | None
) -> list[tuple[EngineSpec, BatchTrial | None]]:
    """Of one real engine."""
    graph = Graphs(built).find(part.folder, part.model)
    spec = EngineSpec("onnxruntime")
    return run_batch_trials(part, [spec], requested, lambda _: graph, few)


@pytest.mark.usefixtures("short_races")
def test_a_model_that_takes_only_one_line_is_built(
    repo: Path, store: Path, few: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("takes one")

    monkeypatch.setattr("serving.plan.build.calibration_set", lambda _: few)
    monkeypatch.setattr("serving.plan.trials.measure_batches", fail)
    hpi = "{backend: onnxruntime, backend_config: {streams: 1}}"
    model = built_with(repo, store, hpi).models[SECTION]
    assert model.choice.batch == 1
    assert model.batch_trial == BatchTrial(None, parity=False, reason="takes one")
