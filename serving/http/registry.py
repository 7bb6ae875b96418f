"""The pipelines by name, from not loaded yet to warm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from werkzeug.exceptions import NotFound

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.errors import NotReady
from serving.types import Page


class Reader(Protocol):
    """What the server needs of a pipeline. Safe under many threads."""

    @property
    def identity(self) -> str:
        """Tells which models and engines were loaded."""

    def read(self, image: npt.NDArray[np.uint8], options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one upright page, (H, W, 3) uint8 BGR."""

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """What is in force for a request, in PaddleX's own words."""

    def describe(self) -> dict[str, Any]:
        """Models and engines, as plain values."""

    def close(self) -> None:
        """Free the engines."""


class Registry:
    """Pipelines by name, in the order given. Each appears once it answered a warm-up image."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._readers: dict[str, Reader] = {}

    def open(self, load: Callable[[str], Reader], image: npt.NDArray[np.uint8]) -> None:
        """Load every pipeline and let it read `image`. Raises what `load` and `read` raise."""
        for name in self.names:
            reader = load(name)
            reader.read(image)
            self._readers[name] = reader

    @property
    def ready(self) -> bool:
        """Whether every pipeline has answered."""
        return len(self._readers) == len(self.names)

    def get(self, name: str) -> Reader:
        """The pipeline of that name. Raises NotFound and NotReady."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise NotFound(f"no pipeline {name[:60]!r}; there are: {known}")
        reader = self._readers.get(name)
        if reader is None:
            raise NotReady(f"{name} is still loading; GET /health/ready tells when it answers")
        return reader

    def loading(self) -> list[str]:
        """Names of the pipelines that have not answered yet."""
        return [name for name in self.names if name not in self._readers]

    @property
    def identities(self) -> dict[str, str]:
        """What each pipeline has loaded, as far as they are."""
        return {name: reader.identity for name, reader in self._readers.items()}

    def describe(self) -> list[dict[str, Any]]:
        """Every pipeline: its name, address and, once loaded, its models and engines."""
        return [
            {
                "name": name,
                "url": f"/ocr/v1/{name}",
                "ready": name in self._readers,
                **({"models": self._readers[name].describe()} if name in self._readers else {}),
            }
            for name in self.names
        ]

    def close(self) -> None:
        """Close every pipeline that was loaded."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()
