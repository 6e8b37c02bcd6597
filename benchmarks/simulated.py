"""An attack that is none, for machines that could not do 64 of them: its processes import no torch."""

import time
from pathlib import Path


def simulated(shared: bytes, seconds: float) -> float:
    """An attack that takes its time and no processor.

    Returns:
        Megabytes that its process has, its share of what it has in common with others included; NaN of one
        that takes no time.
    """
    if not seconds:
        return float("nan")
    time.sleep(seconds)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))
