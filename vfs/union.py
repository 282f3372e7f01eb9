"""Stage over sources as one tree: what is at a name, what attributes it has, how it gets staged.

A folder's staged entries come first, a whiteout hides, and what is left shows through from the
folder's origin in its source. A rename keeps the origin (it redirects; nothing is copied), so a
staged folder made by the agent, which has no origin, is opaque by nature.

No permission is decided here and nothing waits; callers have been admitted by `filesystem`.
"""

import errno
import os
import stat
import time
from collections.abc import Callable

from vfs import names
from vfs.attributes import Attributes, Fingerprint
from vfs.gate import Gate
from vfs.nodes import Node, NodeTable
from vfs.projection import Projection
from vfs.stage.tree import WHITEOUT, Base, StagedInode, StageTree
from vfs.statx import Stat


def os_error(number: int) -> OSError:
    """An OSError with the system's own text."""
    return OSError(number, os.strerror(number))


def fingerprint(status: Stat, digest: bytes | None = None) -> Fingerprint:
    """The fingerprint of a source object as `status` shows it."""
    return Fingerprint(
        status.dev, status.ino, status.mode, status.uid, status.gid, status.size,
        status.mtime_ns, status.ctime_ns, digest,
    )  # fmt: skip


_TELLING_BYTES = 12
"""Bytes. A shorter name holds no finding: it has no room for what would give one away."""

_DIGITS = [b"%d" % digit for digit in range(10)]


class Union:
    """The merged tree of one workspace."""

    def __init__(
        self,
        tree: StageTree,
        nodes: NodeTable,
        gate: Gate,
        tells: Callable[[bytes, str], bool] = lambda _name, _profile: False,
    ) -> None:
        """`tells(name, profile)` is true for a name that holds a finding."""
        self.tree = tree
        self.nodes = nodes
        self._gate = gate
        self._tells = tells

    # -- finding ---------------------------------------------------------------------------

    def staged(self, node: Node) -> StagedInode | None:
        """The node's row in the stage, looked up anew each time (see `stage.tree`)."""
        return self.tree.inodes.get(node.ino)

    def root(self, projection: Projection) -> Node:
        """The node of a projection's root."""
        top = self.tree.top(projection.id)
        if top is not None:
            return self._staged_node(projection, top, None, projection.name)
        status = projection.source.stat(b"")
        return self._source_node(projection, status, None, projection.name, b"")

    def hidden(self, projection: Projection, path: bytes) -> bool:
        """True if policy hides this path of the source."""
        return self._gate.hidden(projection.id, projection.source.host_path(path))

    def telling(self, projection: Projection, path: bytes) -> bool:
        """True if the name of a source's entry holds a secret. Never asked of what an agent named:
        the answer would tell whether a guess is right."""
        name = path.rpartition(b"/")[2]
        if len(name) < _TELLING_BYTES or not any(digit in name for digit in _DIGITS):
            return False
        profile = self._gate.profile(projection.id, projection.source.host_path(path))
        return self._tells(name, profile)

    def unseen(self, projection: Projection, path: bytes) -> bool:
        """True for an entry of the source that is not shown: hidden by policy, or telling."""
        return self.hidden(projection, path) or self.telling(projection, path)

    def beneath(self, parent: Node, name: bytes) -> Stat | None:
        """What the folder's source has at *name*, shown or not; None if nothing or hidden."""
        if parent.origin is None:
            return None
        path = names.join(parent.origin, name)
        try:
            status = parent.projection.source.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if self.unseen(parent.projection, path) else status

    def child(self, parent: Node, name: bytes) -> Node:
        """The node at *name* of a folder. Raises OSError: ENOENT, and as `names.check`."""
        names.check(name)
        if parent.unlinked:
            raise os_error(errno.ENOENT)
        folder = self.staged(parent)
        ino = folder.entries.get(name) if folder is not None else None
        if ino is not None and not self._made_way(parent, name, ino):
            if ino == WHITEOUT or not self._shows_staged(parent, name, ino):
                raise os_error(errno.ENOENT)
            return self._staged_node(parent.projection, ino, parent, name)
        status = self.beneath(parent, name)
        if status is None or self.hidden(parent.projection, parent.place_of(name)):
            raise os_error(errno.ENOENT)
        assert parent.origin is not None
        path = names.join(parent.origin, name)
        return self._source_node(parent.projection, status, parent, name, path)

    def _staged_node(
        self, projection: Projection, ino: int, parent: Node | None, name: bytes
    ) -> Node:
        node = self.nodes.by_ino.get(ino)
        if node is None:
            inode = self.tree.inodes[ino]
            node = Node(ino, projection, inode.kind, parent, name, inode.origin, inode.identity)
            self.nodes.add(node, from_source=False)
        else:
            node.parent, node.name = parent, name
        return node

    def _source_node(
        self, projection: Projection, status: Stat, parent: Node | None, name: bytes, path: bytes
    ) -> Node:
        linked = self.tree.linked.get((projection.id, *status.identity))
        if linked is not None:
            # Another name of a file that is staged already: one inode, whichever name is used.
            return self._staged_node(projection, linked, parent, name)
        node = self.nodes.find(projection, status.identity)
        if node is not None and node.kind == status.kind:
            node.parent, node.name, node.origin = parent, name, path
            return node
        if node is not None:
            self.nodes.hide_identity(node)
        number = self._free_number(projection, status)
        node = Node(number, projection, status.kind, parent, name, path, status.identity)
        self.nodes.add(node, from_source=True)
        return node

    def _free_number(self, projection: Projection, status: Stat) -> int:
        home = projection.source.home_dev
        number = self.nodes.number(projection, status.identity, home)
        while number in self.tree.inodes or number in self.nodes.by_ino:
            # Staged under this number, but met at another place: the user moved the source file,
            # or its number was given to a new one. It is another object to the agent.
            number = self.nodes.number(projection, (status.dev, number ^ status.ctime_ns), -1)
        return number

    def listing(self, parent: Node) -> list[bytes]:
        """Names in a folder, sorted; what is hidden is not among them."""
        if parent.unlinked:
            return []
        found: set[bytes] = set()
        folder = self.staged(parent)
        entries = folder.entries if folder is not None else {}
        if parent.origin is not None:
            for name in self._source_names(parent):
                ino = entries.get(name)
                way = ino is None or self.gives_way(
                    parent.projection, names.join(parent.origin, name), ino
                )
                if way and self._shows(parent, name):
                    found.add(name)
        found.update(
            name
            for name, ino in entries.items()
            if ino != WHITEOUT and self._shows_staged(parent, name, ino)
        )
        return sorted(found)

    def _source_names(self, folder: Node) -> list[bytes]:
        """What the source has in a folder, shown or not; nothing if the folder is here only for
        what is staged in it."""
        if folder.origin is None:
            return []
        try:
            return folder.projection.source.list(folder.origin)
        except (FileNotFoundError, NotADirectoryError):
            if folder.parent is None or self.staged(folder) is None:
                raise
            return []

    def _shows(self, parent: Node, name: bytes) -> bool:
        assert parent.origin is not None
        return not self.unseen(
            parent.projection, names.join(parent.origin, name)
        ) and not self.hidden(parent.projection, parent.place_of(name))

    def concealed(self, parent: Node, name: bytes, ino: int) -> bool:
        """True if policy hides a staged entry: the place, or where its content comes from."""
        origin = self.tree.inodes[ino].origin
        return self.hidden(parent.projection, parent.place_of(name)) or (
            origin is not None and self.hidden(parent.projection, origin)
        )

    def _shows_staged(self, parent: Node, name: bytes, ino: int) -> bool:
        return self.alive(parent.projection, ino) and not self.concealed(parent, name, ino)

    def gives_way(self, projection: Projection, path: bytes, ino: int) -> bool:
        """True if nothing is left of an entry that stood for the source's object at *path*, and
        the user has put something of another kind there: that shows, as any other object does."""
        inode = self.tree.inodes.get(ino)
        if inode is None or inode.origin != path or inode.body is not None:
            return False
        try:
            same = projection.source.stat(path).kind == inode.kind
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not same and not self.alive(projection, ino)

    def _made_way(self, parent: Node, name: bytes, ino: int) -> bool:
        """True if an entry gave way; it is forgotten then, with all bases of what it stood for."""
        if parent.origin is None:
            return False
        projection, path = parent.projection, names.join(parent.origin, name)
        if not self.gives_way(projection, path, ino):
            return False
        with self.tree.transaction():
            folder = self.stage_folder(parent)
            self.lose_link(self._staged_node(projection, ino, parent, name))
            self.tree.drop_entry(folder, name)
            for number, known in list(self.tree.bases):
                if number == projection.id and names.within(known, path):
                    self.tree.drop_base(number, known)
        return True

    def alive(self, projection: Projection, ino: int) -> bool:
        """False for a staged entry of which nothing is left, since the user removed from the
        source what it stood for: a file with no content of its own, a folder with nothing in it."""
        left = [ino]  # a loop, not a recursion: trees may be deeper than Python's stack
        while left:
            inode = self.tree.inodes[left.pop()]
            if inode.body is not None or inode.origin is None:
                return True
            try:
                if projection.source.stat(inode.origin).kind == inode.kind:
                    return True
            except (FileNotFoundError, NotADirectoryError):
                pass
            left.extend(entry for entry in inode.entries.values() if entry != WHITEOUT)
        return False

    def is_empty(self, folder: Node) -> bool:
        """True if a folder shows no entry."""
        for name in self.listing(folder):
            try:
                self.child(folder, name)
            except FileNotFoundError:
                continue
            return False
        return True

    def is_clear(self, folder: Node) -> bool:
        """True if a folder that shows no entry has none that is hidden either."""
        inode = self.staged(folder)
        entries = inode.entries if inode is not None else {}
        return all(name in entries for name in self._source_names(folder)) and not any(
            ino != WHITEOUT and self.alive(folder.projection, ino) for ino in entries.values()
        )

    # -- attributes ------------------------------------------------------------------------

    def source_stat(self, node: Node) -> Stat:
        """Attributes of the source object behind a node. Raises ESTALE if another is there."""
        if node.unlinked and node.content is not None:
            # Open, but without a name: a commit may have removed it from the source as well.
            return node.projection.source.stat_open(node.content.fd)
        if node.origin is None:
            # What the agent made, and a discard took away while the kernel still held it.
            raise os_error(errno.ESTALE)
        try:
            status = node.projection.source.stat(node.origin)
        except (FileNotFoundError, NotADirectoryError):
            raise os_error(errno.ESTALE) from None
        if status.kind != node.kind or (
            status.identity != node.identity and self.staged(node) is None
        ):
            raise os_error(errno.ESTALE)
        return status

    def attributes(self, node: Node) -> Attributes:
        """What `stat` shows. Raises OSError."""
        inode = self.staged(node)
        if inode is not None and inode.body is not None:
            return self._of_body(node, inode)
        if inode is not None and inode.origin is None:
            return self._of_agent(inode)
        try:
            status = self.source_stat(node)
        except OSError:
            if inode is None or not inode.is_folder or node.parent is None:
                raise
            return self._of_lost_folder(node, inode)
        shown = Attributes(
            node.ino, status.mode, status.nlink, status.uid, status.gid, status.rdev,
            status.size, status.blocks, status.atime_ns, status.mtime_ns, status.ctime_ns,
        )  # fmt: skip
        if inode is not None:
            self._override(shown, inode)
        if node.unlinked:
            shown.nlink = 0
        return shown

    def _override(self, shown: Attributes, inode: StagedInode) -> None:
        if inode.mode is not None:
            shown.mode = inode.kind | inode.mode
        if inode.uid is not None:
            shown.uid = inode.uid
        if inode.gid is not None:
            shown.gid = inode.gid
        if inode.atime_ns is not None:
            shown.atime_ns = inode.atime_ns
        if inode.mtime_ns is not None:
            shown.mtime_ns = inode.mtime_ns
        if inode.ctime_ns is not None:
            shown.ctime_ns = inode.ctime_ns
        if inode.nlink is not None:
            if not inode.is_folder:
                shown.nlink = inode.nlink
            elif shown.nlink >= 2:  # file systems that do not count sub-folders say 1
                shown.nlink += inode.nlink

    def _of_body(self, node: Node, inode: StagedInode) -> Attributes:
        assert inode.body is not None
        body = self.tree.bodies.stat(inode.body)
        return Attributes(
            node.ino, inode.kind | (inode.mode or 0), inode.nlink or 0, inode.uid or 0,
            inode.gid or 0, 0, body.st_size, body.st_blocks,
            body.st_atime_ns, body.st_mtime_ns, body.st_ctime_ns,
        )  # fmt: skip

    def _of_lost_folder(self, node: Node, inode: StagedInode) -> Attributes:
        """Of a folder that the user removed from the source while something is staged in it."""
        shown = self._of_agent(inode)
        root = node.projection.source.stat(b"")
        shown.mode = inode.kind | (0o755 if inode.mode is None else inode.mode)
        shown.uid = root.uid if inode.uid is None else inode.uid
        shown.gid = root.gid if inode.gid is None else inode.gid
        return shown

    def _of_agent(self, inode: StagedInode) -> Attributes:
        size = len(inode.target) if inode.target is not None else 0
        nlink = inode.nlink or 0
        if inode.is_folder:
            size, nlink = 4096, (2 + nlink if inode.persistent else 0)
        return Attributes(
            inode.ino, inode.kind | (inode.mode or 0), nlink, inode.uid or 0, inode.gid or 0,
            inode.rdev, size, 8 if inode.is_folder else 0,
            inode.atime_ns or 0, inode.mtime_ns or 0, inode.ctime_ns or 0,
        )  # fmt: skip

    # -- staging (inside a transaction) ----------------------------------------------------

    def stage_folder(self, node: Node) -> StagedInode:
        """The folder's row, made if need be together with the way to it."""
        inode = self.staged(node)
        if inode is not None:
            return inode
        if node.unlinked:
            return self._stage_one_folder(node)
        # A loop, not a recursion: trees may be deeper than Python's stack.
        way = [node]
        while (above := way[-1].parent) is not None and self.staged(above) is None:
            way.append(above)
        for folder in reversed(way):
            inode = self._stage_one_folder(folder)
            self._name_at_place(folder)
        assert inode is not None
        return inode

    def _stage_one_folder(self, node: Node) -> StagedInode:
        inode = StagedInode(node.ino, node.projection.id, stat.S_IFDIR, node.origin)
        inode.identity = node.identity
        inode.persistent = not node.unlinked
        self.tree.save(inode)
        self._hide_identity(node)
        return inode

    def stage(self, node: Node) -> StagedInode:
        """The node's row, made with the source's attributes if need be; of any kind of object."""
        if node.is_folder:
            return self.stage_folder(node)
        inode = self.staged(node)
        if inode is None:
            status = self.source_stat(node)
            inode = StagedInode(node.ino, node.projection.id, node.kind, node.origin)
            inode.identity = node.identity if status.nlink > 1 else (0, 0)
            inode.mode = stat.S_IMODE(status.mode)
            inode.uid, inode.gid, inode.nlink = status.uid, status.gid, status.nlink
            inode.atime_ns, inode.mtime_ns = status.atime_ns, status.mtime_ns
            inode.ctime_ns, inode.rdev = status.ctime_ns, status.rdev
            inode.persistent = not node.unlinked
            if node.unlinked:
                inode.nlink = 0
            self.tree.save(inode)
            self._hide_identity(node)
            if not node.unlinked:
                self.keep_base(node.projection, node.origin or b"", status)
                # Only now: of a file with several links, the place where it was last met may
                # have gone to something else since.
                self._name_at_place(node)
        return inode

    def _name_at_place(self, node: Node) -> None:
        if node.parent is None:
            self.tree.set_top(node.projection.id, node.ino)
        else:
            self.tree.set_entry(self.stage_folder(node.parent), node.name, node.ino)

    def _hide_identity(self, node: Node) -> None:
        if self.nodes.hide_identity(node):
            identity = node.identity
            self.tree.on_failure(lambda: self.nodes.show_identity(node, identity))

    def _mark_unlinked(self, node: Node) -> None:
        node.unlinked = True
        self.tree.on_failure(lambda: setattr(node, "unlinked", False))

    def keep_base(self, projection: Projection, path: bytes, status: Stat) -> None:
        """Remember what a source place held before the stage covered it; the first stays."""
        if (projection.id, path) not in self.tree.bases:
            self.tree.put_base(projection.id, path, Base(fingerprint(status)))

    def keep_folder_base(self, node: Node) -> None:
        """Remember a source folder before its attributes change; a folder that is staged only
        as the way to something has no base yet."""
        if node.origin is None or node.unlinked:
            return
        if (node.projection.id, node.origin) in self.tree.bases:
            return
        try:
            status = self.source_stat(node)
        except OSError:
            if self.staged(node) is None:
                raise
            return  # the user has removed it
        self.keep_base(node.projection, node.origin, status)

    def keep_content_base(self, projection: Projection, path: bytes, base: Base) -> None:
        """Remember a source place with its content, unless one with content is there already.

        An earlier base without content (of a mode change, say) is replaced only while the source
        is still that version: what the user reviewed against must not move.
        """
        known = self.tree.bases.get((projection.id, path))
        if known is None or (
            known.fingerprint.digest is None and known.fingerprint.same_version(base.fingerprint)
        ):
            self.tree.put_base(projection.id, path, base)
        elif base.body is not None:
            self.tree.discard_body(base.body)

    def touch(self, folder: StagedInode) -> None:
        """An entry of a folder changed: so do its times."""
        folder.mtime_ns = folder.ctime_ns = time.time_ns()
        self.tree.save(folder)

    def changed(self, inode: StagedInode) -> None:
        """An inode's attributes changed: so does its ctime."""
        inode.ctime_ns = time.time_ns()
        if inode.body is not None:
            self.tree.bodies.touch(inode.body)
        self.tree.save(inode)

    def count_folder(self, parent: StagedInode, by: int) -> None:
        """A sub-folder came (1) or went (-1)."""
        parent.nlink = (parent.nlink or 0) + by

    def add_name(self, parent: Node, name: bytes, inode: StagedInode) -> None:
        """Name a staged inode in a folder."""
        folder = self.stage_folder(parent)
        dead = folder.entries.get(name, WHITEOUT)
        if dead not in (WHITEOUT, inode.ino):
            self.lose_link(self._staged_node(parent.projection, dead, parent, name))
        self.tree.set_entry(folder, name, inode.ino)
        if inode.is_folder:
            self.count_folder(folder, 1)
        self.touch(folder)

    def remove_name(self, parent: Node, name: bytes, node: Node) -> None:
        """Take a name out of a folder; a whiteout stays where the source has one beneath."""
        folder = self.stage_folder(parent)
        below = self.beneath(parent, name)
        if below is not None:
            assert parent.origin is not None
            self.keep_base(parent.projection, names.join(parent.origin, name), below)
            self.tree.set_entry(folder, name, WHITEOUT)
        else:
            self.tree.drop_entry(folder, name)
        if node.is_folder:
            self.count_folder(folder, -1)
        self.touch(folder)

    def lose_link(self, node: Node) -> None:
        """A name of this node is gone; with the last one it lives only as long as it is open. What
        is still staged in a folder goes first: nothing is left of it, the folder shows empty."""
        for below in reversed(self._staged_below(node)):
            self._lose_link(below)
        self._lose_link(node)

    def _staged_below(self, node: Node) -> list[Node]:
        """Nodes of all that is staged in a folder and below, each after the folder it is in."""
        found, left = [], [node]
        while left:
            folder = left.pop()
            inode = self.staged(folder)
            for name, ino in (inode.entries if inode is not None else {}).items():
                if ino != WHITEOUT:
                    left.append(self._staged_node(node.projection, ino, folder, name))
                    found.append(left[-1])
        return found

    def _lose_link(self, node: Node) -> None:
        inode = self.staged(node)
        if inode is None:
            status = None if node.is_folder else self.source_stat(node)
            if status is not None and status.nlink > 1:
                self._stage_unnamed(node, status)
                return
            self._mark_unlinked(node)
            self._hide_identity(node)
            return
        if not inode.is_folder and (inode.nlink or 1) > 1:
            inode.nlink = (inode.nlink or 1) - 1
            self.changed(inode)
            return
        self._mark_unlinked(node)
        self.tree.orphan(node.ino)
        inode.ctime_ns = time.time_ns()
        if node.opens == 0 and node.lookups == 0:
            self.tree.drop(node.ino)

    def _stage_unnamed(self, node: Node, status: Stat) -> None:
        """Keep the count of a source file that lost one of several names: its other names, still
        only in the source, lead to this row by identity."""
        inode = StagedInode(node.ino, node.projection.id, node.kind, node.origin)
        inode.identity = node.identity
        inode.mode, inode.uid, inode.gid = stat.S_IMODE(status.mode), status.uid, status.gid
        inode.atime_ns, inode.mtime_ns = status.atime_ns, status.mtime_ns
        inode.nlink = status.nlink
        self.tree.save(inode)
        self._hide_identity(node)
        inode.nlink -= 1
        self.changed(inode)
