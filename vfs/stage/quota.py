"""How much an agent may put into the stage: a limit of its own, and what it must leave on the disk.

Over the stage's limit the agent gets EDQUOT, as with any disk quota. Close to the end of the disk
it gets ENOSPC while some room is left: review, discard, commit and the log work in that. Removing
is always possible. Used by the task that runs the core alone.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

BLOCK = 512
"""Unit of `st_blocks`."""

_MARGIN_PART = 64
_MARGIN_LEAST = 1 << 20
_MARGIN_MOST = 64 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stage may hold: bytes of contents as they take up the disk, and names."""

    size: int = 16 << 30
    entries: int = 1_000_000


class Quota:
    """Counts what bodies take up. `folder` is a descriptor on the disk that holds them."""

    def __init__(self, folder: int, limits: Limits | None = None) -> None:
        self._folder = folder
        self.limits = limits or Limits()
        self.used = 0
        self.make_room: Callable[[], bool] = lambda: False
        """Asked when the disk is full: True if it gave something back."""
        self._sizes: dict[int, int] = {}

    def note(self, body: int, status: os.stat_result) -> None:
        """A body takes up this much now."""
        size = status.st_blocks * BLOCK
        self.used += size - self._sizes.get(body, 0)
        self._sizes[body] = size

    def gone(self, body: int) -> None:
        """A body is nobody's any more."""
        self.used -= self._sizes.pop(body, 0)

    def check_write(self, fd: int, offset: int, size: int) -> None:
        """Raise OSError, EDQUOT or ENOSPC, unless *size* bytes at *offset* of an open body fit."""
        if self.used + size > self.limits.size:
            # Close to the limit: what is overwritten does not count.
            status = os.fstat(fd)
            whole = status.st_blocks * BLOCK >= status.st_size
            growth = max(0, offset + size - status.st_size) if whole else size
            if growth:
                self._check_size(growth)
        self.check_disk(size)

    def check_copy(self, size: int) -> None:
        """Raise OSError unless a new body of *size* bytes fits."""
        self._check_size(size)
        self.check_disk(size)

    def check_entry(self, entries: int) -> None:
        """Raise OSError unless one more name fits beside the stage's *entries*."""
        if entries >= self.limits.entries:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self.check_disk()

    def _check_size(self, growth: int) -> None:
        if self.used + growth > self.limits.size:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def check_disk(self, growth: int = 0) -> None:
        """Raise OSError(ENOSPC) unless the disk has room for *growth* and for us besides."""
        if self._is_short(growth) and not (self.make_room() and not self._is_short(growth)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _is_short(self, growth: int) -> bool:
        space = os.fstatvfs(self._folder)
        return space.f_bavail * space.f_frsize - growth < margin(space)

    def space(self) -> tuple[int, int]:
        """(size, free) in bytes as the agent sees the stage: the tighter of limit and disk."""
        space = os.fstatvfs(self._folder)
        free = max(0, space.f_bavail * space.f_frsize - margin(space))
        left = max(0, self.limits.size - self.used)
        size = min(self.limits.size, space.f_blocks * space.f_frsize)
        return size, min(free, left)


def margin(space: os.statvfs_result) -> int:
    """Bytes of a disk that an agent must leave free."""
    part = space.f_blocks * space.f_frsize // _MARGIN_PART
    return min(max(part, _MARGIN_LEAST), _MARGIN_MOST)
