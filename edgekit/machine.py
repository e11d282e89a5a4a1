"""What this machine says of itself: the board's or processor's name, and the instructions that its CPU has."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from pathlib import Path

# Flags of /proc/cpuinfo that make up each level, the highest first. The x86 levels bear oneDNN's names and needs
# (oneDNN Developer Guide, "CPU Dispatcher Control"); on Arm the flag itself is the name.
_LEVELS = (
    ("AVX512_CORE_AMX", ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512bw")),
    ("AVX512_CORE_BF16", ("avx512_bf16", "avx512_vnni", "avx512bw")),
    ("AVX512_CORE_VNNI", ("avx512_vnni", "avx512bw")),
    ("AVX512_CORE", ("avx512bw", "avx512vl", "avx512dq")),
    ("AVX2_VNNI", ("avx2", "avx_vnni")),
    ("AVX2", ("avx2",)),
    ("AVX", ("avx",)),
    ("SSE41", ("sse4_1",)),
    ("i8mm", ("i8mm",)),
    ("asimddp", ("asimddp",)),
    ("asimd", ("asimd",)),
)


def machine_names() -> tuple[str, ...]:
    """What this machine says of itself, the same for all of its kind: board and chips, or the processor's name."""
    board = [_told(Path(f"/proc/device-tree/{name}")) for name in ("model", "compatible")]
    names = [part.strip() for text in board for part in text.split("\0") if part.strip()]
    names += dict.fromkeys(_cpuinfo("model name"))
    return tuple(names) or ("unknown",)


def is_device(identity: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether any word of `identity` stands in what the machine says of itself; true where there is no word."""
    told = " ".join(names).lower()
    return not identity or any(word.lower() in told for word in identity)


def cpu_flags() -> frozenset[str]:
    """The instructions that every core has, by the kernel's names: `flags` on x86, `Features` on Arm."""
    cores = [frozenset(line.split()) for line in (*_cpuinfo("flags"), *_cpuinfo("Features"))]
    return frozenset.intersection(*cores) if cores else frozenset()


def instruction_set(caps: Mapping[str, str], flags: Collection[str] | None = None) -> str:
    """What a library may use here: the cap that was set, or the highest level that the CPU has.

    Args:
        caps: environment variables that hold it back, such as `{"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}`.
        flags: of the CPU; this machine's by default.
    """
    if caps:
        return ", ".join(f"{name}={value}" for name, value in sorted(caps.items()))
    have = set(cpu_flags() if flags is None else flags)
    level = next((name for name, needs in _LEVELS if have.issuperset(needs)), machine())
    return f"{level} (all of this CPU)"


def machine() -> str:
    """The instruction set's family, such as `x86_64`."""
    return platform.machine() or "unknown"


def system() -> str:
    """The operating system and its release, such as `Linux 6.8.0`."""
    return f"{platform.system()} {platform.release()}"


def _cpuinfo(field: str) -> list[str]:
    lines = _told(Path("/proc/cpuinfo")).splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return [value.strip() for name, value in pairs if name.strip() == field]


def _told(path: Path) -> str:
    """What the kernel says there; empty where it says nothing, or not to this user, as on Android."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
