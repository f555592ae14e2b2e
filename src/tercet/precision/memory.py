"""Memory that is really free: of the machine, of the cgroups above this process, of a GPU."""

from __future__ import annotations

__all__ = ["Memory", "cgroup_limits", "device_memory", "host_memory", "peak_process_memory", "process_memory"]

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# v1 writes "no limit" as the largest multiple of the page size; nobody has an exbibyte.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one device.

    Attributes:
        total_bytes: all that this process could ever have.
        free_bytes: what it can have now without taking it from others.
        limit: where the smaller figure came from, for people: "the machine" or a cgroup's folder.
    """

    total_bytes: int
    free_bytes: int
    limit: str


def device_memory(device: str) -> Memory:
    """Memory of "cpu", "cuda:i" or "mps"; on a GPU, what torch holds without using it counts as free."""
    if device == "cpu":
        return host_memory()
    import torch

    if device == "mps":
        total = torch.mps.recommended_max_memory()
        free = max(0, total - torch.mps.driver_allocated_memory())
        # MPS shares the machine's memory: it cannot give what the host has not.
        host = host_memory()
        return (
            Memory(total, free, "Metal")
            if free <= host.free_bytes
            else Memory(total, host.free_bytes, host.limit)
        )
    index = torch.device(device).index
    free, total = torch.cuda.mem_get_info(index)
    kept = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    return Memory(total, free + kept, "the GPU")


def host_memory(root: Path = Path("/")) -> Memory:
    """The machine's memory, or less where a cgroup above this process allows less.

    Args:
        root: where `proc` and `sys` are; another folder in tests.
    """
    total, free = _machine(root)
    memory = Memory(total, free, "the machine")
    for limit in cgroup_limits(root):
        memory = Memory(
            min(memory.total_bytes, limit.total_bytes),
            min(memory.free_bytes, limit.free_bytes),
            limit.limit if limit.free_bytes < memory.free_bytes else memory.limit,
        )
    return memory


def peak_process_memory() -> int:
    """Most bytes so far that this process had resident, pages of mapped files counted."""
    try:
        # Not getrusage: there the peak of the process that started us is inherited.
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def process_memory(root: Path = Path("/")) -> int:
    """Resident bytes of this process now, mapped files counted; 0 where the system does not tell."""
    statm = _text(root / "proc/self/statm").split()
    if len(statm) > 1:
        return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(
            resource.RUSAGE_SELF
        ).ru_maxrss  # bytes on macOS, and the peak: a safe side to err on
    return 0


def cgroup_limits(root: Path = Path("/")) -> list[Memory]:
    """One entry for each cgroup above this process that limits memory, innermost first (v1 and v2)."""
    limits = []
    for folder, mount, unified in _cgroup_folders(root):
        while True:
            limit = _limit_of(folder, root, unified=unified)
            if limit is not None:
                limits.append(limit)
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent
    return limits


def _limit_of(folder: Path, root: Path, *, unified: bool) -> Memory | None:
    """The limit of one cgroup, and what of it is free; file pages that would be dropped first are free."""
    if unified:
        # Past memory.high a process is throttled until it gives memory back, so it is a limit as well.
        allowed = [_number(folder / name) for name in ("memory.max", "memory.high")]
        used, inactive = _number(folder / "memory.current"), "inactive_file"
    else:
        allowed = [_number(folder / "memory.limit_in_bytes")]
        used, inactive = _number(folder / "memory.usage_in_bytes"), "total_inactive_file"
    total = min((limit for limit in allowed if limit is not None and limit < _NO_LIMIT), default=None)
    if total is None or used is None:
        return None
    found = re.search(rf"^{inactive} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    reclaimable = int(found[1]) if found else 0
    name = f"the cgroup /{folder.relative_to(root)}"
    return Memory(total, max(0, total - max(0, used - reclaimable)), name)


def _cgroup_folders(root: Path) -> list[tuple[Path, Path, bool]]:
    """(our folder, where its hierarchy is mounted, whether it is v2) of each hierarchy that counts memory."""
    paths: dict[bool, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            paths[True] = path
        elif "memory" in controllers.split(","):
            paths[False] = path
    folders = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        unified = kind == "cgroup2"
        if (
            not (unified or (kind == "cgroup" and "memory" in re.split(r"[ ,]", options)))
            or unified not in paths
        ):
            continue
        mounted_root, mount_point = before.split()[3:5]
        mount = root / mount_point.lstrip("/")
        # Inside a container the mount shows the container's own cgroup as its root, while the path may name
        # it from outside.
        path = paths[unified]
        inside = path.removeprefix(mounted_root.rstrip("/")) if path.startswith(mounted_root) else path
        folder = mount / inside.strip("/")
        folders.append((folder if ".." not in inside and folder.is_dir() else mount, mount, unified))
    return folders


def _machine(root: Path) -> tuple[int, int]:
    """(all, free) bytes of the machine. On Linux "free" is the kernel's own estimate, MemAvailable."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    found = {str(name): int(kilobytes) * 1024 for name, kilobytes in lines}
    if "MemTotal" in found:
        return found["MemTotal"], found.get("MemAvailable", found.get("MemFree", 0))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "darwin":
        report = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, check=False).stdout
        return total, _vm_stat_free(report) or total // 2
    return total, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _vm_stat_free(report: str) -> int:
    """Bytes that macOS can hand out without swapping, from what `vm_stat` prints."""
    page = re.search(r"page size of (\d+) bytes", report)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.", report, re.MULTILINE)
    return int(page[1]) * sum(int(count) for count in pages) if page is not None else 0


def _number(path: Path) -> int | None:
    """The number in a file, None where there is no file or no number ("max")."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """A file of the kernel's, "" where it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
