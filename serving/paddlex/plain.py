"""A pipeline YAML by PaddleX: on our engines, or plain, so that one can compare."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml as yaml_format

from serving.config.pipeline import load_config
from serving.convert import onnx_graph
from serving.errors import ConfigError
from serving.paddlex.guard import check_paddlex
from serving.parts import Part, parts

_LOG = logging.getLogger(__name__)
_OURS = ("gate", "restore_spaces")
"""Keys of our YAML that PaddleX does not have, at the top or in a model."""


def paddlex_config(yaml: str | Path, *, models: str | Path = "models") -> dict[str, Any]:
    """A pipeline YAML as `paddlex.create_pipeline(config=...)` takes it.

    Model folders are filled in from the store, `enable_hpi` has PaddleX's spelling, and means
    True where it is absent. Raises ConfigError, ModelMissing and ModelInvalid.
    """
    data, found = _read(Path(yaml), Path(models))
    for part in found:
        data["SubModules"][part.section]["model_dir"] = str(part.folder)
    for level in _levels(data):
        if "enable_hpi" in level:
            level["use_hpip"] = level.pop("enable_hpi")
    return {"use_hpip": True, **data}


def plain_pipeline(yaml: str | Path, *, models: str | Path = "models", device: str = "cpu") -> Any:
    """The YAML's pipeline by PaddleX's own engine, whatever its `enable_hpi` says.

    That engine is the YAML's `engine`, else Paddle where it is installed, else ONNX Runtime, which
    is logged as a warning. Raises ConfigError, ModelError and EngineError.
    """
    check_paddlex()
    import paddlex

    config = paddlex_config(yaml, models=models)
    for level in _levels(config):
        for key in ("use_hpip", "hpi_config"):
            level.pop(key, None)
    _check_known(str(yaml), config)
    if config.get("engine") is None and importlib.util.find_spec("paddle") is None:
        _LOG.warning("paddlepaddle is not installed: plain PaddleX runs %s on ONNX Runtime", yaml)
        config["engine"] = "onnxruntime"
    with tempfile.TemporaryDirectory() as scratch:  # PaddleX reads its models when it opens them
        if config.get("engine") == "onnxruntime":
            _as_onnx(config, Path(models) / "engines", Path(scratch))
        return paddlex.create_pipeline(config=config, device=device)


def _read(path: Path, models: Path) -> tuple[dict[str, Any], list[Part]]:
    """The YAML, checked, without the keys that are ours alone; and its models."""
    found = list(parts(load_config(path), models))
    data: dict[str, Any] = yaml_format.safe_load(path.read_text(encoding="utf-8"))
    for level in _levels(data):
        for key in _OURS:
            level.pop(key, None)
    return data, found


def _levels(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Where engine settings may stand: the top, and each model."""
    yield data
    yield from data["SubModules"].values()


def _check_known(source: str, config: dict[str, Any]) -> None:
    from paddlex.inference.models.bindings import try_get_supported_engines

    for section, module in config["SubModules"].items():
        way_out = "name one of PaddleX's models"
        if section == "TextLineOrientation":
            if not config.get("use_textline_orientation", True):
                continue
            way_out += ", or set use_textline_orientation: False"
        if try_get_supported_engines(module["model_name"]) is None:
            raise ConfigError(
                f"{source}: SubModules.{section}.model_name: PaddleX does not know "
                f"{module['model_name']}; {way_out}"
            )


def _as_onnx(config: dict[str, Any], engines: Path, scratch: Path) -> None:
    """Give PaddleX's ONNX Runtime engine the folders it wants: with the graph as ONNX."""
    for module in config["SubModules"].values():
        if module.get("model_dir") is None:
            continue
        folder = Path(module["model_dir"])
        if not (folder / "inference.onnx").is_file():
            shown = scratch / module["model_name"]
            shown.mkdir()
            graph = onnx_graph(folder, engines)
            (shown / "inference.onnx").symlink_to(graph.resolve())
            (shown / "inference.yml").symlink_to((folder / "inference.yml").resolve())
            module["model_dir"] = str(shown)
