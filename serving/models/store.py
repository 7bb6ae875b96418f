"""The models on disk: `models/NAME`, one folder for each model, complete or absent."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from serving.disk import disk_errors, locked, publish
from serving.errors import FETCH, FetchError, ModelInvalid, ModelMissing
from serving.models.files import copy_model, digest, missing_files, model_files
from serving.models.inference_yml import write_inference_yml
from serving.models.manifest import (
    GraphFormat,
    Host,
    KnownModel,
    Manifest,
    OfficialSource,
    Source,
    load_manifest,
)
from serving.progress import Progress, Quiet

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_THERE = "already there"
_RESERVED = ("engines", "hashes.json")  # other entries of the store's folder


class Store:
    """A folder of models. Reading needs no lock; fetching takes the store's one."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def engines(self) -> Path:
        """The cache of conversions, engines and plans; created when something is written to it."""
        return self.root / "engines"

    @cached_property
    def manifest(self) -> Manifest:
        """The known models and where they are published."""
        return load_manifest()

    def folder(self, name: str, model_dir: str | Path | None = None) -> Path:
        """The folder of a model: the user's `model_dir` if set, else the store's.

        Raises ModelMissing for one that is not fetched yet, ModelInvalid for an incomplete one.
        """
        if model_dir is not None:
            return model_files(Path(model_dir)).folder
        folder = self.root / _checked(name)
        if not folder.is_dir():
            raise ModelMissing(f"{name}: not in {self.root}. {self._how_to_get(name)}")
        return model_files(folder).folder

    def own(self) -> list[str]:
        """The models here that the manifest does not know."""
        folders = (path.name for path in self.root.glob("*/"))
        others = {*self.manifest.models, *_RESERVED}
        return sorted(name for name in folders if _NAME.fullmatch(name) and name not in others)

    def fetch(self, name: str, **options: Any) -> str:
        """Bring one model into the store. Options, result and errors as of `fetch_all`."""
        return dict(self.fetch_all([name], **options))[name]

    def fetch_all(
        self,
        names: Sequence[str],
        *,
        source: str | Path | None = None,
        mirror: str | None = None,
        prefer: GraphFormat | None = None,
        accept_new_hash: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[tuple[str, str]]:
        """Bring models into the store. Yields the name of each and what was done, once it is there:
        `already there` or `fetched from ...`.

        `source`: a folder, archive or wheel of the user's, in place of the known sources.
        `mirror`: URL of a server with `NAME_infer.tar` of each official package, or a pattern
        with `{package}` and, for single files, `{file}`; in place of the official hosts and
        before any other source. `prefer`: try sources with such a graph first.
        Raises FetchError or ModelInvalid; then nothing of the failed model was kept.
        """
        from serving.models.sources import SourceReader  # requests is needed for fetching only

        progress = progress or Quiet()
        missing = []
        for name in map(_checked, names):
            if source is None and self._is_complete(name):
                yield name, _THERE
            else:
                missing.append(name)
        if not missing:
            return
        with disk_errors(self.root), self._staging(progress) as staging:
            sources = SourceReader(
                self.manifest,
                staging,
                hash_file=self.root / "hashes.json",
                hosts=self.manifest.hosts if mirror is None else (_mirror(mirror),),
                accept_new_hash=accept_new_hash,
                progress=progress,
            )
            for name in missing:
                known = self.manifest.models.get(name)
                if source is not None:
                    folder, origin = sources.fetch_local(name, known, Path(source))
                elif self._is_complete(name):  # another process was faster
                    yield name, _THERE
                    continue
                else:
                    choice = self._sources(name, known, prefer, mirror)
                    folder, origin = sources.fetch(name, known, choice)
                yield name, self._publish(folder, name, origin)

    def adopt(
        self,
        source: Path,
        name: str,
        template: Mapping[str, Any],
        *,
        model_name: str,
        characters: list[str] | None = None,
        check: Callable[[Path], str],
        progress: Progress | None = None,
    ) -> str:
        """Copy the graph in `source`, which has no inference.yml, and write one beside the copy.

        name: of the new folder. template, characters: as `write_inference_yml` takes them.
        model_name: PaddleX's name of the model. check: gets the finished copy before it appears
        here; what it returns is returned.
        Raises what `check` raises, FetchError, ModelInvalid, and ModelMissing for a name that
        cannot be one; then nothing was kept.
        """
        if missing_files(source) != "inference.yml":
            model_files(source)  # raises for what else is missing
            raise ModelInvalid(
                f"{source}: has its inference.yml: set model_dir to it in the pipeline's YAML"
            )
        if _checked(name) in self.manifest.models:
            raise FetchError(f"{name} is a published model; choose another name (--name)")
        with disk_errors(self.root), self._staging(progress or Quiet()) as staging:
            folder = staging / name
            folder.mkdir()
            copy_model(source, folder)
            write_inference_yml(folder, model_name, template, characters)
            found = check(folder)
            self._publish(folder, name, str(source))
        return found

    def _publish(self, folder: Path, name: str, origin: str) -> str:
        target = self.root / name
        if target.is_dir() and any(target.iterdir()):
            if digest(target) == digest(folder):
                return _THERE
            raise FetchError(
                f"{target}: another model of this name is there; move it away, then fetch again"
            )
        publish(folder, target)
        return f"fetched from {origin}"

    def _is_complete(self, name: str) -> bool:
        """Whether the store has the model. Raises ModelInvalid for an incomplete one."""
        folder = self.root / name
        if not folder.is_dir() or not any(folder.iterdir()):
            return False
        try:
            model_files(folder)
        except ModelInvalid as error:
            raise ModelInvalid(f"{error}; move {folder} away, then fetch again") from None
        return True

    def _sources(
        self,
        name: str,
        known: KnownModel | None,
        prefer: GraphFormat | None,
        mirror: str | None,
    ) -> list[Source]:
        if known is None:
            raise ModelMissing(f"{name}: {self._how_to_get(name)}")
        return sorted(  # stable: else in the manifest's order
            known.sources,
            key=lambda source: (
                mirror is not None and not isinstance(source, OfficialSource),
                prefer is not None and source.format != prefer,
            ),
        )

    def _how_to_get(self, name: str) -> str:
        if name in self.manifest.models:
            return f"Fetch it: {FETCH} {name}"
        close = difflib.get_close_matches(name, self.manifest.models, n=1)
        suggestion = f" Did you mean {close[0]}?" if close else ""
        return (
            f"No source of this model is known.{suggestion} For a model of your own, set model_dir "
            f"in the pipeline's YAML, or: ocr-hpi fetch --from FOLDER_OR_ARCHIVE {name}"
        )

    @contextmanager
    def _staging(self, progress: Progress) -> Iterator[Path]:
        """A folder on the store's own file system, while no other process fetches.

        What a killed process left behind is removed first.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that is fetching into {self.root}"
        with locked(self.root / ".lock", lambda: progress.message(waiting)):
            home = self.root / ".staging"
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(exist_ok=True)  # the pip of a killed process may still write there
            staging = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home))
            try:
                yield staging
            finally:
                shutil.rmtree(home, ignore_errors=True)


def _checked(name: str) -> str:
    """Check that a name is one plain folder name. Raises ModelMissing."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ModelMissing(
            f"{name!r} cannot be a model's name (letters, digits, '.', '_' and '-'); for a "
            "folder elsewhere set model_dir"
        )
    return name


def _mirror(url: str) -> Host:
    if not url.startswith(("http://", "https://")):
        raise FetchError(f"--mirror {url}: not an http or https address")
    try:
        url.format(package="", file="")
    except (KeyError, IndexError, ValueError) as error:
        raise FetchError(f"--mirror {url}: only {{package}} and {{file}} may be in it") from error
    if "{file}" in url:
        return Host(file=url)
    return Host(archive=url if "{package}" in url else url.rstrip("/") + "/{package}_infer.tar")
