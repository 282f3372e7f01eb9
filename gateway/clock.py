"""Wall and boot clock, and times as text. Standard library only."""

import time
from datetime import UTC, datetime
from pathlib import Path


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def boot_now() -> float:
    """Seconds since this machine was started, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """What tells this run of the machine from any other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def rfc3339(moment: float | None) -> str | None:
    """A time as RFC 3339 UTC with seconds; None stays None."""
    if moment is None:
        return None
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    return text.replace("+00:00", "Z")
