"""What runs inside the build environment: one Paddle graph to ONNX, and what Paddle computes.

Started by serving/convert.py as a script, with a Python that has paddle and paddle2onnx and
nothing of this package. Arguments: graph, weights, work folder, opset. Reads `inputs.npz` of the
work folder; writes `outputs.npz` (same keys) and `model.onnx` there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np


def main(graph: Path, weights: Path, work: Path, opset: int) -> None:
    import paddle2onnx

    run(graph, weights, work / "inputs.npz", work / "outputs.npz")
    if graph.suffix == ".pdmodel":
        graph, weights = mended(graph, weights, work)
    # No optimize_tool: the default, polygraphy, has pip install what it lacks while it runs,
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
    """Run each input (float32 N x 3 x H x W) through Paddle itself, on the CPU without oneDNN."""
    from paddle import inference

    config = inference.Config(str(graph), str(weights))
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    feed = predictor.get_input_handle(predictor.get_input_names()[0])
    found = {}
    with np.load(inputs) as arrays:
        for key, array in arrays.items():
            feed.reshape(array.shape)
            feed.copy_from_cpu(array)
            predictor.run()
            name = predictor.get_output_names()[0]
            found[key] = predictor.get_output_handle(name).copy_to_cpu()
    np.savez(outputs, **found)


def mended(graph: Path, weights: Path, work: Path) -> tuple[Path, Path]:
    """A copy of a Paddle 2 graph that paddle2onnx 2.1.0 translates rightly.

    In Paddle 2, `slice` of a one-dimensional tensor with `decrease_axis` yields shape [1].
    paddle2onnx makes a scalar of it, as Paddle 3 would, and the concatenation that follows is no
    valid ONNX. Without `decrease_axis` the result is the same in Paddle 2, and right in ONNX.
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
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
