"""The pyfuse3 adapter: translates requests to `Filesystem` and its errors to errno.

It holds no decisions. Every handler goes through `_run`, which also lets blocking jobs run in
worker threads; an exception that is no OSError is logged and answered with EIO, since pyfuse3
would end the mount on it. Only this module imports pyfuse3, and a process serves one mount.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from vfs.attributes import Attributes, Caller, SetAttributes
from vfs.blocking import Blocked
from vfs.filesystem import CACHE_SECONDS, Filesystem

log = logging.getLogger(__name__)

LIBRARY = f"pyfuse3 {pyfuse3.__version__}"
"""What serves the mount, for people."""

T = TypeVar("T")

_DOTS = (b".", b"..")

_WORKERS = 8
"""Threads for scans and copies of large files, so that a few cannot starve the rest."""


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _entry(attributes: Attributes) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = attributes.ino
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.nlink
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = attributes.size
    entry.st_blocks = attributes.blocks
    entry.st_blksize = 4096
    entry.st_atime_ns = attributes.atime_ns
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    entry.entry_timeout = CACHE_SECONDS
    entry.attr_timeout = CACHE_SECONDS
    return entry


def _folder(ino: int) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino, entry.st_mode = InodeT(ino), ModeT(stat.S_IFDIR)
    return entry


def _failure(error: OSError) -> FUSEError:
    return FUSEError(error.errno or errno.EIO)


class FuseAdapter(pyfuse3.Operations):
    """Serves one `Filesystem` to the kernel."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: Filesystem) -> None:
        super().__init__()
        self._fs = filesystem
        self._limiter = trio.CapacityLimiter(_WORKERS)

    async def _job(self, job: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(job, limiter=self._limiter)
        except OSError as error:
            raise _failure(error) from error
        except Exception as error:
            log.exception("a job failed")
            raise FUSEError(errno.EIO) from error

    async def _run(self, operation: Callable[..., T], *args: Any) -> T:
        while True:
            try:
                return operation(*args)
            except Blocked as blocked:
                job = blocked.job
            except OSError as error:
                raise _failure(error) from error
            except FUSEError:
                raise
            except Exception as error:
                log.exception("%s failed", getattr(operation, "__name__", operation))
                raise FUSEError(errno.EIO) from error
            await self._job(job)

    # -- names -----------------------------------------------------------------------------

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(await self._run(self._fs.lookup, parent_inode, name, _caller(ctx)))

    def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:  # type: ignore[override]
        # pyfuse3 calls this one directly: an exception here would end the mount as well.
        try:
            self._fs.forget(inode_list)
        except Exception:
            log.exception("forget failed")

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        opened, attributes = await self._run(
            self._fs.create, parent_inode, name, mode, flags, _caller(ctx)
        )
        info = FileInfo(fh=opened.fh, keep_cache=opened.keep_cache)
        return info, _entry(attributes)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(await self._run(self._fs.mkdir, parent_inode, name, mode, _caller(ctx)))

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(await self._run(self._fs.mknod, parent_inode, name, mode, rdev, _caller(ctx)))

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(await self._run(self._fs.symlink, parent_inode, name, target, _caller(ctx)))

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return await self._run(self._fs.readlink, inode, _caller(ctx))

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(
            await self._run(self._fs.link, inode, new_parent_inode, new_name, _caller(ctx))
        )

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._run(self._fs.unlink, parent_inode, name, _caller(ctx))

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._run(self._fs.rmdir, parent_inode, name, _caller(ctx))

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self._run(
            self._fs.rename, parent_inode_old, name_old, parent_inode_new, name_new, flags,
            _caller(ctx),
        )  # fmt: skip

    # -- attributes ------------------------------------------------------------------------

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return _entry(await self._run(self._fs.getattr, inode))

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        change = SetAttributes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return _entry(await self._run(self._fs.setattr, inode, change, _caller(ctx), fh))

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return await self._run(self._fs.getxattr, inode, name)

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return await self._run(self._fs.listxattr, inode)

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        await self._run(self._fs.setxattr, inode, name, value, _caller(ctx))

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._run(self._fs.removexattr, inode, name, _caller(ctx))

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        space = await self._run(self._fs.statfs)
        data = StatvfsData()
        data.f_bsize = space.f_bsize
        data.f_frsize = space.f_frsize
        data.f_blocks = space.f_blocks
        data.f_bfree = space.f_bfree
        data.f_bavail = space.f_bavail
        data.f_files = space.f_files
        data.f_ffree = space.f_ffree
        data.f_favail = space.f_favail
        data.f_namemax = 255
        return data

    # -- files -----------------------------------------------------------------------------

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        opened = await self._run(self._fs.open, inode, flags, _caller(ctx))
        return FileInfo(
            fh=opened.fh,
            keep_cache=opened.keep_cache,
            direct_io=opened.direct_io,
        )

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self._run(self._fs.read, fh, off, size)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._run(self._fs.write, fh, off, buf)

    async def release(self, fh: FileHandleT) -> None:
        await self._run(self._fs.release, fh)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._job(await self._run(self._fs.sync, fh))

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return await self._run(self._fs.opendir, inode, _caller(ctx))

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        await self._run(self._fill, fh, start_id, token)

    def _fill(self, fh: int, start: int, token: ReaddirToken) -> None:
        """Entries from a place on; `.` and `..` are at 1 and 2, the core's from there on."""
        for place, (name, ino) in enumerate(zip(_DOTS, self._fs.dots(fh), strict=False), 1):
            # The kernel takes only number and type of these, and holds no look-up of them.
            if place > start and not pyfuse3.readdir_reply(token, name, _folder(ino), place):
                return
        for name, attributes, after in self._fs.readdir(fh, max(start - len(_DOTS), 0)):
            if not pyfuse3.readdir_reply(token, name, _entry(attributes), after + len(_DOTS)):
                return
            self._fs.remember(attributes.ino)

    async def releasedir(self, fh: FileHandleT) -> None:
        await self._run(self._fs.releasedir, fh)

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._job(await self._run(self._fs.sync_folder, fh))


class FuseMount:
    """The mount of one workspace. `open` mounts, `serve` answers until `stop`, `close` unmounts.

    The `invalidate_` calls may wait for a request that is being served: call them from a thread
    that is not the loop's, with no lock held.
    """

    def __init__(self, filesystem: Filesystem, mountpoint: str, *, allow_other: bool) -> None:
        self._adapter = FuseAdapter(filesystem)
        self._mountpoint = mountpoint
        self._allow_other = allow_other

    def open(self) -> None:
        """Mount. Raises RuntimeError where the kernel or fusermount3 refuses."""
        options = {"default_permissions", "fsname=grantfs", "subtype=grantfs"}
        if os.getuid() == 0:
            options |= {"nosuid", "nodev"}
        if self._allow_other:
            options.add("allow_other")
        pyfuse3.init(self._adapter, self._mountpoint, options)

    async def serve(self) -> None:
        """Answer the kernel until unmounted or stopped."""
        await pyfuse3.main()

    def stop(self) -> None:
        """Let `serve` return; to be called on the loop."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Unmount, in whatever state."""
        pyfuse3.close(unmount=True)

    def invalidate_inode(self, ino: int) -> None:
        """Drop the kernel's attributes and pages of a node; maps of it fault afterwards."""
        try:
            pyfuse3.invalidate_inode(ino)
        except FileNotFoundError:
            return  # the kernel holds nothing of it

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Make the kernel look a name up anew."""
        try:
            pyfuse3.invalidate_entry(parent, name)
        except FileNotFoundError:
            return
