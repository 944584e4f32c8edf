"""The GPUs of this machine as their driver reports them: measured, or absent."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

_LIBRARY: Final = "pynvml"
"""Of the package nvidia-ml-py, which is optional: `pip install nvidia-ml-py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU's memory now, in bytes."""

    name: str
    total_bytes: int
    free_bytes: int


def read_gpus() -> tuple[GpuReading, ...]:
    """Every GPU that NVIDIA's library lists; none where library, driver or card is absent."""
    try:
        nvml: Any = importlib.import_module(_LIBRARY)
    except ModuleNotFoundError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, or none that answers
        return ()
    try:
        return tuple(_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:  # one that fell off the bus
        return ()
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, index: int) -> GpuReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuReading(
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
    )
