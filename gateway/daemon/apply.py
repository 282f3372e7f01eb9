"""Writing to a source: steps that land together or are taken back, for one worker thread.

The only code of grantfs that changes a source. It works from folder descriptors, never follows a
link, and never replaces what it did not expect: new contents are written to a temporary sibling
and exchanged with the old file, which is looked at again once it is out of the way and put back
if it is not the version that was reviewed. Until `Batch.finish` everything can be undone; no
temporary outlives the batch.
"""

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from vfs.names import TEMPORARY_PREFIX
from vfs.source import Source
from vfs.stage.bodies import copy_contents
from vfs.statx import Stat, stat_at, stat_fd

_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_NOT_OURS = (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.ENODATA)

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
]  # fmt: skip


class MovedError(Exception):
    """The source is not what it was when the change was checked: a conflict."""


GONE = "the source's file is gone"
THERE = "the source has something there now"
CHANGED = "the source changed"
FOLDER_GONE = "its folder in the source is gone or was replaced"
NOT_EMPTY = "the source's folder holds something that the agent was not shown"


def rename(folder: int, name: bytes, new_folder: int, new_name: bytes, flags: int = 0) -> None:
    """renameat2(2). Raises OSError."""
    if _renameat2(folder, name, new_folder, new_name, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_noreplace(folder: int, name: bytes, new_folder: int, new_name: bytes) -> None:
    """Rename, unless the new name exists. Raises FileExistsError, OSError."""
    try:
        rename(folder, name, new_folder, new_name, _NOREPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # A file system that cannot promise it: as near as one gets.
        if _look(new_folder, new_name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        rename(folder, name, new_folder, new_name)


def _look(folder: int, name: bytes) -> Stat | None:
    try:
        return stat_at(folder, name, fresh=True)
    except FileNotFoundError:
        return None


def _same(now: Stat, expected: Stat, *, renamed: bool = False) -> bool:
    """True for the version that was expected. A change of the link count, and `renamed`, explain
    another ctime."""
    if (now.dev, now.ino, now.mode) != (expected.dev, expected.ino, expected.mode):
        return False
    if stat.S_ISDIR(now.mode):
        return True
    if (now.size, now.mtime_ns) != (expected.size, expected.mtime_ns):
        return False
    return renamed or now.ctime_ns == expected.ctime_ns or now.nlink != expected.nlink


def check_version(
    folder: int, name: bytes, expected: Stat | None, *, renamed: bool = False
) -> None:
    """Raise MovedError unless *name* is the version that was checked (None: not there)."""
    now = _look(folder, name)
    if expected is None:
        if now is not None:
            raise MovedError(THERE)
    elif now is None:
        raise MovedError(GONE)
    elif not _same(now, expected, renamed=renamed):
        raise MovedError(CHANGED)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a new file gets. `kept` are the extended attributes, ACL included, of the file that it
    replaces or comes from; `xattrs` are set over them, None taking one away. What is None stays as
    it is made."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    times_ns: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes | None], ...] = ()
    kept: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(
        cls,
        original: int,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        times_ns: tuple[int, int] | None = None,
        xattrs: tuple[tuple[bytes, bytes | None], ...] = (),
    ) -> "Metadata":
        """Those of an open file as they are now, but for what is given. Raises OSError."""
        status = os.fstat(original)
        return cls(
            stat.S_IMODE(status.st_mode) if mode is None else mode,
            status.st_uid if uid is None else uid,
            status.st_gid if gid is None else gid,
            times_ns,
            xattrs,
            all_xattrs(original),
        )

    def give(self, fd: int) -> None:
        """Set it all on an open file or folder. Raises OSError."""
        mode, uid, gid = self.mode, self.uid, self.gid
        for name, value in self.kept:
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
        own = os.fstat(fd)
        others = uid not in (None, own.st_uid) or gid not in (None, own.st_gid)
        if others and not _give_away(fd, uid, gid):
            mode = None if mode is None else mode & 0o777
        _set_xattrs(fd, self.xattrs)
        if mode is not None:
            os.fchmod(fd, mode & 0o7777)
        if self.times_ns is not None:
            os.utime(fd, ns=self.times_ns)


def _give_away(target: int | str, uid: int | None, gid: int | None) -> bool:
    """Set owner and group as far as this process may; False if that was not all. Who may not give
    a file away keeps it, and its set-id bits would then be his."""
    owner, group = -1 if uid is None else uid, -1 if gid is None else gid
    try:
        os.chown(target, owner, group)
    except PermissionError:
        with suppress(PermissionError):
            os.chown(target, -1, group)  # a group that this user is in
        return False
    return True


def _of(pin: int) -> str:
    """A path to the object of an O_PATH descriptor, which takes none of these calls itself."""
    return f"/proc/self/fd/{pin}"


def _xattrs(path: str, names: Iterable[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
    """What a file has of these extended attributes, None where it has not got one."""
    found: list[tuple[bytes, bytes | None]] = []
    for name in names:
        try:
            found.append((name, os.getxattr(path, name)))
        except OSError:
            found.append((name, None))
    return tuple(found)


def _set_xattrs(target: int | str, xattrs: Iterable[tuple[bytes, bytes | None]]) -> None:
    for name, value in xattrs:
        if value is not None:
            os.setxattr(target, name, value)
        else:
            with suppress(OSError):
                os.removexattr(target, name)


def all_xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    """What an open file has of extended attributes that this process may see. Raises OSError."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return ()
        raise
    found = []
    for name in names:
        try:
            found.append((name, os.getxattr(fd, name)))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Temporary:
    """A thing under a temporary name in the source folder at `folder`."""

    folder: bytes
    name: bytes


class Batch:
    """Steps on one source, whole or not at all. Paths are within the source, which is the
    thread's own (`Source.for_commit`). `shared` are objects that several steps meet under different
    names: one step changes the ctime that the next one sees. Methods raise MovedError and
    OSError; then call `undo`."""

    def __init__(self, source: Source, shared: frozenset[tuple[int, int]] = frozenset()) -> None:
        self._source = source
        self._shared = shared
        self._undo: list[Callable[[], None]] = []
        self._leftovers: list[Temporary] = []
        self._touched: set[bytes] = set()
        self._removed: list[int] = []

    def _folder(self, path: bytes) -> int:
        """A descriptor of a folder, for the caller to close."""
        try:
            return self._source.borrow_folder(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise MovedError(FOLDER_GONE) from None
            raise

    def _place(self, path: bytes) -> tuple[int, bytes]:
        try:
            folder, name = self._source.place(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise MovedError(FOLDER_GONE) from None
            raise
        self._touched.add(path.rpartition(b"/")[0])
        return folder, name

    def _check(self, folder: int, name: bytes, expected: Stat | None) -> None:
        shared = expected is not None and expected.identity in self._shared
        check_version(folder, name, expected, renamed=shared)

    def _new_name(self, folder: bytes) -> Temporary:
        return Temporary(folder, TEMPORARY_PREFIX + secrets.token_hex(8).encode())

    def _at(self, temporary: Temporary) -> int:
        return self._folder(temporary.folder)

    # -- making what is to be put in place -------------------------------------------------

    def make_file(self, home: bytes, fill: Callable[[int], None], metadata: Metadata) -> Temporary:
        """A new file in folder *home*, 0600 until it is complete and durable."""
        made = self._new_name(home)
        folder = self._at(made)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(made.name, flags, 0o600, dir_fd=folder)
            self._undo.append(lambda: self._remove(made))
            try:
                fill(fd)
                metadata.give(fd)
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            os.close(folder)
        return made

    def make_symlink(self, home: bytes, target: bytes, metadata: Metadata) -> Temporary:
        """A new symlink in folder *home*."""
        made = self._new_name(home)
        folder = self._at(made)
        try:
            os.symlink(target, made.name, dir_fd=folder)
            self._undo.append(lambda: self._remove(made))
            pin = os.open(made.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                self._give(pin, metadata)
            finally:
                os.close(pin)
        finally:
            os.close(folder)
        return made

    def make_link(self, home: bytes, other: bytes) -> Temporary:
        """Another name, in folder *home*, of the file that is at *other* now."""
        made = self._new_name(home)
        folder = self._at(made)
        try:
            of, name = self._place(other)
            try:
                os.link(name, made.name, src_dir_fd=of, dst_dir_fd=folder, follow_symlinks=False)
                self._undo.append(lambda: self._remove(made))
            finally:
                os.close(of)
        finally:
            os.close(folder)
        return made

    def _remove(self, temporary: Temporary) -> None:
        folder = self._at(temporary)
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary.name, dir_fd=folder)
        finally:
            os.close(folder)

    # -- names -----------------------------------------------------------------------------

    def take(self, path: bytes, home: bytes, expected: Stat) -> Temporary:
        """Take a file or link out of its place, to a temporary name in folder *home*."""
        taken = self._new_name(home)
        folder, name = self._place(path)
        try:
            to = self._at(taken)
            try:
                self._check(folder, name, expected)
                rename_noreplace(folder, name, to, taken.name)
                self._undo.append(lambda: self._put_back(taken, path))
                now = _look(to, taken.name)
                if now is None or not _same(now, expected, renamed=True):
                    raise MovedError(CHANGED)
            finally:
                os.close(to)
        finally:
            os.close(folder)
        return taken

    def _put_back(self, temporary: Temporary, path: bytes) -> None:
        folder, name = self._place(path)
        try:
            at = self._at(temporary)
            try:
                rename_noreplace(at, temporary.name, folder, name)
            finally:
                os.close(at)
        finally:
            os.close(folder)

    def forget(self, temporary: Temporary) -> None:
        """Remove what was taken away, once the batch is finished."""
        self._leftovers.append(temporary)

    def put(self, temporary: Temporary, path: bytes, expected: Stat | None) -> None:
        """Put a temporary at its place, over the version *expected* or where nothing is."""
        folder, name = self._place(path)
        try:
            at = self._at(temporary)
            try:
                self._check(folder, name, expected)
                if expected is None:
                    self._put_new(at, temporary, folder, name, path)
                else:
                    self._put_over(at, temporary, folder, name, path, expected)
            finally:
                os.close(at)
        finally:
            os.close(folder)

    def _put_new(
        self, at: int, temporary: Temporary, folder: int, name: bytes, path: bytes
    ) -> None:
        try:
            rename_noreplace(at, temporary.name, folder, name)
        except FileExistsError:
            raise MovedError(THERE) from None
        self._undo.append(lambda: self._take_back(path, temporary))

    def _take_back(self, path: bytes, temporary: Temporary) -> None:
        folder, name = self._place(path)
        try:
            at = self._at(temporary)
            try:
                rename_noreplace(folder, name, at, temporary.name)
            finally:
                os.close(at)
        finally:
            os.close(folder)

    def _put_over(
        self, at: int, temporary: Temporary, folder: int, name: bytes, path: bytes, expected: Stat
    ) -> None:
        try:
            rename(at, temporary.name, folder, name, _EXCHANGE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._put_over_backed(at, temporary, folder, name, path)
            return
        self._undo.append(lambda: self._exchange(temporary, path))
        displaced = _look(at, temporary.name)
        if displaced is None or not _same(displaced, expected, renamed=True):
            raise MovedError(CHANGED)
        self._leftovers.append(temporary)

    def _put_over_backed(
        self, at: int, temporary: Temporary, folder: int, name: bytes, path: bytes
    ) -> None:
        """As an exchange, where the file system has none: the old file keeps a second name."""
        backup = self._new_name(temporary.folder)
        os.link(name, backup.name, src_dir_fd=folder, dst_dir_fd=at, follow_symlinks=False)
        self._undo.append(lambda: self._remove(backup))
        rename(at, temporary.name, folder, name)
        self._undo.append(lambda: self._restore(backup, path))
        self._leftovers.append(backup)

    def _restore(self, backup: Temporary, path: bytes) -> None:
        folder, name = self._place(path)
        try:
            at = self._at(backup)
            try:
                rename(at, backup.name, folder, name)
            finally:
                os.close(at)
        finally:
            os.close(folder)

    def _exchange(self, temporary: Temporary, path: bytes) -> None:
        folder, name = self._place(path)
        try:
            at = self._at(temporary)
            try:
                rename(at, temporary.name, folder, name, _EXCHANGE)
            finally:
                os.close(at)
        finally:
            os.close(folder)

    def move(self, path: bytes, new_path: bytes, expected: Stat) -> None:
        """Rename a file or link to a place where nothing is."""
        folder, name = self._place(path)
        try:
            new_folder, new_name = self._place(new_path)
            try:
                self._check(folder, name, expected)
                try:
                    rename_noreplace(folder, name, new_folder, new_name)
                except FileExistsError:
                    raise MovedError(THERE) from None
                self._undo.append(lambda: self._move_back(new_path, path))
                now = _look(new_folder, new_name)
                if now is None or not _same(now, expected, renamed=True):
                    raise MovedError(CHANGED)
            finally:
                os.close(new_folder)
        finally:
            os.close(folder)

    def _move_back(self, path: bytes, old_path: bytes) -> None:
        folder, name = self._place(path)
        try:
            old_folder, old_name = self._place(old_path)
            try:
                rename_noreplace(folder, name, old_folder, old_name)
            finally:
                os.close(old_folder)
        finally:
            os.close(folder)

    # -- folders ---------------------------------------------------------------------------

    def make_folder(self, path: bytes, metadata: Metadata) -> None:
        """Make a folder unless one is there."""
        parent, name = self._place(path)
        try:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(stat_at(parent, name).mode):
                    raise MovedError("the source has a file where a folder is to be") from None
                return
            self._undo.append(lambda: self._remove_folder(path))
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=parent)
            try:
                metadata.give(fd)
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            os.close(parent)

    def _remove_folder(self, path: bytes) -> None:
        parent, name = self._place(path)
        try:
            os.rmdir(name, dir_fd=parent)
        finally:
            os.close(parent)

    def remove_folder(self, path: bytes) -> None:
        """Remove an empty folder. Raises MovedError where something is in it."""
        parent, name = self._place(path)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(name, flags, dir_fd=parent)
            except FileNotFoundError:
                raise MovedError(GONE) from None
            except NotADirectoryError:
                raise MovedError(CHANGED) from None
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                os.close(fd)
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise MovedError(NOT_EMPTY) from None
                raise
            # The removed folder stays open: what it was given can be given again.
            self._undo.append(lambda: self._make_again(path, fd))
            self._removed.append(fd)
        finally:
            os.close(parent)

    def _make_again(self, path: bytes, removed: int) -> None:
        parent, name = self._place(path)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                Metadata.of(removed).give(fd)
            finally:
                os.close(fd)
        finally:
            os.close(parent)

    def set_attributes(self, path: bytes, metadata: Metadata, expected: Stat) -> None:
        """Change permission bits, owner and extended attributes of a file or folder."""
        pin = self._pin(path)
        try:
            now = stat_fd(pin, fresh=True)
            if now.kind != expected.kind or (now.mode, now.uid, now.gid) != (
                expected.mode, expected.uid, expected.gid,
            ):  # fmt: skip
                raise MovedError(CHANGED)
            names = [name for name, _value in metadata.xattrs]
            before = Metadata(
                stat.S_IMODE(now.mode), now.uid, now.gid, xattrs=_xattrs(_of(pin), names)
            )
            self._undo.append(lambda: self._give_again(path, before))
            self._give(pin, metadata)
        finally:
            os.close(pin)

    def _pin(self, path: bytes) -> int:
        if not path:
            return self._folder(b"")
        folder, name = self._place(path)
        try:
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            raise MovedError(GONE) from None
        finally:
            os.close(folder)

    def _give_again(self, path: bytes, metadata: Metadata) -> None:
        pin = self._pin(path)
        try:
            self._give(pin, metadata)
        finally:
            os.close(pin)

    @staticmethod
    def _give(pin: int, metadata: Metadata) -> None:
        path, mode, uid, gid = _of(pin), metadata.mode, metadata.uid, metadata.gid
        if (uid is not None or gid is not None) and not _give_away(path, uid, gid):
            mode = None if mode is None else mode & 0o777
        _set_xattrs(path, metadata.xattrs)
        if mode is not None:
            os.chmod(path, mode & 0o7777)
        if metadata.times_ns is not None:
            os.utime(path, ns=metadata.times_ns)

    # -- the end ---------------------------------------------------------------------------

    def sync(self) -> None:
        """Make the names durable. Raises OSError; then it can all still be undone."""
        for path in self._touched:
            try:
                folder = self._folder(path)
            except MovedError:
                continue  # a folder that the batch itself removed
            try:
                # O_PATH descriptors, which these are, cannot be synced.
                fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            finally:
                os.close(folder)

    def finish(self) -> None:
        """It stands: remove what was displaced."""
        for temporary in self._leftovers:
            with suppress(OSError, MovedError):
                self._remove(temporary)
        self._leftovers.clear()
        self._undo.clear()
        self._close()

    def undo(self) -> None:
        """Put everything back as it was, last step first.

        Raises OSError if the source did not let something be put back; the rest was."""
        failed: OSError | None = None
        for step in reversed(self._undo):
            try:
                step()
            except OSError as error:
                failed = failed or error
            except MovedError as error:
                failed = failed or OSError(errno.EBUSY, str(error))
        self._undo.clear()
        self._leftovers.clear()
        self._close()
        if failed is not None:
            raise failed

    def _close(self) -> None:
        for fd in self._removed:
            os.close(fd)
        self._removed.clear()


_BLOCK = 4096


def fill_with(data: bytes, *, sparse: bool = False) -> Callable[[int], None]:
    """What writes *data* to a new file's descriptor, with holes for blocks of zeros if *sparse*."""

    def write(fd: int, view: memoryview) -> None:
        while view:
            view = view[os.write(fd, view) :]

    def fill(fd: int) -> None:
        view = memoryview(data)
        if not sparse:
            write(fd, view)
            return
        zeros = bytes(_BLOCK)
        for start in range(0, len(view), _BLOCK):
            part = view[start : start + _BLOCK]
            if part != zeros[: len(part)]:
                os.lseek(fd, start, os.SEEK_SET)
                write(fd, part)
        os.truncate(fd, len(view))

    return fill


def fill_from(original: int, version: Stat) -> Callable[[int], None]:
    """What copies an open source file to a new file's descriptor. Raises MovedError if it changed
    meanwhile."""

    def fill(fd: int) -> None:
        copy_contents(original, fd)
        if not _same(stat_fd(original, fresh=True), version):
            raise MovedError(CHANGED)

    return fill
