"""How much of the machine others used while something was measured: /proc/stat less our own process tree."""

from __future__ import annotations

import os
import time
from pathlib import Path

# A sample counts while others used less than this share of the CPU.
MOST_OTHERS = 0.05
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Watch:
    """Started when made; `others()` says what share of all CPUs other processes had since then."""

    def __init__(self) -> None:
        self.supported = Path("/proc/stat").exists()
        self.started = time.monotonic()
        self.busy, self.own = _busy(), _own()

    def others(self) -> float:
        """Share of all CPUs, 0 to 1; stolen time is others', too. 0 where there is no /proc."""
        elapsed = time.monotonic() - self.started
        if not self.supported or elapsed <= 0:
            return 0.0
        ticks = (_busy() - self.busy) - (_own() - self.own)
        # One tick on either side is rounding.
        return max(0.0, ticks - 1) / TICK / elapsed / (os.cpu_count() or 1)


def wait_for_quiet(most_seconds: float) -> bool:
    """Wait until others leave the CPU alone for a second; False if they did not."""
    end = time.monotonic() + most_seconds
    while time.monotonic() < end:
        watch = Watch()
        time.sleep(1.0)
        if watch.others() < MOST_OTHERS:
            return True
    return False


def _busy() -> int:
    path = Path("/proc/stat")
    if not path.exists():
        return 0
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, path.read_text().split("\n")[0].split()[1:9]
    )
    return user + nice + system + irq + softirq + steal


def _own() -> int:
    """Ticks of this process and everything below it, the ended ones included."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        # utime, stime, and those of children that were waited for
        ticks[pid] = sum(map(int, fields[11:15]))
    tree, size = {os.getpid()}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {pid for pid, parent in parents.items() if parent in tree}
    return sum(ticks.get(pid, 0) for pid in tree)
