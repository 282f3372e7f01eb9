"""An agent without a mount: POSIX-like calls by path on a `Filesystem`, as the kernel makes them.

`Agent` stands for the kernel's share of each call: it walks paths a component at a time, keeps
names it was told of (a dentry cache), counts look-ups and forgets, and makes the checks that the
kernel makes before a file system hears of a call. Symlinks are not followed.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vfs.attributes import Attributes, Caller, SetAttributes
from vfs.blocking import finish
from vfs.filesystem import Filesystem
from vfs.virtual import ROOT_INO

T = TypeVar("T")
Path = str | bytes

NOREPLACE = 1
EXCHANGE = 2


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass(eq=False)
class File:
    """An open file of the agent's."""

    fh: int
    ino: int
    writable: bool
    append: bool


class Agent:
    """One process at work in the mount, and the kernel beneath it."""

    def __init__(self, fs: Filesystem, caller: Caller | None = None) -> None:
        self.fs = fs
        self.caller = caller or Caller(os.getuid(), os.getgid(), os.getpid())
        self.dentries: dict[tuple[int, bytes], int] = {}
        self.counts: Counter[int] = Counter()
        self.kinds: dict[int, int] = {}
        self.files: list[File] = []

    # -- the kernel's share ----------------------------------------------------------------

    def _told(self, parent: int, name: bytes, attributes: Attributes) -> int:
        self.dentries[parent, name] = attributes.ino
        self.counts[attributes.ino] += 1
        self.kinds[attributes.ino] = attributes.kind
        return attributes.ino

    def _step(self, parent: int, name: bytes) -> int:
        known = self.dentries.get((parent, name))
        if known is not None:
            return known
        return self._told(parent, name, finish(lambda: self.fs.lookup(parent, name, self.caller)))

    def _is_folder(self, ino: int) -> bool:
        return ino == ROOT_INO or self.kinds[ino] == stat.S_IFDIR

    def ino(self, path: Path) -> int:
        """The number at a path, walked to component by component."""
        at = ROOT_INO
        for name in os.fsencode(path).split(b"/"):
            if not name:
                continue
            if not self._is_folder(at):
                raise fail(errno.ENOTDIR)
            at = self._step(at, name)
        return at

    def place(self, path: Path) -> tuple[int, bytes]:
        """The folder's number and the last name of a path."""
        folder, _, name = os.fsencode(path).rpartition(b"/")
        parent = self.ino(folder)
        if not self._is_folder(parent):
            raise fail(errno.ENOTDIR)
        return parent, name

    def _at(self, parent: int, name: bytes) -> int | None:
        try:
            return self._step(parent, name)
        except FileNotFoundError:
            return None

    def _chain(self, path: Path) -> list[int]:
        """Numbers of the folders that lead to a path's last name."""
        folder = os.fsencode(path).rpartition(b"/")[0]
        parts = [part for part in folder.split(b"/") if part]
        return [self.ino(b"/".join(parts[: n + 1])) for n in range(len(parts))]

    def forget(self, keep: Callable[[int, bytes], bool] = lambda _parent, _name: False) -> None:
        """Drop cached names, leaves first, and give back what nothing holds any more."""
        while True:
            inner = {parent for parent, _name in self.dentries}
            gone = [at for at, ino in self.dentries.items() if ino not in inner and not keep(*at)]
            if not gone:
                break
            for at in gone:
                del self.dentries[at]
        self._give_back()

    def _give_back(self) -> None:
        held = set(self.dentries.values()) | {file.ino for file in self.files}
        held |= {parent for parent, _name in self.dentries}
        loose = [(ino, count) for ino, count in self.counts.items() if ino not in held]
        for ino, _count in loose:
            del self.counts[ino]
        self.fs.forget(loose)

    # -- looking ---------------------------------------------------------------------------

    def lstat(self, path: Path) -> Attributes:
        return finish(lambda: self.fs.getattr(self.ino(path)))

    def fstat(self, file: File) -> Attributes:
        return finish(lambda: self.fs.getattr(file.ino))

    def exists(self, path: Path) -> bool:
        try:
            self.ino(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def listdir(self, path: Path) -> list[bytes]:
        folder = self.ino(path)
        if not self._is_folder(folder):
            raise fail(errno.ENOTDIR)
        fh = finish(lambda: self.fs.opendir(folder, self.caller))
        try:
            found = []
            for name, attributes, _after in self.fs.readdir(fh, 0):
                self.fs.remember(attributes.ino)
                self._told(folder, name, attributes)
                found.append(name)
            return found
        finally:
            self.fs.releasedir(fh)

    def readlink(self, path: Path) -> bytes:
        return finish(lambda: self.fs.readlink(self.ino(path), self.caller))

    # -- files -----------------------------------------------------------------------------

    def open(self, path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> File:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        append = bool(flags & os.O_APPEND)
        parent, name = self.place(path)
        ino = self._at(parent, name)
        if ino is None:
            if not flags & os.O_CREAT:
                raise fail(errno.ENOENT)
            wanted = stat.S_IFREG | mode
            opened, attributes = finish(
                lambda: self.fs.create(parent, name, wanted, flags, self.caller)
            )
            file = File(opened.fh, self._told(parent, name, attributes), writable, append)
        else:
            if flags & os.O_CREAT and flags & os.O_EXCL:
                raise fail(errno.EEXIST)
            if self._is_folder(ino) and (writable or flags & os.O_CREAT):
                raise fail(errno.EISDIR)
            if self.kinds[ino] == stat.S_IFLNK:
                raise fail(errno.ELOOP)
            opened = finish(lambda: self.fs.open(ino, flags & ~os.O_CREAT, self.caller))
            file = File(opened.fh, ino, writable, append)
        self.files.append(file)
        return file

    def pread(self, file: File, size: int, offset: int) -> bytes:
        return finish(lambda: self.fs.read(file.fh, offset, size))

    def pwrite(self, file: File, data: bytes, offset: int) -> int:
        at = self.fstat(file).size if file.append else offset
        return finish(lambda: self.fs.write(file.fh, at, data))

    def ftruncate(self, file: File, size: int) -> None:
        if not file.writable:
            raise fail(errno.EINVAL)
        change = SetAttributes(size=size)
        finish(lambda: self.fs.setattr(file.ino, change, self.caller, file.fh))

    def fsync(self, file: File) -> None:
        self.fs.sync(file.fh)()

    def close(self, file: File) -> None:
        self.files.remove(file)
        self.fs.release(file.fh)
        self._give_back()

    def read(self, path: Path, size: int = 1 << 30) -> bytes:
        file = self.open(path)
        try:
            return self.pread(file, size, 0)
        finally:
            self.close(file)

    def write(self, path: Path, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
        file = self.open(path, os.O_WRONLY | flags)
        try:
            if data:
                self.pwrite(file, data, 0)
        finally:
            self.close(file)

    def append(self, path: Path, data: bytes) -> None:
        self.write(path, data, os.O_APPEND | os.O_CREAT)

    # -- attributes ------------------------------------------------------------------------

    def set(self, path: Path, change: SetAttributes) -> Attributes:
        ino = self.ino(path)
        return finish(lambda: self.fs.setattr(ino, change, self.caller))

    def truncate(self, path: Path, size: int) -> None:
        if self._is_folder(self.ino(path)):
            raise fail(errno.EISDIR)
        self.set(path, SetAttributes(size=size))

    def chmod(self, path: Path, mode: int) -> None:
        self.set(path, SetAttributes(mode=mode))

    def chown(self, path: Path, uid: int, gid: int) -> None:
        self.set(path, SetAttributes(uid=uid, gid=gid))

    def utime(self, path: Path, atime_ns: int, mtime_ns: int) -> None:
        self.set(path, SetAttributes(atime_ns=atime_ns, mtime_ns=mtime_ns))

    # -- names -----------------------------------------------------------------------------

    def _new(self, path: Path) -> tuple[int, bytes]:
        parent, name = self.place(path)
        if self._at(parent, name) is not None:
            raise fail(errno.EEXIST)
        return parent, name

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        parent, name = self._new(path)
        self._told(parent, name, finish(lambda: self.fs.mkdir(parent, name, mode, self.caller)))

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        parent, name = self._new(path)
        self._told(
            parent, name, finish(lambda: self.fs.mknod(parent, name, mode, rdev, self.caller))
        )

    def symlink(self, target: bytes, path: Path) -> None:
        parent, name = self._new(path)
        made = finish(lambda: self.fs.symlink(parent, name, target, self.caller))
        self._told(parent, name, made)

    def link(self, old: Path, new: Path) -> None:
        ino = self.ino(old)
        parent, name = self._new(new)
        if self._is_folder(ino):
            raise fail(errno.EPERM)
        self._told(parent, name, finish(lambda: self.fs.link(ino, parent, name, self.caller)))

    def unlink(self, path: Path) -> None:
        parent, name = self.place(path)
        if self._is_folder(self._step(parent, name)):
            raise fail(errno.EISDIR)
        finish(lambda: self.fs.unlink(parent, name, self.caller))
        del self.dentries[parent, name]
        self._give_back()

    def rmdir(self, path: Path) -> None:
        parent, name = self.place(path)
        if not self._is_folder(self._step(parent, name)):
            raise fail(errno.ENOTDIR)
        finish(lambda: self.fs.rmdir(parent, name, self.caller))
        del self.dentries[parent, name]
        self._give_back()

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        parent, name = self.place(old)
        new_parent, new_name = self.place(new)
        ino = self._step(parent, name)
        target = self._at(new_parent, new_name)
        # What do_renameat2() checks before the file system is asked.
        if flags & NOREPLACE and target is not None:
            raise fail(errno.EEXIST)
        if flags & EXCHANGE and target is None:
            raise fail(errno.ENOENT)
        if ino in self._chain(new):
            raise fail(errno.EINVAL)
        if target is not None and target in self._chain(old):
            raise fail(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY)
        if ino == target:
            return
        if target is not None and not flags & EXCHANGE:
            if self._is_folder(ino) and not self._is_folder(target):
                raise fail(errno.ENOTDIR)
            if self._is_folder(target) and not self._is_folder(ino):
                raise fail(errno.EISDIR)
        finish(lambda: self.fs.rename(parent, name, new_parent, new_name, flags, self.caller))
        self.dentries[new_parent, new_name] = ino
        if flags & EXCHANGE:
            assert target is not None
            self.dentries[parent, name] = target
        else:
            del self.dentries[parent, name]
        self._give_back()
