"""Translates the path-based requests of mfusepy to `Filesystem`, and its errors to errno.

It holds no decisions. mfusepy calls the methods of `Adapter` by name, each on a thread of the
FUSE library; what touches the core stands in a function of its own that `_run` has the core's
task run, from the walk of the path to the end of the operation, so that nothing comes in between.
An exception that is no OSError is logged and answered with EIO.

Paths are text in which a byte that is not UTF-8 is a surrogate (`system.encode`). Where a handle
comes with a request it counts, and the path may be None: the file may have lost its name.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from vfs.attributes import Attributes, Caller, SetAttributes
from vfs.blocking import Blocked
from vfs.filesystem import Filesystem
from vfs.virtual import ROOT_INO
from winfsp_shim.held import Held
from winfsp_shim.system import System, decode, encode

log = logging.getLogger(__name__)

T = TypeVar("T")
Entry = tuple[str, dict[str, int], int]

_PAGE = 64
"""Folder entries looked up at a time; about what the kernel's buffer takes."""


class Runner(Protocol):
    """Runs a function on the core's task and gives its result, or raises what it raised."""

    def __call__(self, function: Callable[[], T], /) -> T: ...


def _here(function: Callable[[], T], /) -> T:
    return function()


def _failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _stat(attributes: Attributes) -> dict[str, int]:
    return {
        "st_ino": attributes.ino,
        "st_mode": attributes.mode,
        "st_nlink": attributes.nlink,
        "st_uid": attributes.uid,
        "st_gid": attributes.gid,
        "st_rdev": attributes.rdev,
        "st_size": attributes.size,
        "st_blocks": attributes.blocks,
        "st_blksize": 4096,
        "st_atime": attributes.atime_ns,
        "st_mtime": attributes.mtime_ns,
        "st_ctime": attributes.ctime_ns,
    }


class Adapter:
    """The operations of one `Filesystem`, under the names by which mfusepy calls them.

    `run` is a `Runner`; `caller` tells, on the thread of a request, who made it.
    """

    use_ns = True
    flag_nopath = True
    flag_nullpath_ok = True

    def __init__(
        self, filesystem: Filesystem, run: Runner, caller: Callable[[], Caller], system: System
    ) -> None:
        self._fs = filesystem
        self._on_core = run
        self._caller = caller
        self._system = system
        self._held = Held(filesystem)

    # -- running (on a thread of the library) ----------------------------------------------

    def _guard(self, function: Callable[[], T], run: Runner = _here) -> T:
        try:
            return run(function)
        except Blocked:
            raise
        except OSError as error:
            raise self._system.error(error) from error
        except Exception as error:
            log.exception("%s failed", getattr(function, "__qualname__", function))
            raise self._system.error(_failed(errno.EIO)) from error

    def _run(self, function: Callable[[], T]) -> T:
        """Run on the core's task, with its jobs on this thread. Raises OSError."""

        while True:
            try:
                return self._guard(function, self._on_core)
            except Blocked as blocked:
                job = blocked.job
            self._guard(job)

    # -- finding (on the core's task) ------------------------------------------------------

    def _walk(self, names: list[bytes]) -> int:
        ino = ROOT_INO
        try:
            for name in names:
                ino = self._fs.find(ino, name).ino
        finally:
            self._held.keep(ino)
        return ino

    def _node(self, path: str | None, fh: int | None = None) -> int:
        """The node of a handle, or else at a path."""
        if fh is not None:
            ino = self._held.of_handle(fh)
            if ino is None:
                raise _failed(errno.EBADF)
            return ino
        if path is None:
            raise _failed(errno.ESTALE)
        return self._walk(self._system.components(path))

    def _place(self, path: str) -> tuple[int, bytes]:
        """The folder and the name that a path stands for."""
        names = self._system.components(path)
        if not names:
            raise _failed(errno.EBUSY)
        return self._walk(names[:-1]), names[-1]

    # -- names -----------------------------------------------------------------------------

    def create(self, path: str, mode: int, flags: int) -> int:
        caller = self._caller()

        def create() -> int:
            parent, name = self._place(path)
            opened, attributes = self._fs.create(parent, name, mode, flags, caller)
            self._held.counted(attributes.ino)
            return self._held.open(opened.fh, attributes.ino)

        return self._run(create)

    def _make(self, path: str, make: Callable[[int, bytes], Attributes]) -> None:
        def made() -> None:
            self._held.counted(make(*self._place(path)).ino)

        self._run(made)

    def mkdir(self, path: str, mode: int) -> None:
        caller = self._caller()
        self._make(path, lambda parent, name: self._fs.mkdir(parent, name, mode, caller))

    def mknod(self, path: str, mode: int, dev: int) -> None:
        caller = self._caller()
        self._make(path, lambda parent, name: self._fs.mknod(parent, name, mode, dev, caller))

    def symlink(self, path: str, target: str) -> None:
        caller, to = self._caller(), encode(target)
        self._make(path, lambda parent, name: self._fs.symlink(parent, name, to, caller))

    def link(self, path: str, existing: str) -> None:
        caller = self._caller()

        def link(parent: int, name: bytes) -> Attributes:
            return self._fs.link(self._node(existing), parent, name, caller)

        self._make(path, link)

    def readlink(self, path: str) -> str:
        caller = self._caller()
        return decode(self._run(lambda: self._fs.readlink(self._node(path), caller)))

    def unlink(self, path: str) -> None:
        caller = self._caller()
        self._run(lambda: self._fs.unlink(*self._place(path), caller))

    def rmdir(self, path: str) -> None:
        caller = self._caller()
        self._run(lambda: self._fs.rmdir(*self._place(path), caller))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        caller = self._caller()
        self._run(lambda: self._fs.rename(*self._place(old), *self._place(new), flags, caller))

    # -- attributes ------------------------------------------------------------------------

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, int]:
        return _stat(self._run(lambda: self._fs.getattr(self._node(path, fh))))

    def _set(self, path: str | None, fh: int | None, change: SetAttributes) -> None:
        caller = self._caller()

        def change_attributes() -> None:
            self._fs.setattr(self._node(path, fh), change, caller, fh)

        self._run(change_attributes)

    def chmod(self, path: str | None, mode: int, fh: int | None = None) -> None:
        self._set(path, fh, SetAttributes(mode=stat.S_IMODE(mode)))

    def chown(self, path: str | None, uid: int, gid: int, fh: int | None = None) -> None:
        change = SetAttributes(uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)
        self._set(path, fh, change)

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> None:
        self._set(path, fh, SetAttributes(size=length))

    def utimens(
        self,
        path: str | None,
        times: tuple[int | None, int | None] | None = None,
        fh: int | None = None,
    ) -> None:
        """Set access and modification time in nanoseconds: None is now, None of a pair as it is."""
        if times is None:
            times = (time.time_ns(),) * 2
        self._set(path, fh, SetAttributes(atime_ns=times[0], mtime_ns=times[1]))

    def getxattr(self, path: str, name: str) -> bytes:
        return self._run(lambda: self._fs.getxattr(self._node(path), encode(name)))

    def listxattr(self, path: str) -> list[str]:
        return [decode(each) for each in self._run(lambda: self._fs.listxattr(self._node(path)))]

    def setxattr(self, path: str, name: str, value: bytes, options: int) -> None:
        caller = self._caller()
        self._run(lambda: self._fs.setxattr(self._node(path), encode(name), value, caller))

    def removexattr(self, path: str, name: str) -> None:
        caller = self._caller()
        self._run(lambda: self._fs.removexattr(self._node(path), encode(name), caller))

    def statfs(self, path: str) -> dict[str, int]:
        space = self._run(self._fs.statfs)
        return {
            "f_bsize": space.f_bsize,
            "f_frsize": space.f_frsize,
            "f_blocks": space.f_blocks,
            "f_bfree": space.f_bfree,
            "f_bavail": space.f_bavail,
            "f_files": space.f_files,
            "f_ffree": space.f_ffree,
            "f_favail": space.f_favail,
            "f_namemax": 255,
        }

    # -- open files and folders ------------------------------------------------------------

    def _open(self, path: str, open_node: Callable[[int], int]) -> int:
        def opened() -> int:
            ino = self._node(path)
            return self._held.open(open_node(ino), ino)

        return self._run(opened)

    def _close(self, fh: int, close: Callable[[int], None]) -> None:
        def closed() -> None:
            self._held.close(fh)
            close(fh)

        self._run(closed)

    def open(self, path: str, flags: int) -> int:
        caller = self._caller()
        return self._open(path, lambda ino: self._fs.open(ino, flags, caller).fh)

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        return self._run(lambda: self._fs.read(fh, offset, size))

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        return self._run(lambda: self._fs.write(fh, offset, data))

    def fsync(self, path: str | None, datasync: int, fh: int) -> None:
        self._guard(self._run(lambda: self._fs.sync(fh)))

    def release(self, path: str | None, fh: int) -> None:
        self._close(fh, self._fs.release)

    def opendir(self, path: str) -> int:
        caller = self._caller()
        return self._open(path, lambda ino: self._fs.opendir(ino, caller))

    def readdir_with_offset(self, path: str | None, offset: int, fh: int) -> Iterator[Entry]:
        while page := self._run(partial(self._page, fh, offset)):
            for name, attributes, after in page:
                offset = after
                if name in (".", "..") or self._system.problem(name) is None:
                    yield name, attributes, after

    def _page(self, fh: int, offset: int) -> list[Entry]:
        """Entries after an offset; `.` and `..` are at 1 and 2, the core's from there on."""
        dots = (".", "..")
        found = [
            (name, {"st_ino": at, "st_mode": stat.S_IFDIR}, place)
            for place, (name, at) in enumerate(zip(dots, self._fs.dots(fh), strict=False), 1)
            if place > offset
        ]
        entries = self._fs.readdir(fh, max(offset - len(dots), 0))
        for entry, attributes, after in islice(entries, _PAGE):
            self._held.keep(attributes.ino)
            what = {"st_ino": attributes.ino, "st_mode": attributes.mode}
            found.append((decode(entry), what, after + len(dots)))
        return found

    def releasedir(self, path: str | None, fh: int) -> None:
        self._close(fh, self._fs.releasedir)

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        self._guard(self._run(lambda: self._fs.sync_folder(fh)))
