"""What else a machine says of itself: name, system, processor state, load, memory, batteries, and who shares it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from edgekit import machine
from edgekit.profiler.heat import cgroups
from edgekit.profiler.places import first_text, found
from edgekit.profiler.powermode import jetpack
from edgekit.profiler.sysfs import Sysfs
from edgekit.profiles.profile import DeviceProfile

_CPU = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class Fact:
    """One thing that was read.

    Attributes:
        value: None where it cannot be told; `source` then says why.
        moves: whether it may change by itself. What does not move and changed all the same spoils the run.
    """

    name: str
    value: str | None
    unit: str | None = None
    source: str | None = None
    moves: bool = False


@dataclass(frozen=True)
class CpuTime:
    """Ticks since the machine started, over all cores, and this process's own with its children that have ended.

    Attributes:
        busy: at work for anyone here; stolen: the hypervisor gave this machine's time to another.
        own: None where this process's cannot be read.
    """

    total: int
    busy: int
    stolen: int
    own: int | None


def names(files: Sysfs) -> tuple[str, ...]:
    """What the machine calls itself; see `edgekit.machine.machine_names`, whose rule is kept below another root."""
    if files.real:
        return machine.machine_names()
    board = [files.text(f"/proc/device-tree/{name}") or "" for name in ("model", "compatible")]
    told = [part.strip() for text in board for part in text.split("\0") if part.strip()]
    told += dict.fromkeys(_cpuinfo(files, "model name"))
    return tuple(told) or ("unknown",)


def is_board(files: Sysfs) -> bool:
    """Whether a device tree describes this machine: an embedded board, where clocks are the owner's to pin."""
    return files.text("/proc/device-tree/model") is not None and not _hypervised(files)


def read_facts(files: Sysfs, profile: DeviceProfile | None) -> tuple[Fact, ...]:
    """All that are there, in the order of a report."""
    facts = []
    for name, (read, unit, moves) in _FACTS.items():
        value, source = read(files)
        if value is not None:
            facts.append(Fact(name, value, unit, source, moves))
    release, path = first_text(files, profile, "release")
    if jetpack(release):
        facts.append(Fact("jetpack", jetpack(release), None, path))
    return (*facts, *_limits(files, profile), *_batteries(files))


def read_cpu_time(files: Sysfs) -> CpuTime | None:
    """None where the kernel does not tell, as to applications on Android."""
    told = re.search(r"^cpu +(\d+(?: \d+){7})", files.text("/proc/stat") or "", re.MULTILINE)
    if told is None:
        return None
    # Linux, Documentation/filesystems/proc: user nice system idle iowait irq softirq steal; user and nice hold guests.
    ticks = [int(tick) for tick in told[1].split()]
    busy = sum(ticks[:3]) + ticks[5] + ticks[6]
    return CpuTime(sum(ticks), busy, ticks[7], _own(files))


def _own(files: Sysfs) -> int | None:
    """utime, stime, cutime, cstime of /proc/self/stat: fields 14 to 17, the second of which is a name in brackets."""
    fields = (files.text("/proc/self/stat") or "").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) if len(fields) > 15 else None


_Read = Callable[[Sysfs], "tuple[str | None, str | None]"]


def _file(path: str, files: Sysfs) -> tuple[str | None, str | None]:
    return files.text(path), path


def _switch(places: dict[str, tuple[str, str]], files: Sysfs) -> tuple[str | None, str | None]:
    """The words for 0 and 1 of the first place that says either."""
    for path, words in places.items():
        value = files.number(path)
        if value in (0, 1):
            return words[value], path
    return None, None


def _matched(path: str, pattern: str, files: Sysfs) -> tuple[str | None, str | None]:
    told = re.search(pattern, files.text(path) or "", re.MULTILINE)
    return (told[1].strip() if told else None), path


def _device(files: Sysfs) -> tuple[str | None, str | None]:
    board = files.text("/proc/device-tree/model") is not None
    return names(files)[0], "/proc/device-tree/model" if board else "/proc/cpuinfo"


def _kernel(files: Sysfs) -> tuple[str | None, str | None]:
    path = "/proc/sys/kernel/osrelease"
    release = files.text(path)
    return (machine.system(), None) if release is None and files.real else (release, path)


def _sgx(files: Sysfs) -> tuple[str | None, str | None]:
    flags = _cpuinfo(files, "flags")
    return ("on" if "sgx" in flags[0].split() else "off") if flags else None, "/proc/cpuinfo"


def _virtual(files: Sysfs) -> tuple[str | None, str | None]:
    product = " ".join(filter(None, (files.text(f"/sys/class/dmi/id/{n}") for n in ("sys_vendor", "product_name"))))
    if _hypervised(files):
        return product or "yes", "/proc/cpuinfo, /sys/hypervisor, /proc/device-tree"
    return None, None


def _hypervised(files: Sysfs) -> bool:
    flags = _cpuinfo(files, "flags")
    told = [files.text(p) for p in ("/sys/hypervisor/type", "/proc/device-tree/hypervisor/compatible")]
    dummy = "dummy-virt" in (files.text("/proc/device-tree/compatible") or "")
    return any(told) or dummy or bool(flags and "hypervisor" in flags[0].split())


def _container(files: Sysfs) -> tuple[str | None, str | None]:
    for path, kind in {"/.dockerenv": "docker", "/run/.containerenv": "podman"}.items():
        if files.text(path) is not None:
            return kind, path
    return _matched("/proc/1/cgroup", r"(docker|kubepods|containerd|lxc|libpod)", files)


def _cores_allowed(files: Sysfs) -> tuple[str | None, str | None]:
    """The least CPU quota of the groups that this process is in, in cores."""
    quotas: list[float] = []
    for folder in cgroups(files):
        words = (files.text(f"{folder}/cpu.max") or "").split()
        if len(words) != 2:
            words = [files.text(f"{folder}/cpu.cfs_{part}_us") or "" for part in ("quota", "period")]
        if all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return (f"{min(quotas):g}" if quotas else None), "cpu.max or cpu.cfs_quota_us below /sys/fs/cgroup"


def _available(files: Sysfs) -> tuple[str | None, str | None]:
    told, path = _matched("/proc/meminfo", r"^MemAvailable: +(\d+) kB", files)
    return (str(int(told) // 1024) if told else None), path


def _load(files: Sysfs) -> tuple[str | None, str | None]:
    return _matched("/proc/loadavg", r"^(\S+ \S+ \S+)", files)


_TURBO = {f"{_CPU}/intel_pstate/no_turbo": ("on", "off"), f"{_CPU}/cpufreq/boost": ("off", "on")}
_FACTS: dict[str, tuple[_Read, str | None, bool]] = {
    "device": (_device, None, False),
    "operating system": (partial(_matched, "/etc/os-release", r'^PRETTY_NAME="?([^"\n]+)'), None, False),
    "kernel": (_kernel, None, False),
    "microcode": (partial(_matched, "/proc/cpuinfo", r"^microcode\s*: *(\S+)"), None, False),
    "cores online": (partial(_file, f"{_CPU}/online"), None, False),
    "smt": (partial(_switch, {f"{_CPU}/smt/active": ("off", "on")}), None, False),
    "turbo": (partial(_switch, _TURBO), None, False),
    "sgx": (_sgx, None, False),
    "energy preference": (partial(_file, f"{_CPU}/cpu0/cpufreq/energy_performance_preference"), None, False),
    "platform profile": (partial(_file, "/sys/firmware/acpi/platform_profile"), None, False),
    "virtual machine": (_virtual, None, False),
    "container": (_container, None, False),
    "cpu quota": (_cores_allowed, "cores", False),
    "cores allowed": (partial(_matched, "/proc/self/status", r"^Cpus_allowed_list:\s*(\S+)"), None, False),
    "load average": (_load, "1, 5, 15 min", True),
    "memory available": (_available, "MiB", True),
}


def _limits(files: Sysfs, profile: DeviceProfile | None) -> Iterator[Fact]:
    """The processor's power limits, W: `power limit long_term`; those of other zones than the first bear its name."""
    for path in found(files, profile, "power_limits"):
        limit = files.number(path)
        name = files.text(f"{path.removesuffix('_power_limit_uw')}_name") or path.rsplit("/", 1)[1]
        zone = path.split("/")[-2]
        if limit is not None:
            of_zone = "" if zone.endswith(":0") else f" {zone}"
            yield Fact(f"power limit {name}{of_zone}", f"{limit / 1e6:g}", "W", path)


def _batteries(files: Sysfs) -> Iterator[Fact]:
    """Status and charge of each battery of the machine; `scope` Device is that of a mouse or a pen."""
    for path in files.glob("/sys/class/power_supply/*/type"):
        folder = path.rsplit("/", 1)[0]
        if files.text(path) == "Battery" and files.text(f"{folder}/scope") != "Device":
            name = folder.rsplit("/", 1)[1]
            yield Fact(f"battery {name}", files.text(f"{folder}/status"), None, f"{folder}/status", moves=True)
            charge = files.text(f"{folder}/capacity")
            if charge is not None:
                yield Fact(f"battery {name} charge", charge, "%", f"{folder}/capacity", moves=True)


def _cpuinfo(files: Sysfs, field: str) -> list[str]:
    lines = (files.text("/proc/cpuinfo") or "").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return [value.strip() for name, value in pairs if name.strip() == field]
