"""Inside the build environment: converts one Paddle graph to ONNX and runs it in Paddle.

conversion.py starts it as a script, with a Python that has paddle and paddle2onnx but not this
package. Arguments: graph, weights, work folder, sizes (JSON: height and width of two images) and
opset. It reads `text.npy`, a picture, in the work folder, and writes there `inputs.npz` (keys
ROUND.NAME), `outputs.npz` (keys ROUND.OUTPUT) and `model.onnx`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 64
"""Size of a dynamic dimension of what is not an image."""

Round = dict[str, np.ndarray[Any, Any]]
"""An array by input name."""


def main(graph: Path, weights: Path, work: Path, sizes: list[list[int]], opset: int) -> None:
    """Run the graph in Paddle, then convert it."""
    import paddle2onnx

    feeds = rounds(inputs_of(graph), np.load(work / "text.npy"), sizes)
    for name, arrays in (("inputs", feeds), ("outputs", run(graph, weights, feeds))):
        keyed: dict[str, Any] = {
            f"{index}.{key}": a for index, each in enumerate(arrays) for key, a in each.items()
        }
        np.savez(work / f"{name}.npz", **keyed)
    if graph.suffix == ".pdmodel":
        graph, weights = without_decrease_axis(graph, weights, work)
    # No optimize_tool: the default, polygraphy, lets pip install missing packages while it runs,
    # also from a vendor's index. The engines fold constants themselves when they load.
    paddle2onnx.export(
        str(graph),
        str(weights),
        str(work / "model.onnx"),
        opset_version=opset,
        auto_upgrade_opset=False,
        optimize_tool="None",
    )


def rounds(
    inputs: Sequence[dict[str, Any]], text: np.ndarray[Any, Any], sizes: Sequence[Sequence[int]]
) -> list[Round]:
    """One item, then two at once where the graph takes a batch; inputs: as of `inputs_of`.

    Images show text from -2 to 2, (H, W) of `sizes` where the graph takes any, the second one
    upside down, so that a line classifier gives both of its answers. `im_shape` and `scale_factor`
    are what PaddleX feeds to detectors; all other inputs are random with a fixed seed.
    """
    return [
        {item["name"]: array(**item, count=count, size=size, text=text) for item in inputs}
        for count, size in enumerate(sizes, 1)
    ]


def array(
    name: str,
    shape: Sequence[int],
    dtype: str,
    *,
    count: int,
    size: Sequence[int],
    text: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    is_image = len(shape) == 4 and shape[1] in (3, -1)
    dynamic = (count, 3, *size) if is_image else (count, *[LENGTH] * (len(shape) - 1))
    shape = tuple(a if a > 0 else b for a, b in zip(shape, dynamic, strict=True))
    if is_image:
        rows, columns = np.ix_(np.arange(shape[2]) % len(text), np.arange(shape[3]) % len(text[0]))
        image = text[rows, columns].transpose(2, 0, 1) / 63.75 - 2
        images = [image, image[:, ::-1, ::-1]] * shape[0]
        return np.ascontiguousarray(np.stack(images[: shape[0]]), dtype)
    if name == "im_shape":
        return np.tile(np.array([size], dtype), (shape[0], 1))
    if name == "scale_factor":
        return np.ones(shape, dtype)
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def inputs_of(graph: Path) -> list[dict[str, Any]]:
    """The inputs of the graph; -1 is a dynamic dimension."""
    import paddle

    old = graph.suffix == ".pdmodel"
    paddle.enable_static()
    with paddle.pir_utils.OldIrGuard() if old else contextlib.nullcontext():
        executor = paddle.static.Executor(paddle.CPUPlace())
        program, names, _ = paddle.static.load_inference_model(str(graph.with_suffix("")), executor)
        block = program.global_block()
        if old:
            variables = {name: block.var(name) for name in names}
        else:
            data = (op for op in block.ops if op.name() == "pd_op.data")
            variables = {op.attrs()["name"]: op.results()[0] for op in data}
        return [
            {
                "name": name,
                "shape": [int(side) for side in variables[name].shape],
                "dtype": str(variables[name].dtype).rpartition(".")[2].lower(),
            }
            for name in names
        ]


def run(graph: Path, weights: Path, feeds: Sequence[Round]) -> list[Round]:
    """The outputs of each round, by their index, on the CPU without oneDNN.

    The first must run. A later one that Paddle refuses, such as two items at once, has none.
    """
    from paddle import inference

    config = inference.Config(str(graph), str(weights))
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    results: list[Round] = []
    for index, arrays in enumerate(feeds):
        try:
            for name, values in arrays.items():
                handle = predictor.get_input_handle(name)
                handle.reshape(values.shape)
                handle.copy_from_cpu(values)
            predictor.run()
        except Exception as error:  # Paddle's own kinds
            if not results:
                raise
            print(f"Paddle does not run round {index}: {error}")
            results.append({})
            continue
        outputs = map(predictor.get_output_handle, predictor.get_output_names())
        results.append({str(n): output.copy_to_cpu() for n, output in enumerate(outputs)})
    return results


def without_decrease_axis(graph: Path, weights: Path, work: Path) -> tuple[Path, Path]:
    """A copy of a Paddle 2 graph that paddle2onnx 2.1.0 converts correctly.

    In Paddle 2, `slice` of a one-dimensional tensor with `decrease_axis` yields shape [1].
    paddle2onnx makes a scalar of it, as Paddle 3 would, and the concatenation that follows is not
    valid ONNX. Without `decrease_axis` the result is the same in Paddle 2, and correct in ONNX.
    """
    import paddle

    with paddle.pir_utils.OldIrGuard():
        program = paddle.static.deserialize_program(graph.read_bytes())
        for block in program.blocks:
            for op in block.ops:
                if op.type != "slice" or not op.attr("decrease_axis"):
                    continue
                source = block._var_recursive(op.input("Input")[0])
                target = block._var_recursive(op.output("Out")[0])
                if len(source.shape) == 1 and tuple(target.shape) == (1,):
                    op._set_attr("decrease_axis", [])
        copy = work / "inference.pdmodel"
        copy.write_bytes(program.desc.serialize_to_string())
    shutil.copyfile(weights, work / "inference.pdiparams")
    return copy, work / "inference.pdiparams"


if __name__ == "__main__":
    _graph, _weights, _work, _sizes, _opset = sys.argv[1:]
    main(Path(_graph), Path(_weights), Path(_work), json.loads(_sizes), int(_opset))
