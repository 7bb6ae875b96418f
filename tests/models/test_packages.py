"""Archives are not trusted: only model files are written, under their own names."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from store_server import FILES, tar_of

from serving.errors import FetchError
from serving.models import packages
from serving.models.packages import unpack_archive


def unpacked(tmp_path: Path, content: bytes) -> dict[str, bytes]:
    packed, folder = tmp_path / "packed", tmp_path / "folder"
    packed.write_bytes(content)
    folder.mkdir()
    unpack_archive(packed, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tar_with(*members: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO(tar_of(FILES))
    with tarfile.open(fileobj=packed, mode="a") as opened:
        for member in members:
            opened.addfile(member, io.BytesIO(bytes(member.size)))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(files: dict[str, bytes], **attributes: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get("external_attr", 0)
            opened.writestr(info, content)
    return packed.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("folder", ["some_infer", ".", "deep/down"])
def test_tar(tmp_path: Path, mode: str, folder: str) -> None:
    assert unpacked(tmp_path, tar_of(FILES, folder, mode)) == FILES


def test_zip(tmp_path: Path) -> None:
    assert unpacked(tmp_path, zip_of({f"some/{n}": c for n, c in FILES.items()})) == FILES


def test_only_the_models_files_are_taken(tmp_path: Path) -> None:
    more = {**FILES, "readme.md": b"x", "._inference.yml": b"x", "inference.pdiparams.info": b"x"}
    assert unpacked(tmp_path, tar_of(more)) == FILES


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        (member("../out"), "leads out"),
        (member("some_infer/../../out"), "leads out"),
        (member("/etc/passwd"), "leads out"),
        (member("some_infer/x", tarfile.SYMTYPE, "/etc/passwd"), "link or a device"),
        (member("some_infer/x", tarfile.LNKTYPE, "some_infer/inference.yml"), "link or a device"),
        (member("some_infer/x", tarfile.CHRTYPE), "link or a device"),
        (member("some_infer/x", tarfile.FIFOTYPE), "link or a device"),
        (member("other/inference.yml"), "several models"),
        (member("some_infer/inference.yml"), "several models"),
    ],
)
def test_a_hostile_tar_is_refused(tmp_path: Path, hostile: tarfile.TarInfo, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        unpacked(tmp_path, tar_with(hostile))
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("name", ["../inference.yml", "/inference.yml", "a\\..\\inference.yml"])
def test_a_zip_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FetchError, match="leads out"):
        unpacked(tmp_path, zip_of({name: b"x"}))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="link"):
        unpacked(tmp_path, zip_of({"inference.yml": b"/etc/passwd"}, external_attr=0o120777 << 16))


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_MAX_BYTES", 1 << 20)
    bomb = zip_of({"inference.onnx": bytes(2 << 20)})
    assert len(bomb) < 10_000
    with pytest.raises(FetchError, match="unpacked"):
        unpacked(tmp_path, bomb)
    monkeypatch.setattr(packages, "_MAX_MEMBERS", 3)
    (tmp_path / "folder").rmdir()
    with pytest.raises(FetchError, match="more than 3 members"):
        unpacked(tmp_path, tar_with(*(member(f"x{i}") for i in range(9))))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9])
def test_a_cut_off_tar_is_refused(tmp_path: Path, mode: str, part: float) -> None:
    whole = tar_of(FILES, mode=mode)
    last = FILES["inference.pdiparams"][-1:]
    end = whole.rindex(last) if mode == "w" else len(whole)
    with pytest.raises(FetchError, match=r"broken, cut off|holds no model"):
        unpacked(tmp_path, whole[: int(end * part)])


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    whole = bytearray(zip_of(FILES))
    at = whole.index(b"inference.pdiparams") + 40
    whole[at : at + 20] = bytes(20)
    with pytest.raises(FetchError, match="broken"):
        unpacked(tmp_path, bytes(whole))


def test_an_archive_without_model(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="holds no model"):
        unpacked(tmp_path, tar_of({"readme.md": b"x"}))
