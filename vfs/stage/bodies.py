"""Contents of staged files: plain files named by number in one 0700 folder of the state.

A body is made before the row that names it, and its row goes, for good, before it does. So after a
crash the worst is a body that no row names; `sweep` removes those.
"""

import errno
import fcntl
import itertools
import os
from collections.abc import Set
from pathlib import Path

_FICLONE = 0x40049409


class Bodies:
    """Creates, opens, copies and removes bodies. Raises OSError, ENOSPC among them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        used = max((int(name, 16) for name in os.listdir(self._folder)), default=0)
        self._numbers = itertools.count(used + 1)  # drawn from by several threads

    def close(self) -> None:
        """Close the folder's descriptor."""
        os.close(self._folder)

    @staticmethod
    def _name(body: int) -> str:
        return f"{body:012x}"

    def create(self) -> tuple[int, int]:
        """Make an empty body; returns its number and a read-write descriptor."""
        body = next(self._numbers)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return body, os.open(self._name(body), flags, 0o600, dir_fd=self._folder)

    def open(self, body: int, *, write: bool = False) -> int:
        """Open an existing body; the caller closes the descriptor."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._name(body), flags, dir_fd=self._folder)

    def stat(self, body: int) -> os.stat_result:
        """The body's own size and times, which are the staged file's."""
        return os.stat(self._name(body), dir_fd=self._folder, follow_symlinks=False)

    def touch(self, body: int) -> None:
        """Give the body a new ctime, as a change of attributes does; other times stay."""
        status = self.stat(body)
        self.set_times(body, status.st_atime_ns, status.st_mtime_ns)

    def set_times(self, body: int, atime_ns: int, mtime_ns: int) -> None:
        """Set the body's times, which are the staged file's."""
        os.utime(
            self._name(body), ns=(atime_ns, mtime_ns), dir_fd=self._folder, follow_symlinks=False
        )

    def remove(self, body: int) -> None:
        """Remove a body; one that is gone already is no error."""
        try:
            os.unlink(self._name(body), dir_fd=self._folder)
        except FileNotFoundError:
            return

    def sync(self) -> None:
        """Make the names of new bodies durable."""
        os.fsync(self._folder)

    def numbers(self) -> set[int]:
        """Every body that is there."""
        return {int(name, 16) for name in os.listdir(self._folder)}

    def sweep(self, named: Set[int]) -> int:
        """Remove every body that is not in *named*; returns how many went."""
        gone = self.numbers() - named
        for body in gone:
            self.remove(body)
        return len(gone)


def copy_contents(source: int, target: int) -> None:
    """Copy a whole file between descriptors: shared blocks where the file system can, else a
    kernel copy that keeps holes. Raises OSError."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV):
            raise
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            # copy_file_range between two files of one folder; the kernel falls back by itself.
            done = os.copy_file_range(source, target, end - start, start, start)
            if done == 0:
                break
            start += done
        at = end
