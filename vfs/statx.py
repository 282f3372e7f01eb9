"""statx(2) through the C library: one call tells attributes, mount and mount-root flag.

`os.stat` cannot tell a mount point from a folder, and asking our own mount for fresh attributes
would wait for ourselves. AT_STATX_DONT_SYNC never sends a request to a FUSE daemon (the kernel
answers from what it holds), so this call is safe on any object, our own mount included.
"""

import ctypes
import os
import stat
import struct
import threading
from typing import NamedTuple

CURRENT_FOLDER = -100
"""Stands for a folder's descriptor where an absolute path is looked at (AT_FDCWD)."""

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_BASIC_BTIME_MNT_ID = 0x7FF | 0x800 | 0x1000
_ATTR_MOUNT_ROOT = 0x2000

# struct statx of linux/stat.h, up to and with stx_mnt_id.
_LAYOUT = struct.Struct("<IIQIIIHxxQQQQqI4xqI4xqI4xqI4xIIIIQ")

_libc = ctypes.CDLL(None, use_errno=True)
_statx = _libc.statx
_statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
_statx.restype = ctypes.c_int


class _Buffer(threading.local):
    """One result buffer per thread: scans and commits stat from worker threads."""

    def __init__(self) -> None:
        self.raw = ctypes.create_string_buffer(256)
        self.address = ctypes.addressof(self.raw)


_buffer = _Buffer()


class Stat(NamedTuple):
    """A source object's attributes; sizes in bytes, `blocks` of 512 bytes, times in ns.

    A named tuple, not a dataclass: one is made for every look-up.
    """

    dev: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mount: int
    mount_root: bool

    @property
    def kind(self) -> int:
        """The file type bits of the mode."""
        return stat.S_IFMT(self.mode)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number."""
        return self.dev, self.ino

    def same_version(self, other: "Stat") -> bool:
        """True if both were taken of one object that did not change between."""
        return (
            self.ino == other.ino
            and self.dev == other.dev
            and self.size == other.size
            and self.mtime_ns == other.mtime_ns
            and self.ctime_ns == other.ctime_ns
        )


def _call(fd: int, name: bytes, flags: int) -> Stat:
    if _statx(fd, name, flags, _STATX_BASIC_BTIME_MNT_ID, _buffer.address):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (_mask, _blksize, attrs, nlink, uid, gid, mode, ino, size, blocks, _attrs_mask,
     at, at_ns, _bt, _bt_ns, ct, ct_ns, mt, mt_ns,
     rdev_major, rdev_minor, dev_major, dev_minor, mount) = _LAYOUT.unpack_from(
        _buffer.raw
    )  # fmt: skip
    return Stat(
        os.makedev(dev_major, dev_minor), ino, mode, nlink, uid, gid,
        os.makedev(rdev_major, rdev_minor), size, blocks,
        at * 1_000_000_000 + at_ns, mt * 1_000_000_000 + mt_ns, ct * 1_000_000_000 + ct_ns,
        mount, bool(attrs & _ATTR_MOUNT_ROOT),
    )  # fmt: skip


def stat_at(folder: int, name: bytes, *, fresh: bool = False) -> Stat:
    """Stat *name* in the folder behind descriptor *folder*, not following a symlink.

    `fresh` asks a network file system for current values; without it nothing is ever sent
    anywhere. Raises OSError as statx(2) does.
    """
    sync = 0 if fresh else _AT_STATX_DONT_SYNC
    return _call(folder, name, _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | sync)


def stat_fd(fd: int, *, fresh: bool = False) -> Stat:
    """Stat the object behind *fd* (an O_PATH descriptor will do). Raises OSError."""
    return _call(fd, b"", _AT_EMPTY_PATH | (0 if fresh else _AT_STATX_DONT_SYNC))
