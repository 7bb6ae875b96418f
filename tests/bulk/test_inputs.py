"""What an input consists of, and how its bytes are read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from http_fake import picture
from pyarrow import parquet

from serving.bulk.inputs import Document, Item, Listing
from serving.bulk.read import row_error
from serving.errors import BadRequest, ConfigError, TooLarge, Undecodable, Unfetchable

PNG, TIFF = picture(), picture(kind="TIFF", pages=2)


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder in a store of fsspec's."""
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/a.png": PNG, "/bucket/deep/b.tif": TIFF, "/bucket/notes.md": b"#"})
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def listed(source: Any, column: str | None = None) -> Listing:
    listing = Listing(column)
    listing.add_input(str(source))
    return listing


def contents(listing: Listing) -> dict[str, bytes]:
    return {name: document.read() for name, document in listing.documents.items()}


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_and_those_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    files = {tmp_path / "b.PDF": b"1", tmp_path / "deep" / "a": b"2", tmp_path / "c.jpg": b"3"}
    for path, data in files.items():
        path.write_bytes(data)
    for name in ("notes.md", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    listing = listed(tmp_path)
    assert contents(listing) == {str(path): data for path, data in files.items()}
    assert listing.left_out == 2


def test_a_glob_reads_what_it_matches(tmp_path: Path) -> None:
    for name in ("a.png", "b.dat", "c.png", "d[1].png"):
        (tmp_path / name).write_bytes(PNG)
    assert list(listed(tmp_path / "*.png").documents) == [
        str(tmp_path / "a.png"),
        str(tmp_path / "c.png"),
        str(tmp_path / "d[1].png"),
    ]
    for name in ("b.dat", "d[1].png"):
        assert list(listed(tmp_path / name).documents) == [str(tmp_path / name)]


def test_a_store(bucket: str) -> None:
    listing = listed(bucket)
    assert contents(listing) == {
        "memory:///bucket/a.png": PNG,
        "memory:///bucket/deep/b.tif": TIFF,
    }
    assert listing.left_out == 1


def test_a_list_of_paths_and_addresses(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.png").write_bytes(PNG)
    lines = ["here.png", f"{bucket}/a.png", "", "here.png", "gone.png", "http://127.0.0.1:1/x.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    listing = listed("list.txt")
    assert list(listing.documents) == [
        str(tmp_path / "here.png"),
        "memory:///bucket/a.png",
        str(tmp_path / "gone.png"),
        "http://127.0.0.1:1/x.png",
    ]
    assert listing.left_out == 1  # listed twice
    for name in list(listing.documents)[2:]:
        with pytest.raises(Unfetchable, match=r"Connection refused|No such file"):
            listing.documents[name].read()


def test_a_long_document_is_downloaded_twice_at_most(bucket: str) -> None:
    """First to see how many pages it has, then for all that are left."""
    reads = []

    class Counted(Document):
        def read(self) -> bytes:
            reads.append(self.name)
            return super().read()

    long = Counted("long.tif", f"{bucket}/deep/b.tif")
    items = [Item(long)] + [Item(long, first, 40) for first in range(8, 40, 8)]
    assert {item.read() for item in items} == {TIFF}
    assert len(reads) == 2


def test_the_files_in_a_tar_archive(tmp_path: Path) -> None:
    files = {"0001.png": PNG, "0001.json": b"{}", "0002.tif": TIFF, "0001.cls": b"1"}
    archive = tar(tmp_path / "shard-0.tar", files)
    listing = listed(tmp_path)
    assert contents(listing) == {f"{archive}/0001.png": PNG, f"{archive}/0002.tif": TIFF}
    assert listing.left_out == 2


def test_names_that_are_no_utf8_are_told_apart(tmp_path: Path) -> None:
    for name, data in ((b"scan\xe4.png", PNG), (b"scan\xf6.png", TIFF)):
        (tmp_path / os.fsdecode(name)).write_bytes(data)
    listing = listed(tmp_path)
    assert sorted(contents(listing).values()) == sorted([PNG, TIFF])
    assert not listing.left_out
    assert all(name.encode() for name in listing.documents)
    assert [*listing.documents] == [*listed(tmp_path).documents]  # as a resumed run needs


def test_the_error_of_a_file_whose_name_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.png")).symlink_to("/nonexistent")
    [document] = listed(tmp_path).documents.values()
    with pytest.raises(Unfetchable) as caught:
        document.read()
    assert row_error(caught.value)["message"].encode()


def test_a_pipe_is_no_document(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    [document] = listed(tmp_path).documents.values()
    with pytest.raises(BadRequest, match="not a regular file"):
        document.read()


@pytest.mark.parametrize("damage", ["header", "cut"])
def test_what_follows_damage_in_an_archive_is_named(tmp_path: Path, damage: str) -> None:
    archive = tar(tmp_path / "a.tar", {f"{index}.png": PNG for index in range(4)})
    with tarfile.open(archive) as opened:
        offset = [member.offset for member in opened][2]
    data = bytearray(archive.read_bytes())
    data[offset + 150] ^= 0x55
    archive.write_bytes(data if damage == "header" else data[:offset])
    documents = listed(archive).documents
    assert [*documents] == [f"{archive}/0.png", f"{archive}/1.png", str(archive)]
    with pytest.raises(Undecodable, match=f"cut off at byte {offset}"):
        documents[str(archive)].read()


def test_broken_parquet_is_an_error_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    path = tmp_path / "b.parquet"
    path.write_bytes(b"PAR1" * 4)
    documents = listed(tmp_path).documents
    assert documents[str(tmp_path / "a.png")].read() == PNG
    with pytest.raises(Undecodable, match="no Parquet"):
        documents[str(path)].read()


@pytest.mark.parametrize("broken", ["compressed", "cut"])
def test_a_broken_archive_is_an_error_of_a_document(tmp_path: Path, broken: str) -> None:
    archive = tar(
        tmp_path / "x.tar",
        {"a.png": PNG, "b.png": bytes(100_000)},
        "w:gz" if broken == "compressed" else "w",
    )
    if broken == "cut":
        archive.write_bytes(archive.read_bytes()[:2048])
    listing = listed(archive)
    with pytest.raises(Undecodable, match="broken archive, or a compressed one"):
        listing.documents[str(archive)].read()


def test_parquet_with_bytes(tmp_path: Path) -> None:
    path = tmp_path / "pages.parquet"
    table = pa.table({"id": [1, 2, 3], "page": [PNG, None, TIFF]})
    parquet.write_table(table, path, row_group_size=2)
    listing = listed(path)
    documents = listing.documents
    assert list(documents) == [f"{path}#0", f"{path}#1", f"{path}#2"]
    assert (documents[f"{path}#0"].read(), documents[f"{path}#2"].read()) == (PNG, TIFF)
    with pytest.raises(BadRequest, match="#1: null, not bytes"):
        documents[f"{path}#1"].read()


def test_parquet_with_bytes_in_a_struct(tmp_path: Path) -> None:
    """As Hugging Face's data sets have them."""
    path = tmp_path / "pages.parquet"
    images = [{"bytes": PNG, "path": "a.png"}, {"bytes": TIFF, "path": "b.tif"}]
    parquet.write_table(pa.table({"image": images, "label": ["a", "b"]}), path)
    assert list(contents(listed(path, "image.bytes")).values()) == [PNG, TIFF]


def test_parquet_with_addresses(tmp_path: Path, bucket: str) -> None:
    path = tmp_path / "pages.parquet"
    parquet.write_table(pa.table({"url": [f"{bucket}/a.png", None], "size": [1, 2]}), path)
    documents = listed(path).documents
    assert documents["memory:///bucket/a.png"].read() == PNG
    with pytest.raises(Undecodable, match="#1: no address"):
        documents[f"{path}#1"].read()


def test_a_column_that_is_not_told_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "pages.parquet"
    parquet.write_table(pa.table({"name": ["a"], "page": [PNG]}), path)
    with pytest.raises(ConfigError, match="--column names one of name, page"):
        listed(path)
    with pytest.raises(ConfigError, match="no column 'scan'"):
        listed(path, "scan")


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("empty", "gone", "*.png", "gone.txt"):
        with pytest.raises(ConfigError, match=rf"{source.replace('*', '.')}"):
            listed(tmp_path / source)
    with pytest.raises(ConfigError, match="nothing"):
        listed("nothing://bucket")
    with pytest.raises(ConfigError, match="stores within others"):
        listed("zip://*.png::/scans.zip")


def test_a_document_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.bulk.inputs._MAX_BYTES", 10)
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(TooLarge, match="split it"):
        Document("a", str(tmp_path / "a.png")).read()


@pytest.mark.parametrize("module", ["fsspec", "pyarrow"])
def test_without_the_extra(module: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from serving.cli import main\n"
        f"main(['bulk', {str(tmp_path / 'a.png')!r}, {str(tmp_path / 'out')!r}])"
    )
    (tmp_path / "a.png").write_bytes(PNG)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        f"Error: {module} is not installed; run: .venv/bin/pip install -e '.[bulk]'" in done.stderr
    )
