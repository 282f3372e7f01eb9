"""Room on the disk that is kept for the user: a file of nothing, given back when it is needed.

Other programs may fill the disk to its last byte. Review, discard, commit, the end of a grant and
the log need a little all the same, so some is taken while there is plenty, lent while the user does
something, given to the log when it finds the disk full, and taken again as far as there is any.
Any thread may call any method.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE_NAME = "reserve"
_PART = 64
_LEAST = 512 << 10
_MOST = 32 << 20


def _wanted(space: os.statvfs_result) -> int:
    return min(max(space.f_blocks * space.f_frsize // _PART, _LEAST), _MOST)


class Reserve:
    """The reserve of the workspace in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._folder = folder
        self._lock = threading.Lock()
        self._lent = 0

    def _space(self) -> tuple[int, int]:
        """(bytes free, bytes to keep)"""
        space = os.statvfs(self._folder)
        return space.f_bavail * space.f_frsize, _wanted(space)

    def _held(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def hold(self) -> None:
        """Take the reserve, or half of what there is; a disk that gives nothing is left alone."""
        with self._lock:
            if self._lent:
                return
            free, wanted = self._space()
            held = self._held()
            size = min(wanted, (free + held) // 2)
            if held >= size or size < _LEAST // 4:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError:
                os.ftruncate(fd, held)
            finally:
                os.close(fd)

    def release(self) -> bool:
        """Give the reserve back to the disk; False if there was none."""
        with self._lock:
            try:
                self._path.unlink()
            except FileNotFoundError:
                return False
            return True

    def release_if_full(self) -> None:
        """Give it back where the disk has less left than the reserve is to be."""
        free, wanted = self._space()
        if free < wanted:
            self.release()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """For the time of what the user does, a full disk has the reserve's room."""
        with self._lock:
            self._lent += 1
        self.release_if_full()
        try:
            yield
        finally:
            with self._lock:
                self._lent -= 1
            with suppress(OSError):
                self.hold()
