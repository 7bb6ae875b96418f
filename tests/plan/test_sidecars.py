"""What is cached is trusted only by its hash: a damaged file is told, and built anew."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from serving.config import PipelineConfig, load_config
from serving.errors import ModelInvalid, PlanError
from serving.machine import usable_cores
from serving.models.conversion import onnx_graph
from serving.models.files import is_intact, sidecar
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.models.progress import Quiet
from serving.plan.build import Builder
from serving.plan.graphs import Graphs
from serving.plan.load import open_pipeline

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
            shutil.copytree(built / "engines" / name, store / "engines" / name)
    return store


@pytest.fixture
def recogniser(config: PipelineConfig, own: Path) -> PipelineModel:
    return next(part for part in pipeline_models(config, own) if part.section == "TextRecognition")


def damage(path: Path) -> None:
    """Change one byte among the weights."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def test_a_damaged_graph_is_not_served_and_a_build_replaces_it(
    config: PipelineConfig, own: Path, recogniser: PipelineModel
) -> None:
    graph = Graphs(own).find(recogniser.folder, recogniser.model)
    before = graph.read_bytes()
    damage(graph)
    message = rf"{graph.name}: is damaged: .* {graph.name}\.sha256; run: bash scripts/build_engines"
    with pytest.raises(PlanError, match=message):
        open_pipeline(config, models=own)
    _, made = Builder(own, usable_cores(), Quiet()).build(config)
    assert not made  # what was measured still holds
    assert graph.read_bytes() == before
    open_pipeline(config, models=own).close()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"0" * 64])
def test_a_graph_without_its_hash_is_not_served(
    config: PipelineConfig, own: Path, recogniser: PipelineModel, content: bytes | None
) -> None:
    graph = Graphs(own).find(recogniser.folder, recogniser.model)
    sidecar(graph).unlink()
    if content is not None:
        sidecar(graph).write_bytes(content)
    with pytest.raises(PlanError, match="is damaged"):
        open_pipeline(config, models=own)


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
