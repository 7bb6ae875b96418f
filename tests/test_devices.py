"""Devices by name, and GPUs as NVML and CUDA_VISIBLE_DEVICES tell them."""

from __future__ import annotations

import sys

import pytest
from gpu_fakes import L4, T4, hide_gpus, pretend_runtime, show_gpus

from serving.cli.doctor import examine
from serving.devices import check_alike, format_devices, gpu, gpus, parse_devices
from serving.engines.cuda import check_gpu
from serving.errors import ConfigError, DeviceError


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu", ("cpu",)),
        ("gpu", ("gpu:0",)),
        ("gpu:1", ("gpu:1",)),
        ("gpu:0,1", ("gpu:0", "gpu:1")),
        ("gpu:1,1,0", ("gpu:1", "gpu:0")),
    ],
)
def test_devices_by_name(text: str, devices: tuple[str, ...]) -> None:
    assert parse_devices(text) == devices
    assert parse_devices(format_devices(devices)) == devices


@pytest.mark.parametrize("text", ["", "GPU", "gpu:", "gpu:a", "gpu:0,", "cpu:0", "npu", "gpu:-1"])
def test_other_words_are_no_devices(text: str) -> None:
    with pytest.raises(ConfigError, match="gpu:0,1"):
        parse_devices(text)


def test_nvml_tells_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus(monkeypatch, L4, T4)
    first, second = gpus()
    assert (first.name, first.capability, first.driver, first.cuda) == (*L4, "580.126.09", (13, 0))
    assert first.precisions == ("float32", "tf32", "float16", "bfloat16")
    assert second.precisions == ("float32", "float16")
    assert gpu("gpu:1") == second
    with pytest.raises(DeviceError, match=r"gpu:2: no such GPU; NVIDIA's driver shows gpu:0,1"):
        gpu("gpu:2")


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("1", ["Tesla T4"]),
        ("1,0", ["Tesla T4", "NVIDIA L4"]),
        ("GPU-1a", ["Tesla T4"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["NVIDIA L4"]),
    ],
)
def test_cards_are_counted_as_cuda_sees_them(
    monkeypatch: pytest.MonkeyPatch, setting: str, names: list[str]
) -> None:
    show_gpus(monkeypatch, L4, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [card.name for card in gpus()] == names
    assert [card.index for card in gpus()] == list(range(len(names)))


def test_one_server_takes_equal_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus(monkeypatch, L4, L4, T4)
    check_alike(("cpu",))
    check_alike(("gpu:0", "gpu:1"))
    with pytest.raises(ConfigError, match=r"gpu:0 is NVIDIA L4, gpu:2 is Tesla T4"):
        check_alike(("gpu:0", "gpu:2"))
    with pytest.raises(DeviceError, match="gpu:3: no such GPU"):
        check_alike(("gpu:0", "gpu:3"))


def test_without_a_driver_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_gpus(monkeypatch)
    with pytest.raises(DeviceError, match=r"NVML Shared Library Not Found.*--gpus all"):
        gpus()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DeviceError, match=r"install_hpi_deps.sh gpu"):
        gpus()


def test_what_a_gpu_needs_is_checked_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus(monkeypatch, L4, driver="550.54", cuda=12040)
    with pytest.raises(DeviceError, match=r"driver 550.54 runs CUDA 12.4, and .* 13.0"):
        check_gpu("gpu:0")
    show_gpus(monkeypatch, L4)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"has no CUDA provider; run: .* gpu"):
        check_gpu("gpu:0")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr("serving.engines.cuda.LIBRARIES", {"libnosuch.so.13": "nvidia-nosuch"})
    with pytest.raises(DeviceError, match=r"libnosuch.so.13 \(.*cannot open"):
        check_gpu("gpu:0")
    without = [("libcuda.so.1", "cannot open")]
    with monkeypatch.context() as patched:
        patched.setattr("serving.engines.cuda.load", lambda _: without)
        with pytest.raises(DeviceError, match=r"driver's CUDA .*compute,utility"):
            check_gpu("gpu:0")
    monkeypatch.setattr("serving.engines.cuda.LIBRARIES", {"libc.so.6": "the system"})
    check_gpu("gpu:0")


def told() -> dict[str, tuple[str, str, str]]:
    """What doctor says, by topic: state, text and fix."""
    return {item.topic: (item.state, item.text, item.fix) for item in examine()}


def test_doctor_tells_the_gpu_and_what_would_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4)
    found = told()
    assert found["gpu:0"][1].startswith("NVIDIA L4, 24 GiB, driver 580.126.09 (CUDA 13.0)")
    assert found["libcudnn.so.9"][0] == found["libnvinfer.so.10"][0] == "ok"
    assert "tensorrt float16" in found["engines on the GPU"][1]
    assert "build takes gpu:0" in found["device"][1]

    def load(libraries: dict[str, str]) -> list[tuple[str, str]]:
        return [(name, "not found") for name in libraries]

    monkeypatch.setattr("serving.engines.cuda.load", load)
    found = told()
    assert found["libcudnn.so.9"][0] == "error"
    assert found["libcudnn.so.9"][2] == "bash scripts/install_hpi_deps.sh gpu"
    assert found["libnvinfer.so.10"][0] == "absent"  # CUDA does without it
    assert found["libnvinfer.so.10"][2].endswith("gpu --tensorrt")
    assert "compute,utility" in found["libcuda.so.1"][2]
    assert "build takes the processor: the driver's CUDA" in found["device"][1]


def test_doctor_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_gpus(monkeypatch)
    found = told()
    assert found["GPU"][0] == "absent"
    assert "build takes the processor" in found["device"][1]
