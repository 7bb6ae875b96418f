"""The models on disk: `models/NAME`, one folder a model, whole or not there at all."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from serving.errors import FetchError, ModelInvalid, ModelMissing
from serving.models.disk import disk_errors, publish
from serving.models.fetch import Fetcher
from serving.models.files import ModelFiles, digest, model_files
from serving.models.manifest import (
    GraphFormat,
    Host,
    KnownModel,
    Manifest,
    OfficialSource,
    Source,
    load_manifest,
)
from serving.models.progress import Progress, Quiet

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OWN = ("engines", "hashes.json")  # what else lies in the store's folder


class Store:
    """A folder of models. Reading needs no lock; fetching takes the store's one."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def engines(self) -> Path:
        """Where conversions, engines and plans are cached; made by who writes there."""
        return self.root / "engines"

    @cached_property
    def manifest(self) -> Manifest:
        """What is known about models."""
        return load_manifest()

    def folder(self, name: str, model_dir: str | Path | None = None) -> Path:
        """The folder of a model: the user's `model_dir` where one is given, else the store's.

        Raises ModelMissing for one not fetched yet, ModelInvalid for one without its files.
        """
        if model_dir is not None:
            return self.check(Path(model_dir)).folder
        folder = self.root / _checked(name)
        if not folder.is_dir():
            raise ModelMissing(f"{name}: not in {self.root}. {self._way_to(name)}")
        return self.check(folder).folder

    @staticmethod
    def check(folder: str | Path) -> ModelFiles:
        """The files of a model folder. Raises ModelInvalid naming what is missing."""
        return model_files(Path(folder))

    @staticmethod
    def digest(folder: str | Path) -> str:
        """sha256 (hex) over the model's files. Raises ModelInvalid."""
        return digest(Path(folder))

    def fetch(
        self,
        name: str,
        *,
        source: str | Path | None = None,
        mirror: str | None = None,
        prefer: GraphFormat | None = None,
        accept_new_hash: bool = False,
        progress: Progress | None = None,
    ) -> str:
        """Bring one model into the store. See `fetch_all`."""
        return self.fetch_all(
            [name],
            source=source,
            mirror=mirror,
            prefer=prefer,
            accept_new_hash=accept_new_hash,
            progress=progress,
        )[name]

    def fetch_all(
        self,
        names: Sequence[str],
        *,
        source: str | Path | None = None,
        mirror: str | None = None,
        prefer: GraphFormat | None = None,
        accept_new_hash: bool = False,
        progress: Progress | None = None,
        on_done: Callable[[str, str], None] = lambda name, what: None,
    ) -> dict[str, str]:
        """Bring models into the store; per name what was done: `already there` or `fetched ...`.

        `on_done` is told so of each model at once.

        `source`: a folder, archive or wheel of the user's, in place of the known sources.
        `mirror`: URL of a server with `NAME_infer.tar` of each official package, or a pattern
        with `{package}` and, for single files, `{file}`; in place of the official hosts and
        before any other source. `prefer`: try sources with such a graph first.
        Raises FetchError or ModelInvalid; then nothing of the failed model was kept.
        """
        progress = progress or Quiet()
        done = {}
        wanted = []
        for name in map(_checked, names):
            if source is None and self._there(name):
                done[name] = "already there"
                on_done(name, done[name])
            else:
                wanted.append(name)
        if not wanted:
            self._sweep()
            return done
        with disk_errors(self.root), self._staging(progress) as staging:
            fetcher = Fetcher(
                self.manifest,
                staging,
                hash_file=self.root / "hashes.json",
                hosts=self.manifest.hosts if mirror is None else (_mirror(mirror),),
                accept_new_hash=accept_new_hash,
                progress=progress,
            )
            for name in wanted:
                known = self.manifest.models.get(name)
                if source is None and self._there(name):  # another process was faster
                    done[name] = "already there"
                else:
                    if source is not None:
                        folder, origin = fetcher.gather_local(name, known, Path(source))
                    else:
                        choice = self._sources(name, known, prefer, mirror)
                        folder, origin = fetcher.gather(name, known, choice)
                    done[name] = self._publish(folder, name, origin)
                on_done(name, done[name])
        return done

    def _publish(self, folder: Path, name: str, origin: str) -> str:
        target = self.root / name
        if target.is_dir() and any(target.iterdir()):
            if digest(target) == digest(folder):
                return "already there"
            raise FetchError(
                f"{target}: another model of this name is there; move it away, then fetch again"
            )
        publish(folder, target)
        return f"fetched from {origin}"

    def _there(self, name: str) -> bool:
        """Whether the complete model is there. Raises ModelInvalid for half of one."""
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
            raise ModelMissing(f"{name}: {self._way_to(name)}")
        return sorted(  # stable: else in the manifest's order
            known.sources,
            key=lambda source: (
                mirror is not None and not isinstance(source, OfficialSource),
                prefer is not None and source.format != prefer,
            ),
        )

    def _way_to(self, name: str) -> str:
        if name in self.manifest.models:
            return f"Fetch it: bash scripts/fetch_models.sh, or: ocr-hpi fetch {name}"
        near = difflib.get_close_matches(name, self.manifest.models, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        return (
            f"No source of this model is known.{meant} For a model of your own, set model_dir "
            f"in the pipeline's YAML, or: ocr-hpi fetch --from FOLDER_OR_ARCHIVE {name}"
        )

    def _sweep(self) -> None:
        """Remove what a killed process left behind, unless another is at work."""
        from filelock import FileLock

        staging = self.root / ".staging"
        if staging.exists():
            # Timeout is an OSError, and so is what a store that may only be read says.
            with suppress(OSError), FileLock(self.root / ".lock", timeout=0):
                shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def _staging(self, progress: Progress) -> Iterator[Path]:
        """A folder on the store's own file system, while no other process fetches.

        What a killed process left behind is removed first.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"waiting for another process that is fetching into {self.root}")
            lock.acquire()
        try:
            home = self.root / ".staging"
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(exist_ok=True)  # the pip of a killed process may still write there
            staging = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home))
            try:
                yield staging
            finally:
                shutil.rmtree(home, ignore_errors=True)
        finally:
            lock.release()


def _checked(name: str) -> str:
    """A name that is one plain folder name. Raises ModelMissing."""
    if not _NAME.fullmatch(name) or name in _OWN:
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
