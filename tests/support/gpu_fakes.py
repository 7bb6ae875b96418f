"""NVIDIA's boundary, for machines without a GPU: an NVML that tells cards, sessions that record."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

L4 = ("NVIDIA L4", (8, 9))
T4 = ("Tesla T4", (7, 5))


class NVMLError(Exception):
    """As pynvml raises."""


def show_gpus(
    monkeypatch: pytest.MonkeyPatch,
    *cards: tuple[str, tuple[int, int]],
    driver: str = "580.126.09",
    cuda: int = 13000,
) -> None:
    """Let NVML tell these cards: (name, compute capability)."""
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError = NVMLError
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlDeviceGetCount = lambda: len(cards)
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlSystemGetCudaDriverVersion_v2 = lambda: cuda
    nvml.nvmlSystemGetDriverVersion = lambda: driver
    nvml.nvmlDeviceGetUUID = lambda index: f"GPU-{index}a2b"
    nvml.nvmlDeviceGetName = lambda index: cards[index][0]
    nvml.nvmlDeviceGetCudaComputeCapability = lambda index: cards[index][1]
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: int(uuid[4])
    nvml.nvmlDeviceGetMemoryInfo = lambda index: SimpleNamespace(total=24 << 30, free=20 << 30)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    # So that what the code under test sets is unset again.
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def hide_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NVML fail as it does without a driver."""

    def fail() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    show_gpus(monkeypatch)
    sys.modules["pynvml"].nvmlInit = fail


class Session:
    """An ONNX Runtime session that runs nothing and says that it is on `there`."""

    told: ClassVar[list[tuple[str, dict[str, str]]]] = []
    there: ClassVar[tuple[str, ...] | None] = None
    """None: where it was told to be."""

    def __init__(self, graph: str, options: Any, *, providers: Any, enable_fallback: int) -> None:
        assert enable_fallback == 0, "ONNX Runtime would go on with the CPU by itself"
        self.options = options
        type(self).told.append(providers[0])

    def get_providers(self) -> list[str]:
        there = (self.told[-1][0],) if self.there is None else self.there
        return [*there, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image")]


def pretend_runtime(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """Let ONNX Runtime have its GPU providers, and its libraries load; the sessions record."""
    fake = type("FakeSession", (Session,), {"told": []})
    gpu = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.InferenceSession", fake)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: gpu)
    monkeypatch.setattr("serving.engines.cuda.load", lambda names: [(name, "") for name in names])
    return fake
