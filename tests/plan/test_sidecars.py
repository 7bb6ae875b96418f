"""What is cached is trusted only by its hash: a damaged file is told, and built anew."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from processor import needs_vnni

from benchmarks.corpus import Sample
from serving.cli.prepare import lacking
from serving.config import PipelineConfig, load_config
from serving.disk import is_intact, sidecar, write_with_sidecar
from serving.engines.base import EngineSpec
from serving.errors import ModelInvalid, PlanError
from serving.machine import usable_cores
from serving.models.conversion import onnx_graph
from serving.models.files import digest
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.plan.build import Builder
from serving.plan.graphs import Graphs
from serving.plan.load import open_pipeline
from serving.plan.plan import find_plan, requirements, save_plan
from serving.progress import Quiet
from serving.scores import character_overlap

YAML = "configs/PP-OCRv4_mobile.yaml"


@pytest.fixture
def config(repo: Path) -> PipelineConfig:
    return load_config(repo / YAML)


@pytest.fixture
def own(store: Path, built: Path) -> Path:
    """The built models with copies of the graphs."""
    for name in ("graphs", "onnx"):
        (store / "engines" / name).unlink()
        if (built / "engines" / name).is_dir():
            being_written = shutil.ignore_patterns(".*")  # by other tests
            shutil.copytree(
                built / "engines" / name, store / "engines" / name, ignore=being_written
            )
    return store


@pytest.fixture
def recogniser(config: PipelineConfig, own: Path) -> PipelineModel:
    return next(part for part in pipeline_models(config, own) if part.section == "TextRecognition")


def choose(config: PipelineConfig, models: Path, **choices: EngineSpec) -> None:
    """Give the plan these engines by section, and others that load the fused graph."""
    plan = find_plan(config, models)
    engines = {section: choices.get(section, EngineSpec("openvino")) for section in plan.models}
    parts = {part.section: part for part in pipeline_models(config, models)}
    changed = replace(
        plan,
        models={
            section: replace(model, choice=engines[section], hot_shapes=())
            for section, model in plan.models.items()
        },
        requirements=requirements(config, parts, engines, usable_cores(), "cpu"),
    )
    save_plan(models, config, usable_cores(), "cpu", changed)


def damage(path: Path) -> None:
    """Change one byte among the weights."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def test_a_damaged_graph_is_not_served_and_a_build_replaces_it(
    config: PipelineConfig, own: Path, recogniser: PipelineModel, repo: Path
) -> None:
    choose(config, own)
    graph = Graphs(own).find(recogniser.folder, recogniser.model)
    before = graph.read_bytes()
    damage(graph)
    message = rf"{graph.name}: is damaged: .* {graph.name}\.sha256; run: bash .*{YAML}"
    with pytest.raises(PlanError, match=message):
        open_pipeline(config, models=own)
    assert lacking([repo / YAML], own, None, None) == [repo / YAML]  # `serve --build` builds it
    _, made = Builder(own, usable_cores(), Quiet()).build(config)
    assert not made  # what was measured still holds
    assert graph.read_bytes() == before
    assert lacking([repo / YAML], own, None, None) == []
    open_pipeline(config, models=own, warm=False).close()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"0" * 64])
def test_a_graph_without_its_hash_is_not_served(
    config: PipelineConfig, own: Path, recogniser: PipelineModel, content: bytes | None
) -> None:
    choose(config, own)
    graph = Graphs(own).find(recogniser.folder, recogniser.model)
    sidecar(graph).unlink()
    if content is not None:
        sidecar(graph).write_bytes(content)
    with pytest.raises(PlanError, match="is damaged"):
        open_pipeline(config, models=own)


@needs_vnni
def test_a_build_makes_the_int8_graph_of_a_plan_that_reads_the_same_text(
    config: PipelineConfig,
    own: Path,
    recogniser: PipelineModel,
    sample_page: Sample,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    int8 = EngineSpec("openvino", "int8", 1, usable_cores())
    for path in (own / "engines" / "graphs").glob("*/int8-*"):
        path.unlink()
    choose(config, own, TextRecognition=int8)
    with pytest.raises(PlanError, match=r"PP-OCRv4_mobile_rec .* has no int8 graph; run: bash"):
        open_pipeline(config, models=own)
    assert lacking([repo / YAML], own, None, None) == [repo / YAML]  # as of a plan that was copied
    _, made = Builder(own, usable_cores(), Quiet()).build(config)
    assert not made  # nothing was measured
    with closing(open_pipeline(config, models=own, warm=False)) as pipeline:
        read = [line.text for line in pipeline.read(sample_page.image).lines]
    assert character_overlap([line.text for line in sample_page.lines], read).f1 > 0.97
    damage(Graphs(own).file(recogniser, int8))
    with pytest.raises(PlanError, match=r"int8-2\.onnx: is damaged"):
        open_pipeline(config, models=own)
    monkeypatch.setattr("serving.plan.plan.QUANTISED", "int8-99")
    message = "int8 graphs was int8-2 when the plan was made and is int8-99 now"
    with pytest.raises(PlanError, match=message):
        open_pipeline(config, models=own)


@pytest.mark.parametrize("lacks", ["its bytes", "its hash"])
def test_a_damaged_plan_is_not_served_and_may_be_replaced(
    config: PipelineConfig, own: Path, lacks: str
) -> None:
    """A figure that changed is still a valid plan, as far as its fields tell."""
    before = find_plan(config, own)
    for path in (own / "engines" / "plans").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for file in (path, sidecar(path)) if lacks == "its hash" else (path,):
            file.unlink(missing_ok=True)  # links to those of all tests; a plan of old has no hash
        path.write_text(
            text if lacks == "its hash" else text.replace('"workers": ', '"workers": 1')
        )
    message = r"mobile-\w+\.json: is damaged: .*\.json\.sha256; run: bash scripts/build_engines\.sh"
    with pytest.raises(PlanError, match=message):
        open_pipeline(config, models=own)
    save_plan(own, config, usable_cores(), "cpu", before)
    assert find_plan(config, own) == before


def test_a_plan_is_intact_at_every_moment_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever kills a build leaves the plan of before or the new one, each with its hash."""
    path = tmp_path / "plan.json"
    write_with_sidecar(path, "before")
    replace, texts = Path.replace, []

    def replaced(partial: Path, target: Path) -> Path:
        done = replace(partial, target)
        texts.append(path.read_text())
        assert is_intact(path)
        return done

    monkeypatch.setattr(Path, "replace", replaced)
    write_with_sidecar(path, "after")
    assert texts == ["before", "after", "after"]
    subprocess.run(["sha256sum", "--check", "plan.json.sha256"], cwd=tmp_path, check=True)


def test_the_hashes_are_those_of_sha256sum(own: Path) -> None:
    hashes = sorted((own / "engines").rglob("*.sha256"))
    assert len(hashes) >= 3
    for path in hashes:
        subprocess.run(["sha256sum", "--check", "--quiet", path.name], cwd=path.parent, check=True)
    graphs = {path for path in (own / "engines").rglob("*.onnx") if ".part" not in path.name}
    newest = {path for path in graphs if sidecar(path).exists()}
    assert all(map(is_intact, newest))


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", "a/../../secret.bin"])
def test_external_data_cannot_leave_the_models_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    write_graph(folder, location)
    with pytest.raises(ModelInvalid, match=r"inference.onnx: .*outside the model's folder"):
        onnx_graph(folder, tmp_path / "engines")


def test_external_data_through_a_link_cannot_leave_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    write_graph(folder, "weights.bin")
    with pytest.raises(ModelInvalid, match=r"inference.onnx: .*outside the model's folder"):
        onnx_graph(folder, tmp_path / "engines")


def test_external_data_in_the_models_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    write_graph(tmp_path, "weights.bin")
    graph = onnx_graph(tmp_path, tmp_path / "engines")
    assert onnx.load(graph).graph.initializer[0].raw_data == bytes(64)


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "more/weights.bin"])
def test_external_data_is_part_of_the_models_digest(tmp_path: Path, location: str) -> None:
    """Other weights are another model: no plan and no graph of the one before is used for it."""
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    write_graph(folder, location)
    weights = folder / location
    weights.write_bytes(bytes(64))
    (folder / "README.md").write_text("of no account")
    before = digest(folder)
    (folder / "README.md").unlink()
    assert digest(folder) == before
    weights.write_bytes(bytes(63) + b"1")
    assert digest(folder) != before


def test_a_file_whose_name_is_in_the_graph_by_chance_is_no_weights(tmp_path: Path) -> None:
    """The name of its node: a log of the training that grows must not make a plan out of date."""
    name = "weights/" + "long" * 40 + ".bin"
    write_graph(tmp_path, name)
    before = digest(tmp_path)
    (tmp_path / "Add").write_text("a log")
    (tmp_path / "external").write_text("another")
    assert digest(tmp_path) == before
    (tmp_path / "weights").mkdir()
    (tmp_path / name).write_bytes(bytes(64))
    assert digest(tmp_path) != before


def write_graph(folder: Path, location: str) -> None:
    """A model whose weights are 64 bytes of another file."""
    weights = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL
    )
    weights.external_data.add(key="location", value=location)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [16])
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "external", [image], [output], [weights])
    (folder / "inference.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (folder / "inference.yml").write_text("Global: {model_name: external}\n")
