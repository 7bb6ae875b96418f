"""Inside the build environment: converts one Paddle graph to ONNX and runs it in Paddle.

conversion.py starts it as a script, with a Python that has paddle and paddle2onnx but not this
package. Arguments: graph, weights, work folder, then either
    inputs  writes `inputs.json` to the work folder: name, shape and dtype of each input
    OPSET   reads `inputs.npz` (keys ROUND.NAME), writes `outputs.npz` (keys ROUND.OUTPUT) and
            `model.onnx`
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(graph: Path, weights: Path, work: Path, step: str) -> None:
    if step == "inputs":
        (work / "inputs.json").write_text(json.dumps(inputs_of(graph)))
        return
    convert(graph, weights, work, int(step))


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


def convert(graph: Path, weights: Path, work: Path, opset: int) -> None:
    """Run the graph in Paddle, then convert it."""
    import paddle2onnx

    run(graph, weights, work / "inputs.npz", work / "outputs.npz")
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


def run(graph: Path, weights: Path, inputs: Path, outputs: Path) -> None:
    """Run each round of inputs in Paddle, on the CPU without oneDNN.

    The first must run. A later one that Paddle refuses, such as two items at once, is left out.
    """
    from paddle import inference

    config = inference.Config(str(graph), str(weights))
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    rounds: dict[str, dict[str, Any]] = {}
    with np.load(inputs) as arrays:
        for key, array in arrays.items():
            index, _, name = key.partition(".")
            rounds.setdefault(index, {})[name or predictor.get_input_names()[0]] = array
    results: dict[str, Any] = {}
    for index, feeds in rounds.items():
        try:
            for name, array in feeds.items():
                handle = predictor.get_input_handle(name)
                handle.reshape(array.shape)
                handle.copy_from_cpu(array)
            predictor.run()
        except Exception as error:  # Paddle's own kinds
            if not results:
                raise
            print(f"Paddle does not run round {index}: {error}")
            continue
        for output, name in enumerate(predictor.get_output_names()):
            results[f"{index}.{output}"] = predictor.get_output_handle(name).copy_to_cpu()
    np.savez(outputs, **results)


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
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
