"""Putting one reviewed change into its source: a temporary sibling, checked, then renamed.

The only code of grantfs that writes to a source. It works from folder descriptors, never follows
a link, never replaces what it did not expect (`RENAME_NOREPLACE` for new names; the version is
looked at again right before a rename over it), and leaves no temporary behind. For worker
threads.
"""

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vfs.attributes import Fingerprint
from vfs.statx import Stat, stat_at

TEMPORARY_PREFIX = b".grantfs-tmp-"
_RENAME_NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
]  # fmt: skip


class MovedError(Exception):
    """The source is not what it was when the change was checked: a conflict."""


def rename_noreplace(folder: int, name: bytes, new_folder: int, new_name: bytes) -> None:
    """Rename, unless the new name exists. Raises FileExistsError, OSError."""
    if _renameat2(folder, name, new_folder, new_name, _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def check_version(folder: int, name: bytes, expected: Stat | Fingerprint | None) -> None:
    """Raise MovedError unless *name* is the version that was checked (None: not there)."""
    try:
        now = stat_at(folder, name, fresh=True)
    except FileNotFoundError:
        if expected is None:
            return
        raise MovedError("the source's file is gone") from None
    if expected is None:
        raise MovedError("the source has something there now")
    if (now.dev, now.ino, now.size, now.mtime_ns, now.ctime_ns) != (
        expected.dev, expected.ino, expected.size, expected.mtime_ns, expected.ctime_ns,
    ):  # fmt: skip
        raise MovedError("the source changed")


def copy_metadata(original: int, copy: int) -> None:
    """Give a new file the owner, permission bits, ACL and xattrs of the one that it replaces, as
    far as we may. An owner that cannot be kept takes set-id bits with it."""
    status = os.fstat(original)
    own = os.fstat(copy)
    mode = stat.S_IMODE(status.st_mode)
    if (status.st_uid, status.st_gid) != (own.st_uid, own.st_gid):
        try:
            os.fchown(copy, status.st_uid, status.st_gid)
        except PermissionError:
            mode &= 0o777
    for name in _xattr_names(original):
        try:
            os.setxattr(copy, name, os.getxattr(original, name))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.ENODATA):
                raise
    os.fchmod(copy, mode)


def _xattr_names(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


@contextmanager
def _sibling(folder: int) -> Iterator[tuple[bytes, int]]:
    """A new 0600 file in *folder*, removed again unless it was renamed away."""
    name = TEMPORARY_PREFIX + secrets.token_hex(8).encode()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        yield name, fd
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def write_file(
    folder: int,
    name: bytes,
    data: bytes,
    *,
    mode: int | None,
    owner: tuple[int, int] | None,
    times_ns: tuple[int, int] | None,
    xattrs: dict[bytes, bytes | None],
    expected: Stat | None,
    original: int | None,
) -> None:
    """Put *data* at *name*. `expected` and `original` are the file that it replaces: its version
    and a descriptor of it, None for a new name. `mode` None keeps the original's. Durable but for
    the folder, which `sync_folder` makes so. Raises MovedError, OSError."""
    with _sibling(folder) as (temporary, fd):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if original is not None:
            copy_metadata(original, fd)
        if owner is not None:
            # Who may not give files away keeps them.
            with suppress(PermissionError):
                os.fchown(fd, *owner)
        if mode is not None:
            os.fchmod(fd, mode & 0o7777)
        for key, value in xattrs.items():
            if value is not None:
                os.setxattr(fd, key, value)
        if times_ns is not None:
            os.utime(fd, ns=times_ns)
        os.fsync(fd)
        _move_in(folder, temporary, name, expected)


def write_symlink(folder: int, name: bytes, target: bytes, expected: Stat | None) -> None:
    """Put a symlink at *name*. Raises MovedError, OSError."""
    temporary = TEMPORARY_PREFIX + secrets.token_hex(8).encode()
    os.symlink(target, temporary, dir_fd=folder)
    try:
        _move_in(folder, temporary, name, expected)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _move_in(folder: int, temporary: bytes, name: bytes, expected: Stat | None) -> None:
    check_version(folder, name, expected)
    if expected is None:
        try:
            rename_noreplace(folder, temporary, folder, name)
        except FileExistsError:
            raise MovedError("the source has something there now") from None
    else:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def move(folder: int, name: bytes, new_folder: int, new_name: bytes, expected: Stat) -> None:
    """Rename a source file to a name that is free. Raises MovedError, OSError."""
    check_version(folder, name, expected)
    try:
        rename_noreplace(folder, name, new_folder, new_name)
    except FileExistsError:
        raise MovedError("the source has something there now") from None


def remove(folder: int, name: bytes, expected: Stat) -> None:
    """Remove a file, link or empty folder. Raises MovedError, OSError."""
    if stat.S_ISDIR(expected.mode):
        os.rmdir(name, dir_fd=folder)
        return
    check_version(folder, name, expected)
    os.unlink(name, dir_fd=folder)


def set_attributes(
    folder: int, name: bytes, mode: int, owner: tuple[int | None, int | None], expected: Stat
) -> None:
    """Change permission bits and owner of a file or folder. Raises MovedError, OSError."""
    pin = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if stat_at(folder, name).identity != expected.identity:
            raise MovedError("the source changed")
        path = f"/proc/self/fd/{pin}"
        uid, gid = owner
        if uid is not None or gid is not None:
            with suppress(PermissionError):
                os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
        os.chmod(path, mode & 0o7777)
    finally:
        os.close(pin)


def make_folder(folder: int, name: bytes, mode: int) -> None:
    """Make a folder unless one is there. Raises MovedError if something else is."""
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(stat_at(folder, name).mode):
            raise MovedError("the source has a file where a folder is to be") from None
        return
    pin = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        os.fchmod(pin, mode & 0o7777)
    finally:
        os.close(pin)


def sync_folder(folder: int) -> None:
    """Make a folder's names durable; O_PATH descriptors are opened anew for it."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
