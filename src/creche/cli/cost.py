"""What processes cost, as the system tells it: CPU seconds and memory. Without psutil, from
/proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float | None:
    """Return the CPU seconds, user and system, that process *pid* has used; None where the system
    does not tell (it has no /proc, or the process is gone)."""
    fields = _stat(pid)
    # proc(5): utime and stime are fields 14 and 15; the first one here is field 3.
    return None if fields is None else (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_bytes(pid: int) -> int | None:
    """Return the resident memory of process *pid*, None where the system does not tell."""
    fields = _stat(pid)
    return None if fields is None else int(fields[21]) * _PAGE_BYTES


def children_of(pid: int) -> list[int]:
    """Return the pids of the direct children of *pid*; empty where the system does not tell."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None and int(fields[1]) == pid:
            found.append(int(entry.name))
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    # The command's name is in parentheses and may hold anything, spaces and parentheses included.
    return text.rpartition(")")[2].split()
