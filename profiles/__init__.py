"""Boards as data: one TOML a device, each fact with its source beside it, and the loader that reads them.

`get("orin-nano")` gives a `DeviceProfile`. Other packages add boards through the entry-point group
`edgekit.profiles`: a callable that returns the paths of TOML files.
"""

from __future__ import annotations

from edgekit.profiles.loader import all_profiles, builtin_files, get, read_profiles
from edgekit.profiles.profile import CpuCluster, DeviceProfile, Fact, PowerMode, Precision, Rail, Sensor

__all__ = [
    "CpuCluster",
    "DeviceProfile",
    "Fact",
    "PowerMode",
    "Precision",
    "Rail",
    "Sensor",
    "all_profiles",
    "builtin_files",
    "get",
    "read_profiles",
]
