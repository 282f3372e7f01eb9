"""Operations that change names: create, mkdir, symlink, mknod, link, unlink, rmdir, rename.

Each is one transaction of the stage: it happened or it did not, also when the daemon dies. All
were admitted before anything is touched, and the record says what changed.
"""

import errno
import os
import stat
import time

from vfs import names
from vfs.admission import ROOT_USER, Admission
from vfs.attributes import Caller
from vfs.files import Files
from vfs.gate import Gate
from vfs.nodes import Node
from vfs.stage.tree import WHITEOUT, StagedInode
from vfs.union import Union, os_error

NOREPLACE = 1
EXCHANGE = 2

_DEVICES = (stat.S_IFBLK, stat.S_IFCHR)
_SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK, *_DEVICES)


class Namespace:
    """Changes of one workspace's tree."""

    def __init__(self, union: Union, files: Files, admission: Admission, gate: Gate) -> None:
        self._union = union
        self._tree = union.tree
        self._files = files
        self._admission = admission
        self._gate = gate

    def _report(
        self, parent: Node, name: bytes, caller: Caller, op: str, came_from: bytes | None = None
    ) -> None:
        path = parent.projection.mount_path(parent.place_of(name))
        detail = {"action": op, "from": came_from}
        self._gate.report("stage", "ok", path, caller, parent.projection.id, detail)

    def _find(self, parent: Node, name: bytes) -> Node | None:
        try:
            return self._union.child(parent, name)
        except FileNotFoundError:
            return None

    def _check_free(self, parent: Node, name: bytes) -> None:
        """Refuse a new name where the source has something that this mount does not show: what
        would be made there could never be committed, and must not tell why."""
        if parent.unlinked:
            raise os_error(errno.ENOENT)
        if self._find(parent, name) is not None:
            raise os_error(errno.EEXIST)
        folder = self._union.staged(parent)
        ino = WHITEOUT if folder is None else folder.entries.get(name, WHITEOUT)
        if ino != WHITEOUT and self._union.concealed(parent, name, ino):
            raise os_error(errno.EACCES)
        if parent.origin is None or self._union.beneath(parent, name) is not None:
            return
        path = names.join(parent.origin, name)
        if self._union.telling(parent.projection, path):
            return  # as if nothing were there: a refusal would confirm a guess
        if parent.projection.source.occupied(path):
            raise os_error(errno.EACCES)

    # -- making ----------------------------------------------------------------------------

    def _new_inode(
        self, parent: Node, kind: int, mode: int, caller: Caller, ino: int | None = None
    ) -> StagedInode:
        folder = self._union.attributes(parent)
        gid = caller.gid
        mode = stat.S_IMODE(mode)
        if folder.mode & stat.S_ISGID:
            gid = folder.gid
            if kind == stat.S_IFDIR:
                mode |= stat.S_ISGID
        now = time.time_ns()
        return StagedInode(
            ino or self._tree.fresh_ino(), parent.projection.id, kind, mode=mode,
            uid=caller.uid, gid=gid, atime_ns=now, mtime_ns=now, ctime_ns=now,
            nlink=0 if kind == stat.S_IFDIR else 1,
        )  # fmt: skip

    def _make(self, parent: Node, name: bytes, inode: StagedInode) -> Node:
        with self._tree.transaction():
            self._tree.save(inode)
            self._union.add_name(parent, name, inode)
        return self._union.child(parent, name)

    def _admit_new(self, parent: Node, name: bytes, caller: Caller) -> None:
        names.check_new(name)
        self._admission.use(parent, "write", caller, name)
        self._check_free(parent, name)
        self._tree.quota.check_entry(self._tree.names)

    def create(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an empty regular file. Raises OSError, EEXIST among them."""
        self._admit_new(parent, name, caller)
        inode = self._new_inode(parent, stat.S_IFREG, mode, caller)
        inode.body, fd = self._tree.bodies.create()
        os.close(fd)
        inode.atime_ns = inode.mtime_ns = inode.ctime_ns = None
        try:
            node = self._make(parent, name, inode)
        except BaseException:
            self._tree.bodies.remove(inode.body)
            raise
        self._report(parent, name, caller, "create")
        return node

    def mkdir(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a folder."""
        self._admit_new(parent, name, caller)
        node = self._make(parent, name, self._new_inode(parent, stat.S_IFDIR, mode, caller))
        self._report(parent, name, caller, "mkdir")
        return node

    def symlink(self, parent: Node, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symlink; where its target leads is the kernel's and the review's business."""
        self._admit_new(parent, name, caller)
        if len(target) > names.PATH_MAX:
            raise os_error(errno.ENAMETOOLONG)
        inode = self._new_inode(parent, stat.S_IFLNK, 0o777, caller)
        inode.target = target
        node = self._make(parent, name, inode)
        self._report(parent, name, caller, "symlink")
        return node

    def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        """Make a file, FIFO, socket or, as root alone may, a device: a name that nobody can open,
        since the mount is `nodev`, and that no commit puts on the source. `rdev` is its number."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFREG:
            return self.create(parent, name, mode, caller)
        whiteout = kind == stat.S_IFCHR and rdev == 0  # names no device, so anybody may
        if kind not in _SPECIAL or (kind in _DEVICES and caller.uid != ROOT_USER and not whiteout):
            raise os_error(errno.EPERM)
        self._admit_new(parent, name, caller)
        inode = self._new_inode(parent, kind, mode, caller)
        if kind in _DEVICES:
            inode.rdev = rdev
        node = self._make(parent, name, inode)
        self._report(parent, name, caller, "mknod")
        return node

    def link(self, node: Node, parent: Node, name: bytes, caller: Caller) -> Node:
        """Give a file another name within its projection (EXDEV beyond it)."""
        if node.projection is not parent.projection:
            raise os_error(errno.EXDEV)
        if node.is_folder:
            raise os_error(errno.EPERM)
        if node.unlinked:
            raise os_error(errno.ENOENT)
        # Another name would be another way to write to it.
        self._admission.use(node, "write", caller)
        self._admission.use(node, "read", caller)
        self._admit_new(parent, name, caller)
        with self._tree.transaction():
            inode = self._union.stage(node)
            inode.nlink = (inode.nlink or 1) + 1
            self._union.changed(inode)
            self._union.add_name(parent, name, inode)
        self._report(parent, name, caller, "link")
        return self._union.child(parent, name)

    # -- removing --------------------------------------------------------------------------

    def unlink(self, parent: Node, name: bytes, caller: Caller) -> None:
        """Remove a name of something that is no folder."""
        node = self._union.child(parent, name)
        if node.is_folder:
            raise os_error(errno.EISDIR)
        self._remove(parent, name, node, caller, "unlink")

    def rmdir(self, parent: Node, name: bytes, caller: Caller) -> None:
        """Remove an empty folder."""
        node = self._union.child(parent, name)
        if not node.is_folder:
            raise os_error(errno.ENOTDIR)
        self._check_empty(node)
        self._remove(parent, name, node, caller, "rmdir")

    def _check_empty(self, folder: Node) -> None:
        """Refuse to remove a folder in which something is, also where this mount does not show
        it: it would be gone with the folder after a commit."""
        if not self._union.is_empty(folder):
            raise os_error(errno.ENOTEMPTY)
        if not self._union.is_clear(folder):
            raise os_error(errno.EACCES)

    def _remove(self, parent: Node, name: bytes, node: Node, caller: Caller, op: str) -> None:
        self._admission.use(parent, "delete", caller, name)
        with self._tree.transaction():
            self._union.remove_name(parent, name, node)
            self._union.lose_link(node)
        self._report(parent, name, caller, op)

    # -- renaming --------------------------------------------------------------------------

    def rename(
        self,
        parent: Node,
        name: bytes,
        new_parent: Node,
        new_name: bytes,
        flags: int,
        caller: Caller,
    ) -> None:
        """Move a name, as renameat2(2) with NOREPLACE or EXCHANGE. Raises OSError, Blocked."""
        names.check_new(new_name)
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise os_error(errno.EINVAL)
        node = self._union.child(parent, name)
        if parent.projection is not new_parent.projection and (
            flags == EXCHANGE or not self._may_change_rooms(node, new_parent)
        ):
            raise os_error(errno.EXDEV)
        target = self._find(new_parent, new_name)
        self._admission.use(parent, "delete", caller, name)
        self._admission.use(new_parent, "write", caller, new_name)
        if flags == EXCHANGE:
            if target is None:
                raise os_error(errno.ENOENT)
            self._keep_bytes(node, new_parent, new_name)
            self._keep_bytes(target, parent, name)
            self._exchange(parent, name, node, new_parent, new_name, target)
        elif target is not None and flags == NOREPLACE:
            raise os_error(errno.EEXIST)
        elif target is node:
            return
        else:
            if target is not None:
                self._check_replaceable(node, target)
                if target.kind == stat.S_IFREG:
                    self._files.keep_base_content(target)
            else:
                self._check_free(new_parent, new_name)
            self._keep_bytes(node, new_parent, new_name)
            self._move(parent, name, node, new_parent, new_name, target)
        came_from = parent.projection.mount_path(parent.place_of(name))
        action = "exchange" if flags == EXCHANGE else "rename"
        self._report(new_parent, new_name, caller, action, came_from)

    def _keep_bytes(self, node: Node, folder: Node, name: bytes) -> None:
        """The backup that an editor makes of a single file keeps what it held, whatever is
        committed meanwhile. Raises Blocked."""
        if folder.projection.is_temporary(name) and node.kind == stat.S_IFREG:
            self._files.stage_content(node, truncate=False)

    def _may_change_rooms(self, node: Node, new_parent: Node) -> bool:
        """True for what the agent made beside one single file and saves another one with: the
        name of a temporary file does not tell which it is for."""
        inode = self._union.staged(node)
        rooms = node.projection.is_room and new_parent.projection.is_room
        return rooms and inode is not None and inode.origin is None

    def _check_replaceable(self, node: Node, target: Node) -> None:
        if node.is_folder and not target.is_folder:
            raise os_error(errno.ENOTDIR)
        if target.is_folder and not node.is_folder:
            raise os_error(errno.EISDIR)
        if target.is_folder:
            self._check_empty(target)

    def _move(
        self,
        parent: Node,
        name: bytes,
        node: Node,
        new_parent: Node,
        new_name: bytes,
        target: Node | None,
    ) -> None:
        self._check_no_cycle(node, new_parent)
        node.parent, node.name = parent, name
        with self._tree.transaction():
            inode = self._union.stage(node)
            self._union.remove_name(parent, name, node)
            if target is not None:
                self._union.remove_name(new_parent, new_name, target)
                self._union.lose_link(target)
            if node.projection is not new_parent.projection:
                self._change_rooms(node, inode, new_parent)
            self._union.add_name(new_parent, new_name, inode)
            self._union.changed(inode)
        node.parent, node.name = new_parent, new_name

    def _change_rooms(self, node: Node, inode: StagedInode, new_parent: Node) -> None:
        before = node.projection
        inode.projection = new_parent.projection.id
        node.projection = new_parent.projection
        self._files.change_epoch(node)

        def undo() -> None:
            node.projection = before
            self._files.change_epoch(node)

        self._tree.on_failure(undo)

    def _exchange(
        self,
        parent: Node,
        name: bytes,
        node: Node,
        new_parent: Node,
        new_name: bytes,
        target: Node,
    ) -> None:
        self._check_no_cycle(node, new_parent)
        self._check_no_cycle(target, parent)
        if node is target:
            return
        with self._tree.transaction():
            inode, other = self._union.stage(node), self._union.stage(target)
            self._union.remove_name(parent, name, node)
            self._union.remove_name(new_parent, new_name, target)
            self._union.add_name(parent, name, other)
            self._union.add_name(new_parent, new_name, inode)
            self._union.changed(inode)
            self._union.changed(other)
        node.parent, node.name = new_parent, new_name
        target.parent, target.name = parent, name

    @staticmethod
    def _check_no_cycle(node: Node, folder: Node) -> None:
        at: Node | None = folder
        while at is not None:
            if at is node:
                raise os_error(errno.EINVAL)
            at = at.parent
