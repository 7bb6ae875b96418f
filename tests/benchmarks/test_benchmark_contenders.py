"""The contenders as they run: ours, and the peers where their environments are."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import peers
from benchmarks.contender import Contender, Spec
from serving.cli import main

PIPELINE = Path("configs/PP-OCRv4_mobile.yaml")


@pytest.fixture
def page(repo: Path) -> Path:
    return repo / "docs/page.jpg"


def python(repo: Path, variable: str, folder: str, *modules: str) -> Path:
    """That of a peer's environment; skips where the environment or a module is not there."""
    found = Path(os.environ.get(variable) or repo / folder / "bin/python")
    if not found.is_file():
        pytest.skip(f"no {folder}; scripts/benchmark.sh --peers makes it")
    packages = found.parent.parent / "lib"
    for module in modules:
        if not list(packages.glob(f"python3*/site-packages/{module}")):
            pytest.skip(f"no {module} in {folder}")
    return found


def test_ours_alone_and_at_once(repo: Path, built: Path, page: Path) -> None:
    with closing(Contender(peers.ours(repo / PIPELINE, built, Path(sys.executable)))) as ours:
        started = ours.start_ms
        alone = ours.read(page)
        assert ours.start_ms == started + alone.ms
        assert len(alone.texts) > 5
        assert 100 < alone.peak_mb < 4000
        assert ours.read_at_once([page] * 4, callers=2).texts == (alone.texts,) * 4
        assert "openvino" in ours.version


def test_what_fails_at_once_is_told(built: Path, repo: Path, page: Path, tmp_path: Path) -> None:
    with closing(Contender(peers.ours(repo / PIPELINE, built, Path(sys.executable)))) as ours:
        crowd = ours.read_at_once([page, tmp_path / "absent.png"], callers=2)
        assert "absent.png" in crowd.failed
        assert ours.read(page).texts


def specs(repo: Path, built: Path, scratch: Path, **pythons: Path) -> dict[str, Spec]:
    chosen = {"paddlex": None, "rapidocr": None, **pythons}
    found = peers.peers(repo / PIPELINE, built, scratch=scratch, **chosen)
    return {f"{spec.table}: {spec.name}": spec for spec in found}


def test_who_takes_part(repo: Path, built: Path, tmp_path: Path) -> None:
    here = Path(sys.executable)
    assert list(specs(repo, built, tmp_path, paddlex=here, rapidocr=here)) == [
        "same: PaddleX, Paddle Inference",
        "same: PaddleX, ONNX Runtime",
        "same: RapidOCR, ONNX Runtime",
        "same: RapidOCR, OpenVINO",
        "own: ours, as the YAML says",
        "own: PaddleX, own values, PP-OCRv4_mobile",
        "own: RapidOCR, own models, ONNX Runtime",
        "own: RapidOCR, own models, OpenVINO",
    ]


def reads_as_ours(spec: Spec, repo: Path, built: Path, page: Path) -> None:
    """Nearly: each crops and pads in its own way."""
    with closing(Contender(peers.ours(repo / PIPELINE, built, Path(sys.executable)))) as ours:
        expected = ours.read(page).texts
    with closing(Contender(spec)) as peer:
        found = peer.read(page).texts
    assert len(set(expected) & set(found)) >= 0.7 * len(expected)


def test_paddlex_on_onnxruntime(repo: Path, built: Path, page: Path, tmp_path: Path) -> None:
    its = python(repo, "OCR_HPI_PADDLEX_PYTHON", ".venv-paddlex", "paddlex", "onnxruntime")
    spec = specs(repo, built, tmp_path, paddlex=its)["same: PaddleX, ONNX Runtime"]
    reads_as_ours(spec, repo, built, page)


@pytest.mark.parametrize("name", ["same: PaddleX, Paddle Inference",
                                  "own: PaddleX, own values, PP-OCRv4_mobile"])  # fmt: skip
def test_paddlex_on_paddle(name: str, repo: Path, built: Path, page: Path, tmp_path: Path) -> None:
    its = python(repo, "OCR_HPI_PEER_PADDLEX_PYTHON", ".venv-peer-paddlex", "paddlex", "paddle")
    reads_as_ours(specs(repo, built, tmp_path, paddlex=its)[name], repo, built, page)


@pytest.mark.parametrize("name", ["same: RapidOCR, OpenVINO", "same: RapidOCR, ONNX Runtime"])
def test_rapidocr(name: str, repo: Path, built: Path, page: Path, tmp_path: Path) -> None:
    its = python(repo, "OCR_HPI_RAPIDOCR_PYTHON", ".venv-rapidocr", "rapidocr")
    reads_as_ours(specs(repo, built, tmp_path, rapidocr=its)[name], repo, built, page)


def test_the_whole_command(
    repo: Path, built: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "page.jpg").symlink_to(page)
    truth = [{"image": "page.jpg", "lines": [{"text": "The Northgate Bakery"}]}]
    (tmp_path / "one" / "truth.json").write_text(json.dumps(truth))
    asked = ["--data", tmp_path, "--report", tmp_path / "out", "--concurrency", "2",
             "--models", built]  # fmt: skip
    done = CliRunner().invoke(main, ["benchmark", *map(str, asked)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    (row,), (crowd,), (profile,) = found["rows"], found["throughput"], found["profiles"]
    assert row["ratio_median"] == 1
    assert row["character_f1"] > 0
    assert crowd["pages_per_second"] > 0
    assert not crowd["differing"]
    assert profile["efficiency"]
    assert "matrix product" in done.output
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 10_000
