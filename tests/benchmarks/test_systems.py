"""The systems as they run: ours, and the peers where their environments exist."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import systems
from benchmarks.__main__ import main
from benchmarks.systems import System, SystemSpec
from serving.config import load_config
from serving.errors import EngineError
from serving.machine import usable_cores
from serving.models.store import Store
from serving.plan.build import Builder
from serving.progress import progress_on

PIPELINE = Path("configs/PP-OCRv4_mobile.yaml")


@pytest.fixture
def page(repo: Path) -> Path:
    return repo / "docs/page.jpg"


def python(repo: Path, variable: str, folder: str, *modules: str) -> Path:
    """The Python of a peer's environment; skips where that or one of the modules is missing."""
    found = Path(os.environ.get(variable) or repo / folder / "bin/python")
    if not found.is_file():
        pytest.skip(f"no {folder}; scripts/benchmark.sh --peers makes it")
    packages = found.parent.parent / "lib"
    for module in modules:
        if not list(packages.glob(f"python3*/site-packages/{module}")):
            pytest.skip(f"no {module} in {folder}")
    return found


def test_ours_with_one_caller_and_with_several(repo: Path, unwarmed: Path, page: Path) -> None:
    with closing(System(systems.ours(repo / PIPELINE, unwarmed))) as ours:
        started = ours.start_ms
        alone = ours.read(page)
        assert ours.start_ms == started + alone.ms
        assert len(alone.texts) > 5
        assert 100 < alone.peak_mb < 4000
        assert ours.read_concurrently([page] * 4, callers=2).texts == (alone.texts,) * 4
        done = ours.read_for(0.2, [page], callers=2)
        assert len(done) >= 2
        assert min(done) > 0
        assert "openvino" in ours.version


def test_an_error_of_a_caller_leaves_the_system_running(
    unwarmed: Path, repo: Path, page: Path, tmp_path: Path
) -> None:
    with closing(System(systems.ours(repo / PIPELINE, unwarmed))) as ours:
        reading = ours.read_concurrently([page, tmp_path / "absent.png"], callers=2)
        assert "absent.png" in reading.error
        assert ours.read(page).texts


def test_a_system_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"ours, absent ended with code 1: .*absent\.yaml"):
        System(systems.ours(tmp_path / "absent.yaml", tmp_path))


def specs(repo: Path, built: Path, scratch: Path, **pythons: Path) -> dict[str, SystemSpec]:
    """The peers by setup and name. pythons: of their environments."""
    chosen = {"paddlex": None, "rapidocr": None, **pythons}
    found = systems.peers(repo / PIPELINE, built, scratch=scratch, **chosen)
    return {f"{spec.setup}: {spec.name}": spec for spec in found}


def test_peers_get_the_same_files_and_their_own_defaults(
    repo: Path, built: Path, tmp_path: Path
) -> None:
    here = Path(sys.executable)
    assert list(specs(repo, built, tmp_path, paddlex=here, rapidocr=here)) == [
        "same: PaddleX, Paddle Inference",
        "same: PaddleX, ONNX Runtime",
        "same: RapidOCR, ONNX Runtime",
        "same: RapidOCR, OpenVINO",
        "default: ours, own defaults",
        "default: PaddleX, own defaults, PP-OCRv4_mobile",
        "default: RapidOCR, own defaults, ONNX Runtime",
        "default: RapidOCR, own defaults, OpenVINO",
    ]


def reads_as_ours(spec: SystemSpec, repo: Path, built: Path, page: Path) -> None:
    """Nearly: each system crops and pads differently."""
    with closing(System(systems.ours(repo / PIPELINE, built))) as ours:
        expected = ours.read(page).texts
    with closing(System(spec)) as peer:
        found = peer.read(page).texts
    assert len(set(expected) & set(found)) >= 0.7 * len(expected)


def test_paddlex_on_onnxruntime(repo: Path, built: Path, page: Path, tmp_path: Path) -> None:
    its = python(repo, "OCR_HPI_PADDLEX_PYTHON", ".venv-paddlex", "paddlex", "onnxruntime")
    spec = specs(repo, built, tmp_path, paddlex=its)["same: PaddleX, ONNX Runtime"]
    reads_as_ours(spec, repo, built, page)


@pytest.mark.parametrize("name", ["same: PaddleX, Paddle Inference",
                                  "default: PaddleX, own defaults, PP-OCRv4_mobile"])  # fmt: skip
def test_paddlex_on_paddle(name: str, repo: Path, built: Path, page: Path, tmp_path: Path) -> None:
    its = python(repo, "OCR_HPI_PEER_PADDLEX_PYTHON", ".venv-peer-paddlex", "paddlex", "paddle")
    reads_as_ours(specs(repo, built, tmp_path, paddlex=its)[name], repo, built, page)


@pytest.mark.parametrize("name", ["same: RapidOCR, OpenVINO", "same: RapidOCR, ONNX Runtime"])
def test_rapidocr(name: str, repo: Path, built: Path, page: Path, tmp_path: Path) -> None:
    its = python(repo, "OCR_HPI_RAPIDOCR_PYTHON", ".venv-rapidocr", "rapidocr")
    reads_as_ours(specs(repo, built, tmp_path, rapidocr=its)[name], repo, built, page)


V6_TINY = Path("configs/PP-OCRv6_tiny.yaml")


def test_by_model_every_peer_that_knows_the_model_takes_part(
    repo: Path, built: Path, tmp_path: Path
) -> None:
    here = Path(sys.executable)
    found = systems.by_model(repo / PIPELINE, built, here, here, here, tmp_path)
    assert [(spec.name, spec.model) for spec in found] == [
        ("ours, PP-OCRv4_mobile", "PP-OCRv4_mobile"),
        ("PaddleX, ONNX Runtime, PP-OCRv4_mobile", "PP-OCRv4_mobile"),
        ("RapidOCR, OpenVINO, PP-OCRv4_mobile", "PP-OCRv4_mobile"),
    ]
    assert 10 < systems.graphs_mb(repo / PIPELINE, built) < 20


def build_v6_tiny(repo: Path, models: Path) -> None:
    """PP-OCRv6 tiny's engines into the folder of models."""
    Store(models).fetch("PP-OCRv6_tiny_det")
    Store(models).fetch("PP-OCRv6_tiny_rec")
    Builder(models, usable_cores(), progress_on()).build(load_config(repo / V6_TINY))


@pytest.mark.parametrize(
    ("variable", "folder", "module", "name"),
    [
        ("OCR_HPI_RAPIDOCR_PYTHON", ".venv-rapidocr", "rapidocr", "RapidOCR, OpenVINO"),
        ("OCR_HPI_TURBOOCR_PYTHON", ".venv-turboocr", "turboocr_engine", "TurboOCR, ONNX Runtime"),
    ],
)
def test_v6_tiny(
    variable: str, folder: str, module: str, name: str,
    repo: Path, built: Path, page: Path, tmp_path: Path,
) -> None:  # fmt: skip
    its = python(repo, variable, folder, module)
    build_v6_tiny(repo, built)
    rapid, turbo = (its, None) if module == "rapidocr" else (None, its)
    ours, spec = systems.by_model(repo / V6_TINY, built, None, rapid, turbo, tmp_path)
    assert spec.name == f"{name}, PP-OCRv6_tiny"
    with closing(System(ours)) as mine, closing(System(spec)) as peer:
        expected, found = mine.read(page).texts, peer.read(page).texts
    assert len(set(expected) & set(found)) >= 0.7 * len(expected)


def test_turboocr_detects_with_the_values_of_the_yaml(
    repo: Path, built: Path, page: Path, tmp_path: Path
) -> None:
    its = python(repo, "OCR_HPI_TURBOOCR_PYTHON", ".venv-turboocr", "turboocr_engine")
    build_v6_tiny(repo, built)
    *_, spec = systems.by_model(repo / V6_TINY, built, None, None, its, tmp_path)
    assert spec.settings["environment"] == {
        "DET_LIMIT_TYPE": "max", "DET_LIMIT_SIDE_LEN": "960", "DET_MAX_SIDE_LIMIT": "4000",
        "DET_DB_THRESH": "0.3", "DET_BOX_THRESH": "0.6", "DET_UNCLIP": "1.5",
    }  # fmt: skip
    few = {**spec.settings["environment"], "DET_LIMIT_SIDE_LEN": "96"}
    small = replace(spec, settings={**spec.settings, "environment": few})
    with closing(System(spec)) as full, closing(System(small)) as tiny:
        assert len(tiny.read(page).texts) < len(full.read(page).texts)


def test_the_command(
    repo: Path, built: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "page.jpg").symlink_to(page)
    truth = [{"image": "page.jpg", "lines": [{"text": "The Northgate Bakery"}]}]
    (tmp_path / "one" / "truth.json").write_text(json.dumps(truth))
    options = ["--data", tmp_path, "--report", tmp_path / "out", "--concurrency", "2",
               "--models", built]  # fmt: skip
    done = CliRunner().invoke(main, ["compare", *map(str, options)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    (result,), (concurrent,) = found["results"], found["throughput"]
    (profile,) = found["profiles"]
    assert result["ratio_median"] == 1
    assert result["character_f1"] > 0
    assert concurrent["pages_per_second"] > 0
    assert not concurrent["changed"]
    assert profile["efficiency"]
    assert "matrix product" in done.output
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 10_000
