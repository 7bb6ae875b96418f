"""`ocr-hpi adopt`: a model folder of an export of PaddleOCR 2, which has no inference.yml."""

from __future__ import annotations

import copy
import re
import tempfile
from pathlib import Path

import click

from serving.cli.options import Parsed, models_option

_KINDS = {
    "det": ("TextDetection", "PP-OCRv4_mobile_det", None),
    "rec": ("TextRecognition", "PP-OCRv4_mobile_rec", "RecResizeImg"),
    "cls": ("TextLineOrientation", "ch_ppocr_mobile_v2.0_cls", "ClsResizeImg"),
}
"""By PaddleOCR's name: the section of the YAML, the model whose inference.yml is the template, and
its operation with the shape of the images."""


def _shape(text: str) -> list[int]:
    if not re.fullmatch(r"3(, ?[1-9]\d{0,3}){2}", text):
        raise ValueError(f"{text!r} is not 3,HEIGHT,WIDTH, for example 3,48,320")
    return [int(side) for side in text.split(",")]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--kind", required=True, type=click.Choice([*_KINDS]), help="What PaddleOCR trained it as."
)
@click.option(
    "--dict",
    "dictionary",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recogniser's characters, one per line: the training's character_dict_path.",
)
@click.option(
    "--shape",
    type=Parsed("3,HEIGHT,WIDTH", _shape),
    help="Shape of the lines that it was trained on.  [default: 3,48,320 for rec, 3,48,192 for "
    "cls]",
)
@click.option("--name", help="Name of the new folder in --models.  [default: that of DIR]")
@click.option(
    "--model-name",
    help="PaddleX's name of the model that yours was trained from.  [default: "
    f"{_KINDS['det'][1]}, {_KINDS['rec'][1]}, {_KINDS['cls'][1]}]",
)
@models_option
def command(
    folder: Path,
    kind: str,
    dictionary: Path | None,
    shape: list[int] | None,
    name: str | None,
    model_name: str | None,
    models: Path,
) -> None:
    """Make a model folder of the PaddleOCR 2 export in DIR.

    PaddleOCR 3 and PaddleX export an inference.yml with the graph; set model_dir to such a folder.
    PaddleOCR 2 exports the graph alone. This copies it and writes its inference.yml beside the
    copy; DIR stays as it is. The graph is converted and must be one of that kind, with as many
    classes as the dictionary has characters, the blank and, where it was trained with
    use_space_char, the space.
    """
    from serving.errors import BUILD, ConversionError, ModelInvalid
    from serving.models.inference_yml import characters_of_text
    from serving.models.store import Store
    from serving.progress import progress_on

    section, base, operation = _KINDS[kind]
    if (kind == "rec") != (dictionary is not None):
        raise click.UsageError("--dict FILE is for --kind rec, which needs it")
    if shape and operation is None:
        raise click.UsageError("--shape: a detector takes pages of any size")
    store = Store(models)
    known = store.manifest.models[base]
    assert known.inference_yml is not None
    template = copy.deepcopy(store.manifest.templates[known.inference_yml])
    for step in template["PreProcess"]["transform_ops"] if shape else ():
        if operation in step:
            step[operation] = {"image_shape": shape}
    name, model_name = name or folder.absolute().name, model_name or base
    try:
        found = store.adopt(
            folder,
            name,
            template,
            model_name=model_name,
            characters=characters_of_text(dictionary) if dictionary else None,
            check=lambda copied: _check(copied, model_name, known.kind, store.engines),
            progress=progress_on(),
        )
    except (ConversionError, ModelInvalid) as error:
        raise type(error)(f"{folder}: not adopted as --kind {kind}: {error}") from error
    click.echo(f"{models / name}: {found}. In the pipeline's YAML:\n")
    click.echo(f"  {section}:\n    model_name: {model_name}\n    model_dir: {models / name}\n")
    click.echo(f"Then: {BUILD} PIPELINE.yaml")


def _check(folder: Path, model_name: str, kind: str, engines: Path) -> str:
    """Read the graph as `build` will; what was found. Raises ModelInvalid, ConversionError."""
    from serving.config.model import RecognitionModel, load_model
    from serving.errors import ConversionError
    from serving.models.conversion import find_build_python, needs_conversion, onnx_graph
    from serving.optimize.fuse import check_input_size, class_count, fuse
    from serving.progress import progress_on

    model = load_model(folder, model_name, kind)
    if needs_conversion(folder, engines):
        try:
            find_build_python()
        except ConversionError:
            return "copied, not checked: there is no build environment yet; the build checks it"
    graph = onnx_graph(folder, engines, progress=progress_on())
    with tempfile.TemporaryDirectory() as scratch:
        fuse(graph, model, Path(scratch) / "fused.onnx")
    if not isinstance(model, RecognitionModel):
        return "copied and checked"
    check_input_size(graph, model)
    classes, characters = class_count(graph, model), len(model.characters) - 2
    space = "the space" if classes == characters + 2 else "no space"
    return (
        f"copied and checked: {classes} classes are {characters} characters, the blank and {space}"
    )
