"""What a workspace looks like as a file system is defined here and in what it holds together.

Operations take inode numbers, names and a `Caller`, return plain types and raise `OSError` (or
`Blocked`, see `vfs.blocking`). Adapters (`vfs.fuse`, `winfsp_shim`) translate to it and decide
nothing. One task runs all of it; only the jobs it hands out run in worker threads.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vfs import names
from vfs.admission import Admission, Audience
from vfs.attributes import Attributes, Caller, SetAttributes
from vfs.attrs import AttributeChanges
from vfs.content import Redactor
from vfs.copyup import CopyUp
from vfs.files import Files, Opened
from vfs.gate import Access, Gate
from vfs.namespace import Namespace
from vfs.nodes import Node, NodeTable
from vfs.projection import Life, Projection
from vfs.root import Root
from vfs.stage.bodies import Bodies
from vfs.stage.quota import Limits, Quota
from vfs.stage.store import Store
from vfs.stage.tree import StageTree
from vfs.union import Union, os_error
from vfs.virtual import OWN_NAME, ROOT_INO, VirtualNode, VirtualTree

CACHE_SECONDS = 0.8
"""How long the kernel may answer from what it was told of names and attributes; what changes by
our own doing is told to it at once. With what `source` believes, less than a second."""


@dataclass(slots=True, eq=False)
class _Folder:
    """An open folder: the names it had when it was opened or last rewound."""

    node: Node | VirtualNode
    names: list[bytes]
    epoch: int


log = logging.getLogger(__name__)


def _teller(redactor: Redactor) -> Callable[[bytes, str], bool]:
    """Tells if a name holds a finding; what was asked lately is remembered."""

    @lru_cache(maxsize=65536)
    def find(name: bytes, profile: str, _version: str) -> bool:
        try:
            return redactor.holds_finding(name, profile)
        except Exception as error:  # a name that cannot be judged is not shown
            log.error("scan failed, name hidden: %s", error)
            return True

    return lambda name, profile: find(name, profile, redactor.version)


class Filesystem:
    """One workspace's files. `state` is a 0700 folder for the stage's rows and bodies."""

    def __init__(
        self,
        state: Path,
        gate: Gate,
        redactor: Redactor,
        digest_key: bytes,
        limits: Limits | None = None,
        audience: Audience | None = None,
    ) -> None:
        audience = audience or Audience(os.getuid())
        self.gate = gate
        self._state = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.bodies = Bodies(state / "bodies")
        try:
            self.store = Store(state / "stage.db", fresh=not self.bodies.numbers())
        except BaseException:
            self.bodies.close()
            os.close(self._state)
            raise
        self.quota = Quota(self._state, limits)
        self.tree = StageTree(self.store, self.bodies, self.quota)
        self.nodes = NodeTable()
        self.union = Union(self.tree, self.nodes, gate, _teller(redactor))
        self.admission = Admission(gate, audience)
        self.virtual = VirtualTree()
        copyup = CopyUp(self.union, digest_key)
        self.files = Files(self.union, self.admission, gate, redactor, copyup)
        self.namespace = Namespace(self.union, self.files, self.admission, gate)
        self.changes = AttributeChanges(self.union, self.files, self.admission, gate)
        self.root = Root(self.union, gate, self.virtual, audience)
        self.projections = self.root.projections
        self._folders: dict[int, _Folder] = {}
        self._own_files: dict[int, bytes] = {}
        # Far from the handles of `files`, so that a number tells which table it is in.
        self._next_handle = 1 << 40

    def close(self) -> None:
        """Close everything; the stage is complete on disk at any time."""
        self.files.close()
        for projection in self.projections.values():
            projection.source.close()
        self.tree.tidy_now()
        self.store.close()
        self.bodies.close()
        os.close(self._state)

    # -- projections -----------------------------------------------------------------------

    def project(self, projection: Projection) -> None:
        """Show a projection at the root; its name must be free.

        One with the number of an ended one takes its place: numbers that the kernel still holds
        live again, handles of the earlier one do not.
        """
        for before in list(self.projections.values()):
            if before.id == projection.id and before is not projection:
                del self.projections[before.name]
                projection.epoch = before.epoch + 1
                for node in self.nodes.of_projection(before):
                    node.projection = projection
                before.source.close()
        projection.life = Life.LIVE
        projection.draining = False
        self.projections[projection.name] = projection

    def begin_end(self, projection: Projection) -> list[Node]:
        """Stop serving a projection, but still take pages that the kernel has dirty.

        Returns the nodes that the kernel may hold, to be invalidated before `finish_end`.
        """
        projection.draining = True
        projection.life = Life.ENDED
        return self.nodes.of_projection(projection)

    def finish_end(self, projection: Projection) -> None:
        """The kernel has let go: from here on nothing of this projection is served or taken."""
        projection.draining = False
        projection.epoch += 1
        for node in self.nodes.of_projection(projection):
            self.files.drop_content(node)

    # -- nodes -----------------------------------------------------------------------------

    def node(self, ino: int) -> Node | VirtualNode:
        """The node of a number that the kernel holds. Raises OSError(ESTALE)."""
        found = self.nodes.by_ino.get(ino) or self.virtual.by_ino.get(ino)
        if found is None:
            raise os_error(errno.ESTALE)
        return found

    def _projected(self, ino: int) -> Node:
        """As `node`, for an operation that changes things: what is virtual is read-only."""
        node = self.node(ino)
        if isinstance(node, VirtualNode):
            raise os_error(errno.EROFS)
        return node

    def _folder_of(self, ino: int, name: bytes) -> Node:
        """The folder in which *name* is to be made, changed or removed."""
        if ino == ROOT_INO:
            return self.root.room(name)
        node = self._projected(ino)
        if not node.is_folder:
            raise os_error(errno.ENOTDIR)
        self.admission.look(node)
        return node

    def find(self, parent_ino: int, name: bytes) -> Node | VirtualNode:
        """What is at *name* of a folder, not counted as held by the kernel. Raises OSError."""
        parent = self.node(parent_ino)
        if len(name) > names.NAME_MAX:
            raise os_error(errno.ENAMETOOLONG)
        if isinstance(parent, VirtualNode):
            return self._own_entry(parent, name)
        self.admission.look(parent)
        if not parent.is_folder:
            raise os_error(errno.ENOTDIR)
        return self.union.child(parent, name)

    def _own_entry(self, folder: VirtualNode, name: bytes) -> Node | VirtualNode:
        if folder is self.virtual.root:
            return self.root.find(name)
        if name not in folder.children:
            raise os_error(errno.ENOENT)
        return folder.children[name]

    def lookup(self, parent_ino: int, name: bytes, caller: Caller) -> Attributes:
        """Look a name up; the kernel holds the node until it is forgotten. Raises OSError."""
        self.admission.meet(caller)
        self._sweep()
        node = self.find(parent_ino, name)
        attributes = self.attributes(node)
        self.remember(attributes.ino)
        return attributes

    def remember(self, ino: int) -> None:
        """Count one look-up by the kernel."""
        node = self.nodes.by_ino.get(ino)
        if node is not None:
            node.lookups += 1

    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        """The kernel gives look-ups back."""
        for ino, count in counts:
            node = self.nodes.by_ino.get(ino)
            if node is not None:
                node.lookups -= count
                self._let_go(node)
        self._sweep()

    def _sweep(self) -> None:
        """Let go of nodes that were met on the way and that the kernel was never told of."""
        for node in self.nodes.take_fresh():
            self._let_go(node)

    def _let_go(self, node: Node) -> None:
        if node.lookups > 0 or node.opens > 0 or self.nodes.by_ino.get(node.ino) is not node:
            return
        self.nodes.drop(node)
        self.files.drop_content(node)
        self.files.forget_body(node)
        inode = self.tree.inodes.get(node.ino)
        if inode is not None and not inode.persistent:
            with self.tree.transaction():
                self.tree.drop(node.ino)

    def attributes(self, node: Node | VirtualNode) -> Attributes:
        """What `stat` shows of a node. Raises OSError."""
        if isinstance(node, VirtualNode):
            if node is self.virtual.root:
                return self.root.attributes()
            return self.virtual.attributes(node)
        self.admission.look(node)
        return self.union.attributes(node)

    def getattr(self, ino: int) -> Attributes:
        """Attributes by number. Raises OSError."""
        return self.attributes(self.node(ino))

    def setattr(
        self, ino: int, change: SetAttributes, caller: Caller, fh: int | None = None
    ) -> Attributes:
        """Change attributes; with a handle (ftruncate) its own admission counts. Raises OSError,
        Blocked."""
        node = self._projected(ino)
        if fh is not None and change.size is not None:
            self.files.held(fh, Access.WRITE)
            self.changes.apply(node, change)
        else:
            self.changes.set(node, change, caller)
        return self.union.attributes(node)

    def readlink(self, ino: int, caller: Caller) -> bytes:
        """Target of a symlink; EACCES for one of the source's that leads out of the grant, or that
        holds a finding: a target that was masked would lead elsewhere."""
        node = self._projected(ino)
        self.admission.look(node)
        inode = self.union.staged(node)
        if inode is not None and inode.target is not None:
            return inode.target
        if node.kind != stat.S_IFLNK or node.origin is None:
            raise os_error(errno.EINVAL)
        target = node.projection.source.readlink(node.origin)
        self.admission.follow(node, target, caller, secret=self.files.holds_finding(node, target))
        return target

    # -- changing names --------------------------------------------------------------------

    def _counted(self, node: Node) -> Attributes:
        attributes = self.union.attributes(node)
        self.remember(node.ino)
        return attributes

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Attributes]:
        """Make and open a regular file. Raises OSError, Blocked.

        Without O_EXCL, a file that came to be there since the kernel looked is opened.
        """
        folder = self._folder_of(parent, name)
        try:
            node = self.namespace.create(folder, name, mode, caller)
        except FileExistsError:
            node = self.union.child(folder, name)
            if flags & os.O_EXCL or node.kind != stat.S_IFREG:
                raise
            return self.files.open(node, flags, caller), self._counted(node)
        access = flags & os.O_ACCMODE
        writable = access in (os.O_WRONLY, os.O_RDWR)
        self.gate.report(
            "open", "ok", node.mount_path, caller, node.projection.id,
            {"access": "write" if writable else "read"},
        )  # fmt: skip
        fh = self.files.new_handle(node, caller, access != os.O_WRONLY, writable)
        return Opened(fh, keep_cache=True), self._counted(node)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attributes:
        """Make a folder."""
        folder = self._folder_of(parent, name)
        if folder.projection.is_room:
            raise os_error(errno.EROFS)  # nobody saves a file by making folders
        return self._counted(self.namespace.mkdir(folder, name, mode, caller))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Attributes:
        """Make a file, FIFO, socket or device."""
        folder = self._folder_of(parent, name)
        if folder.projection.is_room and not stat.S_ISREG(mode):
            raise os_error(errno.EPERM)
        return self._counted(self.namespace.mknod(folder, name, mode, rdev, caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """Make a symlink."""
        folder = self._folder_of(parent, name)
        return self._counted(self.namespace.symlink(folder, name, target, caller))

    def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Attributes:
        """Make a hard link."""
        node = self._projected(ino)
        folder = self._folder_of(parent, name)
        if folder.projection.is_room:
            raise os_error(errno.EPERM)  # one name is what was granted
        return self._counted(self.namespace.link(node, folder, name, caller))

    def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove a file's name."""
        self.namespace.unlink(self._folder_of(parent, name), name, caller)

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove an empty folder."""
        self.namespace.rmdir(self._folder_of(parent, name), name, caller)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int,
        caller: Caller,
    ) -> None:  # fmt: skip
        """Move a name."""
        folder = self._folder_of(parent, name)
        if new_parent == ROOT_INO:
            beside = folder if parent == ROOT_INO else None
            new_folder = self.root.room(new_name, beside)
        else:
            new_folder = self._folder_of(new_parent, new_name)
        self.namespace.rename(folder, name, new_folder, new_name, flags, caller)

    # -- open files ------------------------------------------------------------------------

    def open(self, ino: int, flags: int, caller: Caller) -> Opened:
        """Open a file. Raises OSError, Blocked."""
        self.admission.meet(caller)
        node = self.node(ino)
        if isinstance(node, VirtualNode):
            if flags & (os.O_ACCMODE | os.O_TRUNC) or node.content is None:
                raise os_error(errno.EROFS)
            fh, self._next_handle = self._next_handle, self._next_handle + 1
            self._own_files[fh] = node.content()
            return Opened(fh, keep_cache=False, direct_io=True)
        return self.files.open(node, flags, caller)

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """Read an open file. Raises OSError, Blocked."""
        own = self._own_files.get(fh)
        if own is not None:
            return own[offset : offset + size]
        return self.files.read(fh, offset, size)

    def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write to an open file. Raises OSError, Blocked."""
        return self.files.write(fh, offset, data)

    def release(self, fh: int) -> None:
        """Close a handle."""
        if self._own_files.pop(fh, None) is None:
            node = self.files.release(fh)
            if node is not None:
                self._let_go(node)

    def sync(self, fh: int) -> Callable[[], None]:
        """The job that makes an open file durable, for a worker thread. Raises OSError."""
        return (lambda: None) if fh in self._own_files else self.files.sync(fh)

    def sync_folder(self, fh: int) -> Callable[[], None]:
        """The job that makes the names of an open folder durable, for a worker thread."""
        return self.store.sync

    # -- open folders ----------------------------------------------------------------------

    def _names(self, node: Node | VirtualNode) -> list[bytes]:
        if isinstance(node, Node):
            self.admission.look(node)
            return self.union.listing(node)
        return self.root.names() if node is self.virtual.root else list(node.children)

    def opendir(self, ino: int, caller: Caller) -> int:
        """Open a folder. Raises OSError."""
        self.admission.meet(caller)
        node = self.node(ino)
        if not node.is_folder:
            raise os_error(errno.ENOTDIR)
        epoch = node.projection.epoch if isinstance(node, Node) else 0
        folder = _Folder(node, self._names(node), epoch)
        if isinstance(node, Node):
            node.opens += 1
            self.gate.report(
                "open", "ok", node.mount_path, caller, node.projection.id, {"access": "list"}
            )
        fh, self._next_handle = self._next_handle, self._next_handle + 1
        self._folders[fh] = folder
        return fh

    def _open_folder(self, fh: int) -> _Folder:
        folder = self._folders.get(fh)
        if folder is None:
            raise os_error(errno.EBADF)
        if isinstance(folder.node, Node):
            if folder.node.projection.epoch != folder.epoch:
                raise os_error(errno.ESTALE)
            self.admission.look(folder.node)
        return folder

    def dots(self, fh: int) -> tuple[int, ...]:
        """Inode numbers of `.` and `..` of an open folder, which `readdir` does not list; none
        where the folder has been removed. Raises OSError."""
        node = self._open_folder(fh).node
        if not isinstance(node, Node):
            return node.ino, ROOT_INO
        if node.unlinked:
            return ()
        return node.ino, ROOT_INO if node.parent is None else node.parent.ino

    def readdir(self, fh: int, offset: int) -> Iterator[tuple[bytes, Attributes, int]]:
        """(name, attributes, offset of the next) from *offset* on; `remember` each one taken.

        Offsets are places in the list that the folder had when it was opened or rewound, so that
        nothing is met twice or passed over, whatever changes meanwhile.
        """
        folder = self._open_folder(fh)
        node = folder.node
        if offset == 0:
            folder.names = self._names(node)
        for place in range(offset, len(folder.names)):
            name = folder.names[place]
            try:
                found = self._entry(node, name)
                attributes = self.attributes(found)
            except OSError:
                continue  # gone since the listing was made, or not to be looked at
            yield name, attributes, place + 1

    def _entry(self, folder: Node | VirtualNode, name: bytes) -> Node | VirtualNode:
        if isinstance(folder, Node):
            return self.union.child(folder, name)
        return self._own_entry(folder, name)

    def releasedir(self, fh: int) -> None:
        """Close a folder."""
        folder = self._folders.pop(fh, None)
        if folder is not None and isinstance(folder.node, Node):
            folder.node.opens -= 1
            self._let_go(folder.node)

    # -- the rest --------------------------------------------------------------------------

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """An extended attribute. Raises OSError(ENODATA)."""
        node = self.node(ino)
        if isinstance(node, VirtualNode):
            raise os_error(errno.ENODATA)
        return self.changes.get_xattr(node, name)

    def listxattr(self, ino: int) -> list[bytes]:
        """Names of the extended attributes."""
        node = self.node(ino)
        if isinstance(node, VirtualNode):
            return []
        self.admission.look(node)
        return sorted(self.changes.all_xattrs(node))

    def setxattr(self, ino: int, name: bytes, value: bytes, caller: Caller) -> None:
        """Stage an extended attribute."""
        self.changes.set_xattr(self._projected(ino), name, value, caller)

    def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        """Stage the removal of an extended attribute."""
        self.changes.remove_xattr(self._projected(ino), name, caller)

    def statfs(self) -> os.statvfs_result:
        """Space that the stage has left: where the agent's writes go."""
        disk = os.fstatvfs(self._state)
        size, free = self.quota.space()
        limit, unit = self.quota.limits.entries, disk.f_frsize
        left = max(0, limit - self.tree.names)
        return os.statvfs_result(
            (disk.f_bsize, unit, size // unit, free // unit, free // unit,
             limit, left, left, disk.f_flag, names.NAME_MAX)
        )  # fmt: skip


__all__ = ["CACHE_SECONDS", "OWN_NAME", "Filesystem"]
