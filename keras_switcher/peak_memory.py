"""The greatest resident size of this process."""

import contextlib
import re
import resource
import sys
from pathlib import Path


def forget_peak() -> None:
    """Make `peak_mib` leave out the time before, on Linux; elsewhere there is no way to."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    """Return the greatest resident size of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, the peak of getrusage is at least that of the process that started this one.
        size = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if size is not None:
            return int(size[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
