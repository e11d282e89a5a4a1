"""The energy counter of NVIDIA's desktop and server GPUs, by ctypes on the driver's own library.

NVML API Reference: `nvmlDeviceGetTotalEnergyConsumption`, millijoules since the driver was loaded, Volta and later. The
power that `nvmlDeviceGetPowerUsage` gives is an average over a second on many GPUs, and is not used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Protocol

from edgekit.errors import MissingError
from edgekit.profiler.energy.files import Files
from edgekit.profiler.energy.meter import Accuracy, Clock, Kind, Reading, rectangular

UPDATE_S = 0.1
LEAST_WINDOW_S = 10.0
GAIN_LIMIT = 0.05
"""NVML API Reference, nvmlDeviceGetPowerUsage: within 5 % of the current draw, stated for Fermi and Kepler; taken over,
in line with what arXiv 2312.02741 found on later ones."""
LIBRARY = "libnvidia-ml.so.1"
BOUNDARY = "the graphics card's own power inputs; neither the processor nor the rest of the machine"
_OK = 0


class Library(Protocol):
    """What we call of NVML; every function returns a status, 0 for success."""

    def nvmlInit_v2(self) -> int: ...  # noqa: N802 - NVML's names
    def nvmlDeviceGetHandleByIndex_v2(self, index: object, handle: object) -> int: ...  # noqa: N802
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object, energy: object) -> int: ...  # noqa: N802


class Nvml:
    """One GPU's counter.

    Args:
        library: with NVML's functions, initialised.
        handle: of the device.
    """

    kind: Kind = "counter"
    boundary = BOUNDARY
    period_s = UPDATE_S
    aperture_s = 0.0
    poll_s = UPDATE_S
    least_window_s = LEAST_WINDOW_S
    wraps_at_j = None
    clock_u_s = 0.0
    accuracy = Accuracy(rectangular(GAIN_LIMIT), 0.0, 0.0, "5 %: NVML API Reference, for the power that is added up")

    def __init__(self, library: Library, handle: object, index: int) -> None:
        self._library, self._handle = library, handle
        self.name = f"nvml gpu{index}"
        self.settings: Mapping[str, str] = {}

    def probe(self) -> float:
        """Joules; see `Meter.probe`."""
        try:
            return self._joules()
        except OSError as error:
            raise MissingError(
                "the GPU gives no energy",
                where=self.name,
                why=f"{error}: NVML initialises where it knows no power, too",
                fix="a GPU of Volta or later, or an external meter",
            ) from error

    def read(self, clock: Clock) -> Reading:
        """Joules since the driver was loaded."""
        before = clock()
        joules = self._joules()
        return Reading(before, clock(), joules)

    def _joules(self) -> float:
        energy = ctypes.c_ulonglong()
        status = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(energy))
        if status != _OK:
            raise OSError(f"nvmlDeviceGetTotalEnergyConsumption returned {status}")
        return energy.value / 1e3


def open_nvml(files: Files, index: int = 0, load: Callable[[str], Library] | None = None) -> Nvml:
    """The counter of the GPU with that index.

    Args:
        load: opens the library by name; ctypes by default.

    Raises:
        MissingError: a Tegra, no driver, or no such GPU.
    """
    if is_tegra(files):
        raise MissingError(
            "NVML has no energy on Tegra",
            where="/proc/device-tree/compatible",
            why="it initialises and counts a device there, and every power query is unsupported",
            fix="the board's own INA3221 is the meter: name its profile with --target orin-nano",
        )
    try:
        library = (load or _load)(LIBRARY)
    except OSError as error:
        raise MissingError("there is no NVIDIA driver", where=LIBRARY, why=str(error), fix="install it") from error
    handle = ctypes.c_void_p()
    for name, status in (
        ("nvmlInit_v2", library.nvmlInit_v2()),
        (
            "nvmlDeviceGetHandleByIndex_v2",
            library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)),
        ),
    ):
        if status != _OK:
            raise MissingError(f"NVML knows no GPU {index}", where=LIBRARY, why=f"{name} returned {status}")
    return Nvml(library, handle, index)


def is_tegra(files: Files) -> bool:
    """Whether the machine is a Jetson or another board with NVIDIA's Tegra."""
    compatible = files.maybe("/proc/device-tree/compatible") or ""
    return "nvidia,tegra" in compatible or files.maybe("/etc/nv_tegra_release") is not None


def _load(name: str) -> Library:
    library: Library = ctypes.CDLL(name)
    return library
