"""After a commit or discard: makes the stage forget what equals the source again.

Each method is for one change, inside a transaction of the caller's; `prune` at the end removes
what is left over. Nodes that the kernel holds keep their inode numbers; `touched` collects what
the kernel must be told about.
"""

import os
import stat
from dataclasses import dataclass, field

from vfs import names
from vfs.files import Files
from vfs.nodes import Node
from vfs.projection import Projection
from vfs.stage.changes import Change, Item, Kind
from vfs.stage.tree import WHITEOUT, Base, StagedInode
from vfs.union import Union, fingerprint


@dataclass(slots=True)
class Touched:
    """Names (parent's number, name) and inode numbers whose cached state is void."""

    entries: list[tuple[int, bytes]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)


class Settler:
    """Settles changes of one projection's stage; runs on the core's task."""

    def __init__(self, union: Union, files: Files, projection: Projection) -> None:
        self._union = union
        self._tree = union.tree
        self._files = files
        self._projection = projection
        self.touched = Touched()

    # -- finding one's way -----------------------------------------------------------------

    def _top(self) -> StagedInode | None:
        number = self._tree.top(self._projection.id)
        return None if number is None else self._tree.inodes[number]

    def folder_at(self, place: bytes) -> StagedInode | None:
        """The staged folder at a place of the mount, None where nothing is staged there."""
        folder = self._top()
        for name in place.split(b"/") if place else ():
            if folder is None:
                return None
            number = folder.entries.get(name)
            folder = None if not number else self._tree.inodes.get(number)
        return folder if folder is not None and folder.is_folder else None

    def _forget_entry(self, folder: StagedInode, name: bytes) -> None:
        self._tree.drop_entry(folder, name)
        self.touched.entries.append((folder.ino, name))

    def _node(self, ino: int) -> Node | None:
        return self._union.nodes.by_ino.get(ino)

    # -- commits ---------------------------------------------------------------------------

    def rehome(self, place: bytes) -> None:
        """The folder at *place* now stands in the source at the same path: let it show through.

        What it showed from elsewhere (it was moved) becomes staged entries of their own; what the
        source's folder has beside them stays hidden, as a deletion that was not committed yet.
        """
        folder = self.folder_at(place)
        if folder is None or folder.origin == place:
            return
        source = self._projection.source
        if folder.origin is not None:
            for name in source.list(folder.origin):
                path = names.join(folder.origin, name)
                if name not in folder.entries and not self._union.hidden(self._projection, path):
                    self._tree.set_entry(folder, name, self._detached(path))
        for name in source.list(place):
            if name not in folder.entries:
                self._tree.set_entry(folder, name, WHITEOUT)
        folder.origin = place
        folder.identity = source.stat(place).identity
        folder.mode = folder.uid = folder.gid = None
        self._tree.save(folder)
        node = self._node(folder.ino)
        if node is not None:
            node.origin = place
        self.touched.numbers.add(folder.ino)

    def _detached(self, path: bytes) -> int:
        """A staged inode for a source object that is shown at another place than its own."""
        status = self._projection.source.stat(path)
        known = self._union.nodes.find(self._projection, status.identity)
        number = known.ino if known is not None else self._tree.fresh_ino()
        inode = StagedInode(number, self._projection.id, status.kind, path)
        if not inode.is_folder:
            inode.mode = stat.S_IMODE(status.mode)
            inode.uid, inode.gid, inode.nlink = status.uid, status.gid, status.nlink
            inode.atime_ns, inode.mtime_ns = status.atime_ns, status.mtime_ns
            inode.ctime_ns = status.ctime_ns
        self._tree.save(inode)
        if known is not None:
            self._union.nodes.hide_identity(known)
        return number

    def landed(self, change: Change, item: Item) -> None:
        """What stands at the change's place is in the source now, at the same path."""
        folder_place, _, name = change.place.rpartition(b"/")
        status = self._projection.source.stat(change.place)
        folder = self.folder_at(folder_place) if change.place else None
        # A file that came along with its moved folder got its inode when the folder was rehomed.
        number = item.ino or (folder.entries.get(name) if folder is not None else None)
        inode = self._tree.inodes.get(number) if number else None
        if change.is_folder:
            if inode is not None:
                self.rehome(change.place)
                inode.mode = inode.uid = inode.gid = None
                self._tree.save(inode)
            self._drop_bases(change)
            return
        if inode is not None:
            self._become_source(inode, change.place, status.identity)
        if not change.place:
            self._tree.drop_top(self._projection.id)
            self.touched.entries.append((1, self._projection.name))
        elif folder is not None and folder.origin == folder_place:
            self._forget_entry(folder, name)
        self._drop_bases(change)

    def _become_source(self, inode: StagedInode, place: bytes, identity: tuple[int, int]) -> None:
        node = self._node(inode.ino)
        self._tree.drop(inode.ino)
        self.touched.numbers.add(inode.ino)
        if node is not None:
            self._files.forget_body(node)
            self._files.drop_content(node)
            node.origin = place
            self._union.nodes.show_identity(node, identity)

    def rebased(self, change: Change, digest: bytes, masked: bytes) -> None:
        """A file that landed while the agent wrote to it: still staged, on what landed as its
        base (*digest* of it, and its masked bytes)."""
        self._drop_bases(change)
        body, fd = self._tree.bodies.create()
        with os.fdopen(fd, "wb") as file:
            file.write(masked)
        status = self._projection.source.stat(change.place)
        base = Base(fingerprint(status, digest), body)
        self._tree.put_base(self._projection.id, change.place, base)
        inode = self._tree.inodes.get(change.item.ino or 0) if change.item is not None else None
        if inode is not None:
            inode.origin = change.place
            self._tree.save(inode)
            node = self._node(inode.ino)
            if node is not None:
                node.origin = change.place

    def _drop_bases(self, change: Change) -> None:
        for path in {change.place, change.old_place} - {None}:
            self._tree.drop_base(self._projection.id, path)  # type: ignore[arg-type]

    # -- discards --------------------------------------------------------------------------

    def discard(self, change: Change) -> None:
        """Let the source's side of a change show again."""
        if change.kind is Kind.DELETED:
            assert change.old_place is not None
            self._put_back(change.old_place)
            return
        if change.kind is Kind.MODE and change.item is not None and change.is_folder:
            self._reset_folder(change)
            return
        self._take_away(change)
        if change.old_place is not None:
            self._put_back(change.old_place)
        self._drop_bases(change)

    def _reset_folder(self, change: Change) -> None:
        assert change.item is not None
        assert change.item.ino is not None
        inode = self._tree.inodes[change.item.ino]
        inode.mode = inode.uid = inode.gid = None
        self._tree.save(inode)
        self.touched.numbers.add(inode.ino)
        self._drop_bases(change)

    def _take_away(self, change: Change) -> None:
        """Remove the new side from its place."""
        folder_place, _, name = change.place.rpartition(b"/")
        item = change.item
        inode = self._tree.inodes.get(item.ino) if item is not None and item.ino else None
        if not change.place:
            self._tree.drop_top(self._projection.id)
            self.touched.entries.append((1, self._projection.name))
        else:
            folder = self.folder_at(folder_place)
            if folder is None:
                return
            moved_in = folder.origin is not None and folder.origin != folder_place
            if moved_in and name not in folder.entries:
                # It shows through from the folder's old place: white it out here.
                self._tree.set_entry(folder, name, WHITEOUT)
                self.touched.entries.append((folder.ino, name))
            elif moved_in:
                self._tree.set_entry(folder, name, WHITEOUT)
                self.touched.entries.append((folder.ino, name))
            elif folder.origin == folder_place and change.kind in (Kind.ADDED, Kind.SYMLINK):
                below = self._projection.source.exists(change.place)
                if below and change.old_place is None:
                    self._tree.set_entry(folder, name, WHITEOUT)
                else:
                    self._forget_entry(folder, name)
            else:
                self._forget_entry(folder, name)
        if inode is not None:
            self._lose(inode)

    def _lose(self, inode: StagedInode) -> None:
        self.touched.numbers.add(inode.ino)
        if not inode.is_folder and (inode.nlink or 1) > 1 and self._named(inode.ino):
            inode.nlink = (inode.nlink or 1) - 1
            self._tree.save(inode)
            return
        node = self._node(inode.ino)
        self._tree.orphan(inode.ino)
        if node is not None:
            node.unlinked = True
        if node is None or node.opens == 0:
            if node is not None:
                self._files.forget_body(node)
            self._tree.drop(inode.ino)

    def _named(self, ino: int) -> bool:
        return any(ino in inode.entries.values() for inode in self._tree.inodes.values())

    def _put_back(self, place: bytes) -> None:
        """Show the source's own object at its own place again."""
        if not place:
            return
        folder_place, _, name = place.rpartition(b"/")
        folder = self.folder_at(folder_place)
        if folder is not None and folder.origin == folder_place:
            if name in folder.entries:
                self._forget_entry(folder, name)
        elif folder is not None:
            if not folder.entries.get(name):
                self._tree.set_entry(folder, name, self._detached(place))
                self.touched.entries.append((folder.ino, name))
        elif folder_place and self.is_gone(folder_place):
            # Its folder was deleted too: an empty one stands in for it, so that what else was
            # in it stays deleted.
            self._put_back_folder(folder_place)
            self._put_back(place)
        self._tree.drop_base(self._projection.id, place)

    def is_gone(self, place: bytes) -> bool:
        """True if the folder at *place* is hidden by a whiteout at or above it."""
        folder = self._top()
        for name in place.split(b"/"):
            if folder is None:
                return False
            number = folder.entries.get(name)
            if number == WHITEOUT:
                return True
            folder = self._tree.inodes.get(number) if number else None
        return False

    def _put_back_folder(self, place: bytes) -> None:
        parent_place, _, name = place.rpartition(b"/")
        if self.is_gone(parent_place) if parent_place else False:
            self._put_back_folder(parent_place)
        parent = self.folder_at(parent_place)
        if parent is None:
            return
        status = self._projection.source.stat(place)
        folder = StagedInode(self._tree.fresh_ino(), self._projection.id, stat.S_IFDIR, place)
        folder.identity = status.identity
        self._tree.save(folder)
        self._tree.set_entry(parent, name, folder.ino)
        self.touched.entries.append((parent.ino, name))
        for child in self._projection.source.list(place):
            self._tree.set_entry(folder, child, WHITEOUT)

    # -- the end ---------------------------------------------------------------------------

    def prune(self) -> None:
        """Drop whiteouts over nothing, folders that hold no change, and bases without a use."""
        top = self._top()
        if top is not None and top.is_folder:
            self._prune(top, b"")
            if top.bare and top.origin == b"":
                self._tree.drop_top(self._projection.id)
                self._drop_folder(top, b"")
        if self._tree.top(self._projection.id) is None:
            for projection, path in list(self._tree.bases):
                if projection == self._projection.id:
                    self._tree.drop_base(projection, path)

    def _prune(self, folder: StagedInode, place: bytes) -> None:
        subfolders = 0
        for name, number in list(folder.entries.items()):
            below = names.join(folder.origin, name) if folder.origin is not None else None
            status = None
            if below is not None and self._projection.source.exists(below):
                status = self._projection.source.stat(below)
            if number == WHITEOUT:
                if status is None:
                    self._tree.drop_entry(folder, name)
                    if below is not None:
                        self._tree.drop_base(self._projection.id, below)
                else:
                    subfolders -= stat.S_ISDIR(status.mode)
                continue
            child = self._tree.inodes[number]
            if child.is_folder:
                child_place = names.join(place, name)
                self._prune(child, child_place)
                home = folder.origin == place and child.origin == child_place
                if child.bare and home:
                    self._tree.drop_entry(folder, name)
                    self._drop_folder(child, child_place)
                    continue
            subfolders += child.is_folder - (status is not None and stat.S_ISDIR(status.mode))
        if (folder.nlink or 0) != subfolders:
            folder.nlink = subfolders
            self._tree.save(folder)

    def _drop_folder(self, folder: StagedInode, place: bytes) -> None:
        node = self._node(folder.ino)
        identity = folder.identity
        self._tree.drop(folder.ino)
        self._tree.drop_base(self._projection.id, place)
        self.touched.numbers.add(folder.ino)
        if node is not None:
            node.origin = place
            self._union.nodes.show_identity(node, identity)

    def reset(self) -> None:
        """Forget the whole stage of the projection."""
        for inode in [i for i in self._tree.inodes.values() if i.projection == self._projection.id]:
            if not inode.persistent:
                continue
            for name in list(inode.entries):
                self.touched.entries.append((inode.ino, name))
            self._reset_inode(inode)
        self._tree.drop_top(self._projection.id)
        self.touched.entries.append((1, self._projection.name))
        for projection, path in list(self._tree.bases):
            if projection == self._projection.id:
                self._tree.drop_base(projection, path)

    def _reset_inode(self, inode: StagedInode) -> None:
        node = self._node(inode.ino)
        self.touched.numbers.add(inode.ino)
        if node is None:
            self._tree.drop(inode.ino)
            return
        self._files.forget_body(node)
        self._files.drop_content(node)
        status = None
        if inode.origin is not None and self._projection.source.exists(inode.origin):
            status = self._projection.source.stat(inode.origin)
        self._tree.drop(inode.ino)
        if status is not None and status.kind == inode.kind:
            node.origin = inode.origin
            self._union.nodes.show_identity(node, status.identity)
        else:
            node.unlinked = True
