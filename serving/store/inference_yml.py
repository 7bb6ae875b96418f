"""The `inference.yml` of a model whose source has none, in PaddleX's own form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serving.errors import FetchError

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # a dictionary of 18,000 characters


def write_inference_yml(
    folder: Path, name: str, template: Mapping[str, Any], characters: list[str] | None
) -> None:
    """Write `folder/inference.yml` for the model `name` from a template of the manifest.

    `characters`: a recogniser's dictionary, without the blank and the space that the decoder adds.
    Raises FetchError when the template wants one and there is none.
    """
    data = {"Global": {"model_name": name}, **copy.deepcopy(dict(template))}
    if "character_dict" in data["PostProcess"]:
        if not characters:
            raise FetchError(
                f"{name}: no inference.yml and no dictionary of characters beside the graph; "
                "put the inference.yml that PaddleX exported into the folder"
            )
        data["PostProcess"]["character_dict"] = characters
    text = yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    (folder / "inference.yml").write_text(text, encoding="utf-8")
