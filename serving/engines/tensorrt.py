"""ONNX Runtime's TensorRT provider: the options to build an engine, and to run a built one.

An engine is an EP-context model: an ONNX file with one node, which holds TensorRT's engine for the
whole graph and one profile of shapes. It has nothing to build from, so serving never rebuilds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.devices import number
from serving.engines.base import EngineSpec
from serving.errors import BUILD, EngineError

PROVIDER = "TensorrtExecutionProvider"
CONTEXT = "context.onnx"
ABOUT = "about.json"
_FLAGS = {"float32": {}, "tf32": {}, "float16": {"trt_fp16_enable": "1"}}
_FLAGS["bfloat16"] = {"trt_bf16_enable": "1"}

Shape = tuple[int, int, int, int]
"""(N, H, W, C)"""


@dataclass(frozen=True, slots=True)
class Profile:
    """The range of input shapes of an engine, and the one it is optimised for."""

    min: Shape
    opt: Shape
    max: Shape

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise EngineError for an input outside the profile."""
        bounds = zip(self.min, shape, self.max, strict=True)
        if not all(low <= size <= high for low, size, high in bounds):
            raise EngineError(
                f"an input of shape {shape} is outside the TensorRT engine's profile, "
                f"{self.min} to {self.max}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for a key and a sidecar."""
        return {name: list(shape) for name, shape in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, list[int]]) -> Profile:
        """The reverse of `to_dict`."""
        return cls(*((n, h, w, c) for n, h, w, c in (data[name] for name in cls.__slots__)))


def build_options(spec: EngineSpec, profile: Profile, folder: Path, timing: Path) -> dict[str, str]:
    """Options to build an engine, written to `folder` as CONTEXT.

    timing: the folder of the timing cache, which shortens later builds on the same GPU.
    Raises EngineError for an unsupported precision.
    """
    if spec.precision not in _FLAGS:
        raise EngineError(f"TensorRT runs {', '.join(_FLAGS)}, not {spec.precision}")
    return {
        "device_id": str(number(spec.device)),
        **_FLAGS[spec.precision],
        # Sums of squares overflow float16.
        "trt_layer_norm_fp32_fallback": "1",
        "trt_profile_min_shapes": _shape(profile.min),
        "trt_profile_opt_shapes": _shape(profile.opt),
        "trt_profile_max_shapes": _shape(profile.max),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timing),
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": str(folder / CONTEXT),
        "trt_ep_context_embed_mode": "1",
        **{key: str(value) for key, value in spec.options.items()},
    }


def run_options(spec: EngineSpec) -> dict[str, str]:
    """Options to run an EP-context model."""
    return {"device_id": str(number(spec.device))}


def read_about(context: Path) -> tuple[Profile, dict[str, int]]:
    """The engine's profile, and its node counts by provider. Raises EngineError."""
    path = context.with_name(ABOUT)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return Profile.from_dict(about["profile"]), about["nodes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{path}: cannot be read ({error}); delete its folder and run: {BUILD}"
        ) from error


def check_whole(context: Path, nodes: Mapping[str, int]) -> None:
    """Raise EngineError unless TensorRT took the whole graph: a partial one is no candidate.

    nodes: counts of the graph's nodes by provider.
    """
    import onnx

    if set(nodes) - {"tensorrt"}:
        shares = ", ".join(f"{name} {count}" for name, count in sorted(nodes.items()))
        raise EngineError(f"TensorRT does not take the graph whole; nodes by provider: {shares}")
    if not context.is_file():
        raise EngineError("TensorRT made no engine of the whole graph")
    kinds = Counter(node.op_type for node in onnx.load(context).graph.node)
    if kinds != {"EPContext": 1}:
        made = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise EngineError(f"TensorRT does not take the graph whole; its engine's file holds {made}")


def _shape(shape: Shape) -> str:
    return "image:" + "x".join(map(str, shape))
