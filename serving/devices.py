"""Where engines run: `cpu`, or NVIDIA GPUs by number, as NVML reports them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import INSTALL, ConfigError, DeviceError

_FORM = re.compile(r"gpu(?::(\d+(?:,\d+)*))?")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU."""

    index: int
    """As CUDA counts those it may see, in the order of the PCI bus."""
    uuid: str
    name: str
    capability: tuple[int, int]
    """Compute capability: (9, 0) for Hopper."""
    driver: str
    cuda: tuple[int, int]
    """Newest CUDA that the driver runs."""
    memory: int
    """Bytes."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Arithmetic that it has in hardware. Float32 is there always."""
        since = {"float32": (0, 0), "tf32": (8, 0), "float16": (5, 3), "bfloat16": (8, 0)}
        return tuple(name for name, minimum in since.items() if self.capability >= minimum)

    def to_dict(self) -> dict[str, Any]:
        """What engines depend on: not which of several equal cards it is."""
        return {
            "gpu": self.name,
            "capability": "{}.{}".format(*self.capability),
            "driver": self.driver,
        }


def parse_devices(text: str) -> tuple[str, ...]:
    """`cpu` -> ("cpu",); `gpu` -> ("gpu:0",); `gpu:0,1` -> ("gpu:0", "gpu:1").

    Raises ConfigError.
    """
    if text == "cpu":
        return ("cpu",)
    form = _FORM.fullmatch(text)
    if form is None:
        raise ConfigError(f"device {text!r}: must be cpu, gpu, gpu:0 or several as in gpu:0,1")
    return tuple(dict.fromkeys(f"gpu:{int(number)}" for number in (form[1] or "0").split(",")))


def format_devices(devices: Sequence[str]) -> str:
    """The reverse of `parse_devices`: ("gpu:0", "gpu:1") -> `gpu:0,1`."""
    if devices[0] == "cpu":
        return "cpu"
    return "gpu:" + ",".join(str(number(device)) for device in devices)


def kind(device: str) -> str:
    """cpu or gpu: what an engine depends on, where the cards are equal."""
    return device.partition(":")[0]


def number(device: str) -> int:
    """CUDA's number of the device `gpu:N`."""
    return int(device.removeprefix("gpu:"))


def gpu(device: str) -> Gpu:
    """The GPU of that name. Raises DeviceError where there is none."""
    found = gpus()
    if number(device) >= len(found):
        there = format_devices([f"gpu:{card.index}" for card in found]) if found else "none"
        raise DeviceError(
            f"{device}: no such GPU; NVIDIA's driver shows {there}; see: ocr-hpi doctor"
        )
    return found[number(device)]


def check_alike(devices: Sequence[str]) -> None:
    """Workers share these out with one plan for all, so the cards must be equal.

    Raises ConfigError where they are not, and DeviceError where one is not there.
    """
    cards = {device: gpu(device).to_dict() for device in devices if kind(device) == "gpu"}
    if any(card != cards[devices[0]] for card in cards.values()):
        found = ", ".join(f"{device} is {card['gpu']}" for device, card in cards.items())
        raise ConfigError(
            f"--device {format_devices(devices)}: one server takes equal GPUs, and {found}; start "
            "a server for each"
        )


def free_memory(device: str) -> int:
    """Bytes of that GPU's memory that no program has. Raises DeviceError."""
    uuid = gpu(device).uuid
    with _nvml() as nvml:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).free)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use. Raises DeviceError where NVML does not work."""
    with _nvml() as nvml:
        cards = [_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    # So that CUDA counts as NVML does, and not the fastest first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return _visible(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVIDIA's library, ready to be asked. Raises DeviceError for its errors."""
    try:
        import pynvml
    except ImportError:
        raise DeviceError(
            f"nvidia-ml-py is not installed, so no GPU is seen; run: {INSTALL['gpu']}"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceError(
            f"NVIDIA's driver cannot be reached ({error}); install it, or give the container its "
            "GPUs (docker run --gpus all)"
        ) from None
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise DeviceError(f"NVIDIA's driver does not report its GPUs: {error}") from None
    finally:
        pynvml.nvmlShutdown()


def _read(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        cuda=(cuda // 1000, cuda % 1000 // 10),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
    )


def _visible(cards: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, counted anew as CUDA does."""
    if setting is None:
        return tuple(cards)
    left: list[Gpu] = []
    for word in filter(None, map(str.strip, setting.split(","))):
        match = [card for card in cards if word == str(card.index) or card.uuid.startswith(word)]
        if not match:  # CUDA stops at the first that it does not know
            break
        left.append(match[0])
    return tuple(replace(card, index=index) for index, card in enumerate(left))
