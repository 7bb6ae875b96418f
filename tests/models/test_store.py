"""The store: fetching from official hosts and local files, verified, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from store_server import FILES, ModelServer, serving_models, tar_of

from serving.disk import disk_errors
from serving.errors import DiskError, FetchError, ModelInvalid, ModelMissing
from serving.models.files import digest
from serving.models.manifest import OfficialSource, WheelSource
from serving.models.store import Store
from serving.progress import Lines, Quiet

NAME = "PP-OCRv4_server_det"  # published as a Paddle graph only
BOTH = "PP-OCRv5_server_det"  # and this one as ONNX, too
ARCHIVE = f"/{NAME}_infer.tar"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving_models() as running:
        running.files[ARCHIVE] = tar_of(FILES)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def left_over(store: Store) -> set[str]:
    """Entries of the store beside its own files."""
    return {path.name for path in store.root.iterdir()} - {".lock", "hashes.json"}


def test_fetches_the_publishers_archive(server: ModelServer, store: Store) -> None:
    done = store.fetch(NAME, mirror=server.url)
    assert done == f"fetched from {server.url}{ARCHIVE}"
    assert contents(store.folder(NAME)) == FILES
    assert left_over(store) == {NAME}


def test_a_complete_model_is_left_alone(server: ModelServer, store: Store) -> None:
    store.fetch(NAME, mirror=server.url)
    assert store.fetch(NAME, mirror=server.url) == "already there"
    assert server.requests[ARCHIVE] == 1


def test_onnx_is_preferred_where_it_is_published(server: ModelServer, store: Store) -> None:
    onnx = {"inference.yml": FILES["inference.yml"], "inference.onnx": b"graph"}
    server.files[f"/{BOTH}_onnx_infer.tar"] = tar_of(onnx)
    store.fetch(BOTH, mirror=server.url)
    assert contents(store.folder(BOTH)) == onnx


def test_the_next_package_is_tried_and_reported(server: ModelServer, store: Store) -> None:
    server.files[f"/{BOTH}_infer.tar"] = tar_of(FILES)
    messages: list[str] = []

    class Recorder(Quiet):
        def message(self, line: str) -> None:
            messages.append(line)

    store.fetch(BOTH, mirror=server.url, progress=Recorder())
    assert contents(store.folder(BOTH)) == FILES
    missing = f"{server.url}/{BOTH}_onnx_infer.tar: not there (HTTP 404); trying elsewhere"
    assert messages == [missing]


def test_the_progress_names_file_and_host(server: ModelServer, store: Store) -> None:
    out = io.StringIO()
    server.files[ARCHIVE] = tar_of({**FILES, "inference.pdiparams": bytes(2_000_000)})
    server.held.add(ARCHIVE)
    progress = Lines(out, interval=0.01)
    with ThreadPoolExecutor() as pool:
        fetched = pool.submit(store.fetch, NAME, mirror=server.url, progress=progress)
        while out.getvalue().count(" MB (") < 1 and not fetched.done():
            time.sleep(0.01)
        server.go_on.set()
    label = f"downloading {NAME}_infer.tar from {server.url.removeprefix('http://')}"
    lines = out.getvalue().splitlines()
    assert lines[0] == label
    assert re.fullmatch(re.escape(label) + r": \d\.\d of 2\.0 MB \(\d+ s so far\)", lines[-1])


def test_file_by_file_as_hugging_face_has_it(server: ModelServer, store: Store) -> None:
    old = {"inference.pdmodel" if n == "inference.json" else n: c for n, c in FILES.items()}
    server.files = {f"/PaddlePaddle/{NAME}/resolve/main/{name}": c for name, c in old.items()}
    store.fetch(NAME, mirror=server.url + "/PaddlePaddle/{package}/resolve/main/{file}")
    assert contents(store.folder(NAME)) == old


def test_a_cut_off_transfer_leaves_nothing(server: ModelServer, store: Store) -> None:
    server.cut.add(ARCHIVE)
    with pytest.raises(FetchError, match=r"cut off \(IncompleteRead\(56320 bytes read"):
        store.fetch(NAME, mirror=server.url)
    assert left_over(store) == set()
    with pytest.raises(ModelMissing):
        store.folder(NAME)


def test_a_page_in_place_of_an_archive_is_refused(server: ModelServer, store: Store) -> None:
    server.files[ARCHIVE] = b"<html>please sign in</html>"
    with pytest.raises(FetchError, match="no tar or zip archive"):
        store.fetch(NAME, mirror=server.url)
    assert left_over(store) == set()


def test_an_archive_without_graph_is_refused(server: ModelServer, store: Store) -> None:
    server.files[ARCHIVE] = tar_of({"inference.yml": b"x"})
    with pytest.raises(FetchError, match=r"_infer\.tar: lacks a graph"):
        store.fetch(NAME, mirror=server.url)
    assert left_over(store) == set()


def test_no_server_at_all(store: Store) -> None:
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9 cannot be reached"):
        store.fetch(NAME, mirror="http://127.0.0.1:9")


@pytest.mark.parametrize("mirror", ["ftp://host", "host/models", "http://host/{name}", "http://{"])
def test_a_mirror_that_is_none(store: Store, mirror: str) -> None:
    with pytest.raises(FetchError, match="--mirror"):
        store.fetch(NAME, mirror=mirror)


def test_the_first_hash_is_held(server: ModelServer, store: Store, tmp_path: Path) -> None:
    store.fetch(NAME, mirror=server.url)
    store.folder(NAME).rename(tmp_path / "moved")
    server.files[ARCHIVE] = tar_of({**FILES, "inference.pdiparams": b"other weights"})
    with pytest.raises(FetchError, match="--accept-new-hash"):
        store.fetch(NAME, mirror=server.url)
    assert left_over(store) == set()

    store.fetch(NAME, mirror=server.url, accept_new_hash=True)
    (store.folder(NAME)).rename(tmp_path / "moved too")
    assert store.fetch(NAME, mirror=server.url).startswith("fetched")
    recorded = json.loads((store.root / "hashes.json").read_text())
    assert recorded[NAME]["sha256"].keys() == FILES.keys()


def test_a_broken_hash_file_is_an_error(server: ModelServer, store: Store) -> None:
    store.root.mkdir()
    (store.root / "hashes.json").write_text("{half")
    with pytest.raises(FetchError, match="not valid JSON"):
        store.fetch(NAME, mirror=server.url)


def test_an_incomplete_model_is_an_error_and_left_alone(server: ModelServer, store: Store) -> None:
    folder = store.root / NAME
    folder.mkdir(parents=True)
    (folder / "inference.yml").write_bytes(b"x")
    (folder / "inference.json").write_bytes(b"{}")
    (folder / "inference.pdiparams").touch()  # no bytes: a full disk, once
    with pytest.raises(ModelInvalid, match=r"lacks inference\.pdiparams"):
        store.folder(NAME)
    with pytest.raises(ModelInvalid, match=r"move .* away"):
        store.fetch(NAME, mirror=server.url)
    assert len(contents(folder)) == 3


def test_an_empty_folder_counts_as_nothing(server: ModelServer, store: Store) -> None:
    (store.root / NAME).mkdir(parents=True)
    store.fetch(NAME, mirror=server.url)
    assert contents(store.folder(NAME)) == FILES


CHILD = """
import sys
from serving.progress import Lines, Quiet
from serving.models.store import Store
print(Store(sys.argv[1]).fetch(sys.argv[2], mirror=sys.argv[3]))
"""


def child(store: Store, server: ModelServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(store.root), NAME, server.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_fetch_leaves_only_what_the_next_removes(
    server: ModelServer, store: Store
) -> None:
    server.held.add(ARCHIVE)
    with child(store, server) as process:
        assert server.half_sent.wait(60)
        process.send_signal(signal.SIGKILL)
    assert left_over(store) == {".staging"}
    server.held.clear()
    store.fetch(NAME, mirror=server.url)
    assert contents(store.folder(NAME)) == FILES
    assert left_over(store) == {NAME}


def test_two_at_once_fetch_once(server: ModelServer, store: Store) -> None:
    server.held.add(ARCHIVE)
    with child(store, server) as first:
        assert server.half_sent.wait(60)
        with child(store, server) as second:
            server.go_on.set()
            results = {first.communicate()[0].split()[0], second.communicate()[0].split()[0]}
    assert results == {"fetched", "already"}
    assert server.requests[ARCHIVE] == 1
    assert contents(store.folder(NAME)) == FILES


def test_a_disk_that_takes_no_more_leaves_nothing(server: ModelServer, store: Store) -> None:
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, {resource.RLIM_INFINITY}))\n"
    )
    command = [sys.executable, "-c", limited + CHILD, str(store.root), NAME, server.url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "serving.errors.DiskError" in done.stderr
    assert "File too large" in done.stderr
    assert left_over(store) == set()


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match="disk is full"),
        disk_errors(tmp_path),
        Path("/dev/full").open("wb") as full,
    ):
        full.write(b"x")
        full.flush()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_a_clear_error(server: ModelServer, store: Store) -> None:
    store.root.mkdir()
    store.root.chmod(0o500)
    with pytest.raises(DiskError, match="writable"):
        store.fetch(NAME, mirror=server.url)


def test_from_a_folder_and_from_an_archive(store: Store, tmp_path: Path) -> None:
    packed = tmp_path / "my.tar.gz"
    packed.write_bytes(tar_of(FILES, mode="w:gz"))
    store.fetch("my_rec", source=packed)
    assert contents(store.folder("my_rec")) == FILES

    (store.folder("my_rec") / "readme.md").touch()  # no part of a model
    store.fetch("my_other", source=store.folder("my_rec"))
    assert contents(store.folder("my_other")) == FILES
    assert digest(store.folder("my_other")) == digest(store.folder("my_rec"))


def graph_with_weights_beside_it(folder: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [weights])
    onnx.save(
        onnx.helper.make_model(graph),
        folder / "inference.onnx",
        save_as_external_data=True,
        location="inference.onnx.data",
        size_threshold=0,
    )
    (folder / "inference.yml").write_bytes(FILES["inference.yml"])


def test_weights_beside_the_graph_come_with_it(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    graph_with_weights_beside_it(source)
    store.fetch("my_rec", source=source)
    assert contents(store.folder("my_rec")) == contents(source)


def test_an_archive_has_its_weights_in_the_graph(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    graph_with_weights_beside_it(source)
    packed = tmp_path / "my.tar"
    packed.write_bytes(tar_of(contents(source)))
    with pytest.raises(ModelInvalid, match="put the weights beside the graph or into it"):
        store.fetch("my_rec", source=packed)
    assert not (store.root / "my_rec").exists()


def test_from_elsewhere_never_replaces_another_model(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(FILES))
    (tmp_path / "b.tar").write_bytes(tar_of({**FILES, "inference.json": b"{}"}))
    store.fetch("my_rec", source=tmp_path / "a.tar")
    assert store.fetch("my_rec", source=tmp_path / "a.tar") == "already there"
    with pytest.raises(FetchError, match="another model of this name"):
        store.fetch("my_rec", source=tmp_path / "b.tar")
    assert contents(store.folder("my_rec")) == FILES


def test_from_a_folder_that_is_no_model(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"lacks inference\.yml and a graph"):
        store.fetch("my_rec", source=tmp_path)


def test_inference_yml_is_written_where_it_is_known(store: Store, tmp_path: Path) -> None:
    (tmp_path / "inference.onnx").write_bytes(b"\x08\x08")  # ONNX, with nothing in it
    store.fetch("PP-OCRv4_mobile_det", source=tmp_path)
    written = yaml.safe_load((store.folder("PP-OCRv4_mobile_det") / "inference.yml").read_text())
    assert written["Global"] == {"model_name": "PP-OCRv4_mobile_det"}
    assert written["PostProcess"]["unclip_ratio"] == 1.5
    with pytest.raises(FetchError, match="no dictionary"):
        store.fetch("PP-OCRv4_mobile_rec", source=tmp_path)


def test_the_digest_is_of_names_and_bytes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(FILES))
    store.fetch("my_rec", source=tmp_path / "a.tar")
    folder = store.folder("my_rec")
    first = digest(folder)
    (folder / "inference.json").rename(folder / "inference.pdmodel")
    assert digest(folder) != first
    (folder / "inference.yml").write_bytes(b"other")
    with pytest.raises(ModelInvalid):
        digest(tmp_path)


def test_a_missing_model_names_the_command(store: Store) -> None:
    with pytest.raises(ModelMissing, match=r"scripts/fetch_models\.sh PP-OCRv4_mobile_det"):
        store.folder("PP-OCRv4_mobile_det")
    with pytest.raises(ModelMissing, match=r"mean PP-OCRv4_mobile_det\?.*--from"):
        store.fetch("PP-OCRv4_mobil_det")


def test_a_users_folder_is_read_where_it_is(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="no such model folder"):
        store.folder("PP-OCRv4_mobile_det", tmp_path / "nothing")
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    assert store.folder("PP-OCRv4_mobile_det", tmp_path) == tmp_path
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/abs", "engines", "a b", "-x"])
def test_a_name_is_one_plain_folder(store: Store, name: str) -> None:
    with pytest.raises(ModelMissing, match="cannot be a model's name"):
        store.fetch(name)


def test_the_manifest_knows_what_paddlex_knows(store: Store) -> None:
    models = store.manifest.models
    # Of PaddleX 3.7: 10 det, 32 rec, 3 classifiers, SLANet_plus and UVDoc. Three of our own names.
    assert len(models) == 50
    official = {m.name for m in models.values() if isinstance(m.sources[-1], OfficialSource)}
    own = {"ch_ppocr_mobile_v2.0_cls", "rapid_orientation", "layout_cdla"}
    assert set(models) - official == own
    for model in models.values():
        assert model.licence == "Apache-2.0"
        wheels = [s for s in model.sources if isinstance(s, WheelSource)]
        assert all(len(source.wheel.sha256) == 64 for source in wheels)
        has_yml = all("inference.yml" in source.files for source in wheels)
        assert has_yml or model.inference_yml in store.manifest.templates
