"""The models that a pipeline uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from serving.config.model import DetectionModel, Model, load_model
from serving.config.pipeline import (
    DOC_SECTIONS,
    MODULE_NAMES,
    Module,
    PipelineConfig,
    TextDetection,
    key_path,
)
from serving.errors import FETCH, ModelInvalid, ModelMissing
from serving.models.store import Store


@dataclass(frozen=True, slots=True)
class PipelineModel:
    """One model of a pipeline."""

    section: str
    """Its section of the YAML, for example TextDetection."""
    module: Module
    """Its entry of the YAML."""
    folder: Path
    model: Model
    """The description in its inference.yml."""


def pipeline_models(config: PipelineConfig, models: Path) -> Iterator[PipelineModel]:
    """The models in use, read from their folders. Raises ModelMissing, ModelInvalid."""
    store = Store(models)
    missing, names = [], set()
    for section, module in config.sections():
        try:
            folder = store.folder(module.model_name, module.model_dir)
        except ModelMissing as error:
            key = DOC_SECTIONS.get(section)
            off = f"{key}: True (absent means True) needs {error}. Or set {key}: False"
            missing.append(off if key else str(error))
            names.add(module.model_name)
            continue
        except ModelInvalid as error:
            if module.model_dir is None:
                raise
            key = f"{config.source}: {key_path(section)}.model_dir"
            raise ModelInvalid(f"{key}: {error}") from error
        model = load_model(folder, module.model_name, MODULE_NAMES[section])
        if isinstance(module, TextDetection) and module.input_shape is not None:
            assert isinstance(model, DetectionModel)
            model = replace(model, image_shape=module.input_shape[1:], keep_ratio=False)
        yield PipelineModel(section, module, folder, model)
    if missing:
        if names <= store.manifest.models.keys():
            missing.append(f"all that it needs: {FETCH} {config.source}")
        raise ModelMissing(f"{config.source}: {'; '.join(missing)}")
