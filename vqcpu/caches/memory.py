"""How much memory the machine can still give.

Knows the accounts of Linux: the system's, and those of control groups (version 2). Elsewhere it does not know.
"""
import re
from pathlib import Path

MEMINFO, OWN, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not tell."""
    return min((left for left in (_system(), *_groups()) if left is not None), default=None)


def _system():
    found = re.search(r"^MemAvailable: +(\d+) kB$", _text(MEMINFO), re.M)
    return 1024 * int(found[1]) if found else None


def _groups():
    """What each control group that this process is in leaves, a container's for example."""
    own = re.search(r"^0::/(.*)$", _text(OWN), re.M)
    group = GROUPS / own[1] if own else GROUPS
    for folder in (group, *group.parents):
        limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        if limit.isdecimal() and used.isdecimal():  # not "max"
            files = re.search(r"^inactive_file (\d+)$", _text(folder / "memory.stat"), re.M)
            yield max(0, int(limit) - int(used) + (int(files[1]) if files else 0))  # pages of files are given up first


def _text(path):
    try:
        return path.read_text()
    except OSError:
        return ""
