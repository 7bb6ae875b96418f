"""What this process may use of the machine it runs on."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Processor cores this process may really use: its affinity, cut by its cgroups' quotas."""
    quotas = [quota for group in _groups(cgroup) if (quota := _quota(group)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.floor, quotas)]))


def share(cores: int, among: int) -> int:
    """Cores of each of so many that share them out evenly: at least one."""
    return max(1, cores // among)


def _groups(cgroup: Path) -> list[Path]:
    """Folders of the cgroups that limit this process: its own and all around it.

    In a container its own is mounted as the root. Of cgroup v1 only that is looked at.
    """
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folder = cgroup / own
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(cgroup))]


def _quota(cgroup: Path) -> float | None:
    """Cores granted by cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_*`); None where unlimited."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return int(limit) / int(period) if int(limit) > 0 else None


def free_memory(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that programs may still take: what the machine has left, cut by the cgroup's limit."""
    left = [left for group in _groups(cgroup) if (left := _memory_left(group)) is not None]
    return min([_kilobytes(meminfo, "MemAvailable"), *left])


def memory_limit(cgroup: Path = _CGROUP) -> int | None:
    """Bytes that this process's cgroups, as a container's, may take; None where none limits it."""
    limits = []
    for group in _groups(cgroup):
        for name, _, _ in _MEMORY:
            with suppress(OSError, ValueError):  # not this version, or "max"
                limits.append(int((group / name).read_text()))
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def resident_memory(pid: int) -> int:
    """Bytes that a process has in memory; 0 of one that has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
    except (OSError, IndexError):  # or no file can be opened
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, as SIGSTOP does. One under a debugger is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):  # it has ended, or no file can be opened
        return False


def peak_memory() -> int:
    """Bytes that this process had in memory at most. (getrusage begins with the parent's.)"""
    return _kilobytes(Path("/proc/self/status"), "VmHWM")


def _kilobytes(file: Path, name: str) -> int:
    """Bytes, of a line `name:  N kB` of the kernel's."""
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    assert found is not None, f"{file} has no {name}"
    return int(found[1]) * 1024


_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of cgroup v2 and v1, and what of the second the kernel gives up when asked for more."""
_NO_LIMIT = 1 << 60
"""Cgroup v1 says so much where nothing limits it."""


def _memory_left(cgroup: Path) -> int | None:
    """Bytes that the cgroup still grants; None where nothing limits it."""
    for limit, used, cache in _MEMORY:
        try:
            granted, taken = (int((cgroup / name).read_text()) for name in (limit, used))
            stat = (cgroup / used).with_name("memory.stat").read_text()
        except (OSError, ValueError):  # not this version, or "max"
            continue
        kept = dict(line.split() for line in stat.splitlines()).get(cache, 0)
        return max(0, granted - taken + int(kept))
    return None


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Instruction set flags of the processor, as the kernel names them."""
    return frozenset(_first_value(cpuinfo, "flags|Features").split())


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's name, as the kernel says it."""
    return _first_value(cpuinfo, "model name") or "unknown"


def _first_value(cpuinfo: Path, name: str) -> str:
    """Of the first line with that name, a regular expression; empty where there is none."""
    try:
        found = re.search(rf"^(?:{name})\s*:(.*)", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""
