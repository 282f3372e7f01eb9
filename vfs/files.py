"""Open files: handles, reading from source or stage, writing into the stage.

A handle resolves what it reads at each read, so that a descriptor opened before a write sees the
write, whoever made it. Bodies and masked contents are shared by all handles of a node.
"""

import errno
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from vfs.admission import KERNEL, ROOT_USER, Admission
from vfs.attributes import Caller
from vfs.content import Redactor, SourceContent
from vfs.copyup import CopyUp
from vfs.gate import Access, Gate
from vfs.nodes import Node
from vfs.union import Union, os_error

_NOT_OPENED = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}

_ANOTHER_OBJECT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)
"""How opening a source file fails where it is gone, or something else is in its place."""

log = logging.getLogger(__name__)

_IDLE_KEPT = 256
"""Contents of closed files kept open for the next open of the same version."""


@dataclass(slots=True, eq=False)
class Handle:
    """One open of a node; `epoch` is its projection's at that time."""

    node: Node
    caller: Caller
    readable: bool
    writable: bool
    epoch: int
    wrote: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """What an adapter tells the kernel: the handle, and whether its cached pages still hold."""

    fh: int
    keep_cache: bool
    direct_io: bool = False


class Files:
    """Handles of regular files of one workspace."""

    def __init__(
        self,
        union: Union,
        admission: Admission,
        gate: Gate,
        redactor: Redactor,
        copyup: CopyUp,
    ) -> None:
        self._union = union
        self._admission = admission
        self._gate = gate
        self._redactor = redactor
        self._copyup = copyup
        self._handles: dict[int, Handle] = {}
        self._next = 1
        self._bodies: dict[int, tuple[int, int]] = {}
        self._idle: OrderedDict[Node, None] = OrderedDict()

    @property
    def open_handles(self) -> int:
        """How many handles are open."""
        return len(self._handles)

    def close(self) -> None:
        """Close every descriptor, at the end of the workspace's service."""
        for _body, fd in self._bodies.values():
            os.close(fd)
        self._bodies.clear()
        for node in self._union.nodes.by_ino.values():
            self.drop_content(node)

    # -- content of a node -----------------------------------------------------------------

    def content(self, node: Node) -> SourceContent:
        """The source's present version of a node's content. Raises OSError as open does."""
        came_from = node.origin if node.origin is not None else node.place
        host_path = node.projection.source.host_path(came_from)
        profile = self._gate.profile(node.projection.id, host_path)
        key = f"{profile}:{self._redactor.version}"
        held = node.content
        if held is not None and held.fresh(key):
            return held
        if node.unlinked and held is not None:
            # No name leads to it any more, but the rules or the bytes have changed.
            fd = os.dup(held.fd)
            status = node.projection.source.stat_open(fd)
            self.drop_content(node)
            node.content = SourceContent(fd, status, self._redactor, profile, key)
            return node.content
        if node.unlinked or node.origin is None:
            raise os_error(errno.ESTALE)
        try:
            fd, status = node.projection.source.open_file(node.origin)
        except OSError as error:
            if error.errno in _ANOTHER_OBJECT:
                raise os_error(errno.ESTALE) from None
            raise
        if status.identity != node.identity and self._union.staged(node) is None:
            # Another object stands at the name now: the kernel looks the name up again.
            os.close(fd)
            raise os_error(errno.ESTALE)
        before = held.shown if held is not None else node.shown
        self.drop_content(node)
        node.content = SourceContent(fd, status, self._redactor, profile, key)
        node.content.recall(before)
        return node.content

    def _admitted(self, node: Node, caller: Caller) -> SourceContent:
        """As `content`, for what the agent gets to see of it. Raises Blocked while a container is
        looked into, OSError(EACCES) where policy refuses what it holds."""
        content = self.content(node)
        labels = content.labels()
        if labels:
            self._admission.contents(node, labels, caller)
        return content

    def holds_finding(self, node: Node, text: bytes) -> bool:
        """True if a short text of the node's source would be masked. Raises OSError(EIO) where
        that cannot be told."""
        host_path = node.projection.source.host_path(node.origin or node.place)
        profile = self._gate.profile(node.projection.id, host_path)
        try:
            return self._redactor.holds_finding(text, profile)
        except OSError:
            raise
        except Exception as error:
            log.error("scan failed, link refused: %s", error)
            raise os_error(errno.EIO) from error

    def _close_idle(self, node: Node) -> None:
        """As `drop_content`, but the kernel keeps its pages, which hold until the file changes."""
        shown = node.content.shown if node.content is not None else None
        self.drop_content(node)
        node.shown = shown

    def drop_content(self, node: Node) -> None:
        """Let go of a node's source descriptor and masked bytes."""
        self._idle.pop(node, None)
        self._copyup.discard(node)
        node.shown = None
        if node.content is not None:
            node.content.close()
            node.content = None

    def _body(self, node: Node, body: int) -> int:
        """The node's one read-write descriptor of its body."""
        known = self._bodies.get(node.ino)
        if known is not None:
            if known[0] == body:
                return known[1]
            os.close(known[1])
        fd = self._union.tree.bodies.open(body, write=True)
        self._bodies[node.ino] = (body, fd)
        return fd

    def forget_body(self, node: Node) -> None:
        """Close the descriptor of a body that the node has no more."""
        known = self._bodies.pop(node.ino, None)
        if known is not None:
            os.close(known[1])

    def stage_content(self, node: Node, *, truncate: bool, caller: Caller = KERNEL) -> int:
        """Make sure that the node has a body; returns its descriptor. Raises Blocked, OSError."""
        inode = self._union.staged(node)
        if inode is not None and inode.body is not None:
            self._copyup.settled(node)
            return self._body(node, inode.body)
        content = self.content(node) if truncate else self._admitted(node, caller)
        self.forget_body(node)
        body, fd = self._copyup.stage_content(node, content, truncate=truncate)
        self._bodies[node.ino] = (body, fd)
        return fd

    def keep_base_content(self, node: Node) -> None:
        """Before a file is replaced: keep the base, with its content where that can be read.

        Raises Blocked while a large one is copied.
        """
        inode = self._union.staged(node)
        if (inode is not None and inode.body is not None) or node.origin != node.place:
            return
        known = self._union.tree.bases.get((node.projection.id, node.origin))
        if known is not None and known.body is not None:
            return
        try:
            content = self.content(node)
        except PermissionError:
            return  # the replaced bytes cannot be read: the fingerprint alone must do
        self._copyup.keep_base(node, content)

    # -- handles ---------------------------------------------------------------------------

    def open(self, node: Node, flags: int, caller: Caller) -> Opened:
        """Open a regular file. Raises OSError, Blocked."""
        mode = flags & os.O_ACCMODE
        writable = mode in (os.O_WRONLY, os.O_RDWR) or bool(flags & os.O_TRUNC)
        readable = mode != os.O_WRONLY
        if readable or not writable:
            self._admission.use(node, "read", caller)
        if writable:
            self._admission.use(node, "write", caller)
        if node.kind != stat.S_IFREG:
            raise os_error(_NOT_OPENED.get(node.kind, errno.ENXIO))
        keep = self._prepare(node, caller, truncate=bool(flags & os.O_TRUNC))
        if flags & os.O_TRUNC:
            self.truncate(node, 0)
            self._drop_set_id(node, caller)
            keep = False
        self._gate.report(
            "open", "ok", node.mount_path, caller, node.projection.id,
            {"access": "write" if writable else "read"},
        )  # fmt: skip
        return Opened(self.new_handle(node, caller, readable, writable), keep)

    def _prepare(self, node: Node, caller: Caller, *, truncate: bool) -> bool:
        """Open what the node is read from; True if the kernel's cached pages of it hold."""
        inode = self._union.staged(node)
        if inode is not None and inode.body is not None:
            # Its content changes through the kernel alone, or the kernel is told.
            self._body(node, inode.body)
            return True
        if not node.unlinked:
            # What is held open may have been moved out of the grant since.
            self._union.source_stat(node)
        before, shown = node.content, node.shown
        now = self.content(node) if truncate else self._admitted(node, caller)
        return now is before or now.shows(shown)

    def new_handle(self, node: Node, caller: Caller, readable: bool, writable: bool) -> int:
        """Register an open of a node."""
        fh, self._next = self._next, self._next + 1
        self._handles[fh] = Handle(node, caller, readable, writable, node.projection.epoch)
        node.opens += 1
        self._idle.pop(node, None)
        return fh

    def _handle(self, fh: int) -> Handle:
        try:
            return self._handles[fh]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """Bytes of an open file, fewer at its end. Raises OSError, Blocked."""
        handle = self._handle(fh)
        node = handle.node
        self._admission.held(node, handle.epoch, Access.READ)
        inode = self._union.staged(node)
        if inode is not None and inode.body is not None:
            return os.pread(self._body(node, inode.body), size, offset)
        return self._admitted(node, handle.caller).read(offset, size)

    def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write into the stage; returns how many bytes. Raises OSError, Blocked."""
        handle = self._handle(fh)
        node = handle.node
        self._admission.held(node, handle.epoch, Access.WRITE)
        if not handle.writable:
            raise os_error(errno.EBADF)
        fd = self.stage_content(node, truncate=False, caller=handle.caller)
        self._union.tree.quota.check_write(fd, offset, len(data))
        done = os.pwrite(fd, data, offset)
        self.mark_written(node)
        if not handle.wrote:
            handle.wrote = True
            self._report_change(node, handle.caller, "write")
        return done

    def mark_written(self, node: Node) -> None:
        """The node's staged content moved: a commit that read it must not drop it."""
        inode = self._union.staged(node)
        if inode is not None and inode.body is not None:
            inode.writes += 1
            self._union.tree.quota.note(inode.body, os.fstat(self._body(node, inode.body)))

    def truncate(self, node: Node, size: int) -> None:
        """Set a file's size in the stage. Raises OSError, Blocked."""
        fd = self.stage_content(node, truncate=size == 0)
        os.ftruncate(fd, size)
        self.mark_written(node)
        if node.opens == 0:
            self.forget_body(node)

    def _drop_set_id(self, node: Node, caller: Caller) -> None:
        """As the kernel does by itself for a write or truncate of anybody's but root's."""
        inode = self._union.staged(node)
        if inode is None or inode.mode is None or caller.uid == ROOT_USER:
            return
        drop = stat.S_ISUID
        if inode.mode & stat.S_IXGRP:  # else the bit stands for mandatory locks
            drop |= stat.S_ISGID
        if inode.mode & drop:
            with self._union.tree.transaction():
                inode.mode &= ~drop
                self._union.changed(inode)

    def _report_change(self, node: Node, caller: Caller, what: str) -> None:
        detail = {"action": what}
        self._gate.report("stage", "ok", node.mount_path, caller, node.projection.id, detail)

    def release(self, fh: int) -> Node | None:
        """Close a handle; returns its node when that was the last one."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            return None
        node = handle.node
        node.opens -= 1
        if node.opens:
            return None
        self.forget_body(node)
        if node.content is not None:
            self._idle[node] = None
            if len(self._idle) > _IDLE_KEPT:
                self._close_idle(next(iter(self._idle)))
        return node

    def change_epoch(self, node: Node) -> None:
        """The node belongs to another projection now; who has it open keeps it."""
        for handle in self._handles.values():
            if handle.node is node:
                handle.epoch = node.projection.epoch

    def held(self, fh: int, need: Access) -> None:
        """Admit the use of a handle, as `Admission.held`. Raises OSError: EBADF for a write
        through a handle that was opened for reading."""
        handle = self._handle(fh)
        self._admission.held(handle.node, handle.epoch, need)
        if need is Access.WRITE and not handle.writable:
            raise os_error(errno.EBADF)

    def sync(self, fh: int) -> Callable[[], None]:
        """The job that makes an open file and the staged tree durable, for a worker thread."""
        node = self._handle(fh).node
        inode = self._union.staged(node)
        store, bodies = self._union.tree.store, self._union.tree.bodies
        fd = os.dup(self._body(node, inode.body)) if inode and inode.body is not None else -1

        def job() -> None:
            if fd >= 0:
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
                bodies.sync()
            store.sync()

        return job
