"""After a commit or discard: makes the stage forget what equals the source again.

Every step keeps what the mount shows, but for what a discard takes away. All methods but the
constructor are called inside a transaction of the caller's, on the core's task. Nodes that the
kernel holds keep their inode numbers; `touched` collects what it must be told about.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vfs import names
from vfs.files import Files
from vfs.nodes import Node
from vfs.projection import Projection
from vfs.stage.changes import Change, Kind
from vfs.stage.tree import WHITEOUT, Base, StagedInode
from vfs.statx import Stat
from vfs.union import Union, fingerprint
from vfs.virtual import ROOT_INO


@dataclass(slots=True)
class Touched:
    """Names (parent's number, name) and inode numbers whose cached state is void."""

    entries: list[tuple[int, bytes]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A staged inode's attributes when a commit read them."""

    mode: int | None
    uid: int | None
    gid: int | None
    xattrs: tuple[tuple[bytes, bytes | None], ...]
    writes: int

    @classmethod
    def of(cls, inode: StagedInode) -> "Snapshot":
        """The attributes as they are now."""
        return cls(
            inode.mode, inode.uid, inode.gid, tuple(sorted(inode.xattrs.items())), inode.writes
        )


class Settler:
    """Settles one projection's stage."""

    def __init__(self, union: Union, files: Files, projection: Projection) -> None:
        self._union = union
        self._tree = union.tree
        self._files = files
        self._projection = projection
        self._source = projection.source
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

    def shown_file(self, place: bytes, most: int) -> bytes | None:
        """The first bytes of the file that the mount shows at *place*, a source's own ones
        unmasked; None where there is none that can be read."""
        folder, origin = self._top(), b""
        inode: StagedInode | None = None
        for name in place.split(b"/"):
            if folder is None:
                origin, inode = names.join(origin, name), None
                continue
            number = folder.entries.get(name)
            if number is None and folder.origin is not None:
                origin = names.join(folder.origin, name)
                folder = None
            elif not number:
                return None
            else:
                inode = self._tree.inodes[number]
                folder = inode if inode.is_folder else None
                origin = inode.origin or b""
        try:
            if inode is not None and inode.body is not None and not inode.is_folder:
                fd = self._tree.bodies.open(inode.body)
            else:
                fd, _status = self._source.open_file(origin)
        except OSError:
            return None
        try:
            return os.pread(fd, most, 0)
        finally:
            os.close(fd)

    def shows(self, place: bytes, ino: int) -> bool:
        """True if a staged entry at *place* names this inode."""
        folder_place, _, name = place.rpartition(b"/")
        folder = self.folder_at(folder_place) if place else None
        return folder is not None and folder.entries.get(name) == ino

    def is_gone(self, place: bytes) -> bool:
        """True if the mount shows no folder at *place*: nothing, or something else."""
        folder = self._top()
        at = b""
        for name in place.split(b"/"):
            if folder is None:
                return False
            number = folder.entries.get(name)
            if number is None:
                return folder.origin != at
            child = self._tree.inodes.get(number)
            if child is None or not child.is_folder:
                return True
            folder, at = child, names.join(at, name)
        return False

    def _folders(self) -> Iterator[tuple[StagedInode, bytes]]:
        """Every staged folder that has a place in the mount, with it; those above come first."""
        top = self._top()
        stack = [] if top is None or not top.is_folder else [(top, b"")]
        while stack:
            folder, place = stack.pop()
            yield folder, place
            for name, number in folder.entries.items():
                child = self._tree.inodes.get(number) if number else None
                if child is not None and child.is_folder:
                    stack.append((child, names.join(place, name)))

    def _stat(self, path: bytes) -> Stat | None:
        try:
            return self._source.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _list(self, path: bytes) -> list[bytes]:
        """What the source shows in a folder."""
        try:
            found = self._source.list(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [
            name
            for name in found
            if not self._union.unseen(self._projection, names.join(path, name))
        ]

    # -- rows and nodes --------------------------------------------------------------------

    def _node(self, ino: int) -> Node | None:
        return self._union.nodes.by_ino.get(ino)

    def _touch(self, folder: StagedInode, name: bytes) -> None:
        """The kernel must look this name up anew; it knows a room as the mount's root."""
        number = ROOT_INO if self._projection.is_room else folder.ino
        self.touched.entries.append((number, name))

    def _set_entry(self, folder: StagedInode, name: bytes, ino: int) -> None:
        self._tree.set_entry(folder, name, ino)
        self._touch(folder, name)

    def _drop_entry(self, folder: StagedInode, name: bytes) -> None:
        self._tree.drop_entry(folder, name)
        self._touch(folder, name)

    def _point(self, node: Node, origin: bytes | None, identity: tuple[int, int] | None) -> None:
        """Let a node stand for another source object; with an *identity* it is nothing but that
        and may be met by it."""
        nodes = self._union.nodes
        before = node.origin, node.identity, nodes.hide_identity(node)
        node.origin = origin
        other = None
        if identity is not None:
            other = nodes.find(self._projection, identity)
            nodes.show_identity(node, identity)

        def undo() -> None:
            nodes.hide_identity(node)
            if other is not None:
                nodes.show_identity(other, other.identity)
            node.origin, node.identity, shown = before
            if shown:
                nodes.show_identity(node, node.identity)

        self._tree.on_failure(undo)

    def _unlink_node(self, node: Node) -> None:
        nodes, before = self._union.nodes, node.unlinked
        shown = nodes.hide_identity(node)
        node.unlinked = True

        def undo() -> None:
            node.unlinked = before
            if shown:
                nodes.show_identity(node, node.identity)

        self._tree.on_failure(undo)

    def _release(self, inode: StagedInode, status: Stat | None, origin: bytes | None) -> None:
        """Drop a row; a node of it that the kernel holds becomes the source object of *status* at
        *origin*, or loses its last name."""
        node = self._node(inode.ino)
        self.touched.numbers.add(inode.ino)
        if node is not None and status is not None and status.kind == inode.kind:
            self._files.forget_body(node)
            self._files.drop_content(node)
            self._tree.drop(inode.ino)
            self._point(node, origin, status.identity)
            return
        if node is None or node.opens == 0:
            if node is not None:
                self._files.forget_body(node)
                self._unlink_node(node)
            self._tree.drop(inode.ino)
            return
        # Open: it lives on, nameless, as after unlink(2).
        self._tree.orphan(inode.ino)
        self._unlink_node(node)

    # -- before anything is written: folders that the agent moved --------------------------

    def spell_out(self, changes: Sequence[Change]) -> bool:
        """Give everything in moved folders that *changes* have to do with an entry of its own.

        A moved folder shows its source folder from another place, which is about to change.
        True if there were any: then find the changes again.
        """
        places = {change.place for change in changes}
        places.update(change.old_place for change in changes if change.old_place is not None)
        above = {place[:at] for place in places for at in range(len(place) + 1)
                 if at == len(place) or place[at : at + 1] == b"/"}  # fmt: skip
        found = False
        for folder, place in list(self._folders()):
            if folder.origin is None or folder.origin == place:
                continue
            if folder.origin in above or place in above:
                self._spell_out(folder)
                found = True
        return found

    def _spell_out(self, top: StagedInode) -> None:
        left = [top]  # a loop, not a recursion: trees may be deeper than Python's stack
        while left:
            folder = left.pop()
            origin = folder.origin
            if origin is None:
                continue
            staged = dict(folder.entries)
            for name, number in staged.items():
                if number == WHITEOUT:
                    self._tree.drop_entry(folder, name)
                elif self._tree.inodes[number].is_folder:
                    child = self._tree.inodes[number]
                    if child.origin == names.join(origin, name):
                        left.append(child)
            for name in self._list(origin):
                if name not in staged:
                    number = self._detached(names.join(origin, name))
                    self._tree.set_entry(folder, name, number)
                    if self._tree.inodes[number].is_folder:
                        left.append(self._tree.inodes[number])
            self._adopt(folder, origin)

    def _adopt(self, folder: StagedInode, origin: bytes) -> None:
        """Make a folder the agent's own, with what its source gave it until now."""
        status = self._stat(origin)
        self._tree.linked.pop((folder.projection, *folder.identity), None)
        folder.origin, folder.identity = None, (0, 0)
        if status is not None:
            # With its origin goes what tells that the agent had to do with the old place.
            self._union.keep_base(self._projection, origin, status)
            folder.mode = stat.S_IMODE(status.mode) if folder.mode is None else folder.mode
            folder.uid = status.uid if folder.uid is None else folder.uid
            folder.gid = status.gid if folder.gid is None else folder.gid
            folder.atime_ns, folder.mtime_ns = status.atime_ns, folder.mtime_ns or status.mtime_ns
            folder.ctime_ns = folder.ctime_ns or status.ctime_ns
        folder.mode = 0o755 if folder.mode is None else folder.mode
        folder.nlink = sum(
            1 for n in folder.entries.values() if n and self._tree.inodes[n].is_folder
        )
        self._tree.save(folder)
        node = self._node(folder.ino)
        if node is not None:
            self._point(node, None, None)

    def _detached(self, path: bytes) -> int:
        """A staged inode for a source object that is shown at another place than its own."""
        status = self._source.stat(path)
        # What becomes of it at its new place, or of the name that an inode of several links is
        # shown by, tells nothing of its old place any more.
        self._union.keep_base(self._projection, path, status)
        linked = self._tree.linked.get((self._projection.id, *status.identity))
        if linked is not None and linked in self._tree.inodes:
            return linked
        known = self._union.nodes.find(self._projection, status.identity)
        number = known.ino if known is not None else self._tree.fresh_ino()
        inode = StagedInode(number, self._projection.id, status.kind, path)
        if inode.is_folder:
            inode.identity = status.identity
        else:
            inode.identity = status.identity if status.nlink > 1 else (0, 0)
            inode.mode = stat.S_IMODE(status.mode)
            inode.uid, inode.gid, inode.nlink = status.uid, status.gid, status.nlink
            inode.atime_ns, inode.mtime_ns = status.atime_ns, status.mtime_ns
            inode.ctime_ns = status.ctime_ns
        self._tree.save(inode)
        if known is not None:
            self._point(known, path, None)
        return number

    # -- commits ---------------------------------------------------------------------------

    def same_bases(self) -> list[bytes]:
        """Places of files with several links whose base is what the source still has: landing
        another of their names will give them another ctime."""
        found = []
        for projection, path in self._tree.bases:
            if projection == self._projection.id:
                status = self._stat(path)
                base = self._tree.bases[projection, path].fingerprint
                if status is not None and status.nlink > 1:
                    now = fingerprint(status)
                    if now.same_version(base):
                        found.append(path)
        return found

    def renew_bases(self, places: Sequence[bytes]) -> None:
        """The bases of *places* (see `same_bases`) are of the version that is there now."""
        for path in places:
            base = self._tree.bases.get((self._projection.id, path))
            status = self._stat(path)
            if base is None or status is None:
                continue
            old = base.fingerprint
            if (old.dev, old.ino, old.size, old.mtime_ns) == (
                status.dev, status.ino, status.size, status.mtime_ns,
            ):  # fmt: skip
                renewed = Base(fingerprint(status, old.digest), base.body)
                self._tree.put_base(self._projection.id, path, renewed)

    def landed(
        self, change: Change, before: Snapshot | None, rebase: tuple[bytes, int] | None = None
    ) -> None:
        """The new side of a change stands at its place in the source.

        `before` is what the commit read; what the agent changed since stays staged. *rebase*, if
        the agent wrote to the file meanwhile: HMAC and masked body of what landed.
        """
        number = self._projection.id
        if change.old_place is not None:
            self._tree.drop_base(number, change.old_place)
        if change.item is None:
            return
        inode = self._tree.inodes.get(change.item.ino or 0)
        status = self._stat(change.place)
        if status is None:
            return  # the user was quick to remove it
        if change.is_folder:
            if change.kind is Kind.MODE and inode is not None:
                self._take_attributes(inode, status)
                self._forget_xattrs(inode, before)
            return
        if rebase is None:
            self._tree.drop_base(number, change.place)
        self._cover(change.place, status)
        if inode is None or not inode.persistent:
            return
        if rebase is not None:
            digest, body = rebase
            self._tree.put_base(number, change.place, Base(fingerprint(status, digest), body))
        self._become(inode, change.place, status, before, keep_body=rebase is not None)

    def _take_attributes(self, inode: StagedInode, status: Stat) -> None:
        """Give a row the mode and owner of the source's object at its place."""
        inode.mode = inode.uid = inode.gid = None
        if inode.body is not None or inode.origin is None:
            # Nothing of the source shows through: it needs values of its own.
            inode.mode, inode.uid, inode.gid = stat.S_IMODE(status.mode), status.uid, status.gid
        self._tree.save(inode)
        self.touched.numbers.add(inode.ino)

    def _forget_xattrs(self, inode: StagedInode, before: Snapshot | None) -> None:
        for name, value in before.xattrs if before is not None else ():
            if name in inode.xattrs and inode.xattrs[name] == value:
                self._tree.forget_xattr(inode, name)

    def _become(
        self,
        inode: StagedInode,
        place: bytes,
        status: Stat,
        before: Snapshot | None,
        *,
        keep_body: bool,
    ) -> None:
        """The row is of the source object at *place* now, and differs in nothing that landed."""
        self._tree.linked.pop((inode.projection, *inode.identity), None)
        known = self._stat(inode.origin) if inode.origin is not None else None
        if known is not None and known.identity == status.identity:
            assert inode.origin is not None
            place = inode.origin  # it got another name there
        inode.origin = place
        inode.identity = status.identity if status.nlink > 1 else (0, 0)
        node = self._node(inode.ino)
        if before is not None and not keep_body:
            inode.mode = None if inode.mode == before.mode else inode.mode
            inode.uid = None if inode.uid == before.uid else inode.uid
            inode.gid = None if inode.gid == before.gid else inode.gid
            self._forget_xattrs(inode, before)
        if not keep_body:
            inode.atime_ns = inode.mtime_ns = inode.ctime_ns = inode.nlink = None
            inode.target = None
            if inode.body is not None:
                self._tree.discard_body(inode.body)
                inode.body = None
        self._tree.save(inode)
        self.touched.numbers.add(inode.ino)
        if node is not None:
            if not keep_body:
                self._files.forget_body(node)
            self._files.drop_content(node)
            self._point(node, place, None)

    def _cover(self, place: bytes, status: Stat) -> None:
        """Keep hidden what the agent moved away or removed while it landed."""
        if not place:
            return
        folder_place, _, name = place.rpartition(b"/")
        folder = self.folder_at(folder_place)
        if folder is None or folder.origin != folder_place:
            folder = self._tree.folder_from(self._projection.id, folder_place)
        if folder is None or name in folder.entries:
            return
        self._union.keep_base(self._projection, place, status)
        self._set_entry(folder, name, WHITEOUT)

    # -- discards --------------------------------------------------------------------------

    def discard(self, changes: Sequence[Change]) -> None:
        """Let the source's side of these changes show again, and nothing else; `spell_out` and
        `closure` have been seen to. Call `prune` afterwards."""
        for change in changes:
            if change.kind is Kind.MODE:
                self._reset_attributes(change)
            elif change.item is not None:
                self._take_away(change)
        for change in changes:
            if change.ends is not None:
                self._put_back(change)
                self._tree.drop_base(self._projection.id, change.ends)

    def rewrite(self, change: Change, data: bytes, writes: int) -> bool:
        """Give a file that the agent wrote another content; False for one that it did not write,
        or has written to since its counter was *writes*."""
        item = change.item
        inode = self._tree.inodes.get(item.ino or 0) if item is not None else None
        if inode is None or inode.body is None or inode.writes != writes:
            return False
        body, fd = self._tree.bodies.create()
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        self._tree.discard_body(inode.body)
        inode.body = body
        inode.writes += 1
        self._tree.save(inode)
        self._tree.note_size(body)
        node = self._node(inode.ino)
        if node is not None:
            self._files.forget_body(node)
        self.touched.numbers.add(inode.ino)
        return True

    def _reset_attributes(self, change: Change) -> None:
        inode = self._tree.inodes.get(change.item.ino or 0) if change.item is not None else None
        if inode is None:
            return
        status = self._stat(change.place)
        for name in list(inode.xattrs):
            self._tree.forget_xattr(inode, name)
        if status is not None:
            self._take_attributes(inode, status)
        self._tree.drop_base(self._projection.id, change.place)

    def _take_away(self, change: Change) -> None:
        """Remove the new side from its place."""
        assert change.item is not None
        inode = self._tree.inodes.get(change.item.ino or 0)
        home = self._stat(change.old_place) if change.old_place is not None else None
        back = home is not None and inode is not None and inode.origin == change.old_place
        if not change.place:
            self._tree.drop_top(self._projection.id)
            self.touched.entries.append((ROOT_INO, self._projection.name))
        else:
            folder_place, _, name = change.place.rpartition(b"/")
            folder = self.folder_at(folder_place)
            if folder is None or folder.entries.get(name) != change.item.ino:
                return
            self._hide(folder, folder_place, name, taken=change.taken)
            if inode is not None and inode.is_folder:
                folder.nlink = (folder.nlink or 0) - 1
            self._tree.save(folder)
            self._drop_hollow(folder, folder_place)
        if inode is None:
            return
        if not inode.is_folder and (inode.nlink or 1) > 1 and self._tree.is_named(inode.ino):
            inode.nlink = (inode.nlink or 1) - 1
            self._tree.save(inode)
            return
        self._release(inode, home if back else None, change.old_place)

    def _hide(self, folder: StagedInode, place: bytes, name: bytes, *, taken: bool) -> None:
        """Take a name out of a folder; what its source has there stays hidden unless the agent
        never saw it."""
        shows = folder.origin is not None and self._stat(names.join(folder.origin, name))
        if shows and not taken:
            self._set_entry(folder, name, WHITEOUT)
        else:
            self._drop_entry(folder, name)

    def _drop_hollow(self, folder: StagedInode, place: bytes) -> None:
        """A folder of the agent's whose last file was discarded goes with it."""
        while place and folder.origin is None and not folder.entries:
            parent_place, _, name = place.rpartition(b"/")
            parent = self.folder_at(parent_place)
            if parent is None or parent.entries.get(name) != folder.ino:
                return
            self._hide(parent, parent_place, name, taken=False)
            parent.nlink = (parent.nlink or 0) - 1
            self._tree.save(parent)
            self._release(folder, None, None)
            folder, place = parent, parent_place

    def _put_back(self, change: Change) -> None:
        """Show the source's own object at its own place again."""
        place = change.ends
        if not place:
            return
        folder_place, _, name = place.rpartition(b"/")
        if self._stat(place) is None or not self._open_way(folder_place):
            return
        folder = self.folder_at(folder_place)
        if folder is not None and folder.entries.get(name) == WHITEOUT:
            self._drop_entry(folder, name)
            self._tree.save(folder)

    def _open_way(self, place: bytes) -> bool:
        """Have the source's folders down to *place* show in the mount, with nothing of theirs that
        does not show now. False if something else of the agent's stands there."""
        folder = self._top()
        at = b""
        for name in place.split(b"/") if place else ():
            if folder is None:
                return True  # nothing is staged from here on
            at = names.join(at, name)
            number = folder.entries.get(name)
            if number is None:
                if folder.origin == at.rpartition(b"/")[0]:
                    return True  # shows through
                number = WHITEOUT
            if number == WHITEOUT:
                folder = self._stand_in(folder, name, at)
            else:
                folder = self._tree.inodes[number]
                if not folder.is_folder:
                    return False
                if folder.origin != at:
                    self.rehome(folder, at)
            if folder is None:
                return False
        if folder is not None and not place and folder.origin is None:
            self.rehome(folder, b"")
        return True

    def _stand_in(self, parent: StagedInode, name: bytes, place: bytes) -> StagedInode | None:
        """The source's folder at *place*, empty."""
        status = self._stat(place)
        if status is None or not stat.S_ISDIR(status.mode):
            return None
        folder = StagedInode(self._tree.fresh_ino(), self._projection.id, stat.S_IFDIR, place)
        folder.identity = status.identity
        self._tree.save(folder)
        self._set_entry(parent, name, folder.ino)
        for child in self._list(place):
            self._tree.set_entry(folder, child, WHITEOUT)
        return folder

    # -- the end ---------------------------------------------------------------------------

    def rehome(self, folder: StagedInode, place: bytes) -> None:
        """Let the source's folder at *place* show through the staged one there, but for what was
        there before the agent put another folder in its place."""
        status = self._stat(place)
        if status is None or not stat.S_ISDIR(status.mode):
            return
        if folder.origin is not None:
            self._spell_out(folder)
        elsewhere = self._shown_elsewhere()
        for name in self._list(place):
            path = names.join(place, name)
            if name in folder.entries:
                continue
            if (self._projection.id, path) in self._tree.bases or self._covers(elsewhere, path):
                self._set_entry(folder, name, WHITEOUT)
            else:
                self._touch(folder, name)
        folder.origin, folder.identity = place, status.identity
        if folder.mode == stat.S_IMODE(status.mode):
            folder.mode = None
        elif folder.mode is not None:
            self._union.keep_base(self._projection, place, status)
        folder.uid = folder.gid = None
        self._tree.save(folder)
        node = self._node(folder.ino)
        if node is not None:
            self._point(node, place, None)
            node.identity = status.identity
        self.touched.numbers.add(folder.ino)

    def _shown_elsewhere(self) -> set[bytes]:
        """Source paths that staged objects come from."""
        return {
            inode.origin
            for inode in self._tree.inodes.values()
            if inode.projection == self._projection.id and inode.origin is not None
        }

    @staticmethod
    def _covers(origins: set[bytes], path: bytes) -> bool:
        at = len(path)
        while at > 0:
            if path[:at] in origins:
                return True
            at = path.rfind(b"/", 0, at)
        return False

    def prune(self, left: Sequence[Change]) -> None:
        """Drop all that makes no difference: *left* are the changes that do, as they are now."""
        _Pruning(self, left).run()

    def reset(self) -> None:
        """Forget the whole stage of the projection."""
        mine = [
            inode
            for inode in self._tree.inodes.values()
            if inode.projection == self._projection.id and inode.persistent
        ]
        for inode in mine:
            for name in inode.entries:
                self._touch(inode, name)
        self._tree.drop_top(self._projection.id)
        self.touched.entries.append((ROOT_INO, self._projection.name))
        met: set[tuple[int, int]] = set()
        # Real objects first: of several that come from one place, one can be it again.
        for inode in sorted(mine, key=lambda one: one.ino):
            status = self._stat(inode.origin) if inode.origin is not None else None
            if status is not None and status.identity in met:
                status = None
            if status is not None:
                met.add(status.identity)
            self._release(inode, status, inode.origin)
        for projection, path in list(self._tree.bases):
            if projection == self._projection.id:
                self._tree.drop_base(projection, path)


class _Pruning:
    """One pass over the staged tree of a projection."""

    def __init__(self, settler: Settler, left: Sequence[Change]) -> None:
        self._settler = settler
        self._tree = settler._tree
        self._projection = settler._projection
        self._new = {change.place for change in left if change.item is not None}
        self._old = {change.old_place for change in left if change.old_place is not None}
        self._kept = self._new | self._old
        self._kept.update(
            change.item.origin for change in left if change.item and change.item.origin is not None
        )
        self._above = {place[:at] for place in self._kept for at in range(len(place))
                       if place[at : at + 1] == b"/"}  # fmt: skip
        if self._kept:
            self._above.add(b"")
        self._names: Counter[int] = Counter()
        self._idle: dict[int, list[tuple[StagedInode, bytes]]] = {}

    def run(self) -> None:
        settler = self._settler
        for inode in self._tree.inodes.values():
            if inode.projection == self._projection.id:
                self._names.update(inode.entries.values())
        top = settler._top()
        if top is not None and top.is_folder:
            self._folder(top, b"")
            self._drop_idle()
            self._drop_bare(top)
        elif top is not None and b"" not in self._new:
            status = settler._stat(b"")
            self._tree.drop_top(self._projection.id)
            settler.touched.entries.append((ROOT_INO, self._projection.name))
            settler._release(top, status, b"")
        self._drop_unnamed()
        self._drop_bases()

    def _changed_within(self, path: bytes) -> bool:
        return path in self._kept or path in self._above

    def _folder(self, top: StagedInode, top_place: bytes) -> None:
        stack = [(top, top_place)]
        while stack:
            folder, place = stack.pop()
            moved = place and folder.origin != place and self._parent_home(place)
            # A folder that was moved stays as it is while that makes a difference.
            if moved and (folder.origin is None or not self._changed_within(place)):
                self._settler.rehome(folder, place)
            subfolders = 0
            for name, number in list(folder.entries.items()):
                below = names.join(folder.origin, name) if folder.origin is not None else None
                status = self._settler._stat(below) if below is not None else None
                if number == WHITEOUT:
                    if status is None or not self._changed_within(below or b""):
                        self._settler._drop_entry(folder, name)
                    else:
                        subfolders -= stat.S_ISDIR(status.mode)
                    continue
                child = self._tree.inodes[number]
                child_place = names.join(place, name)
                if child.is_folder:
                    stack.append((child, child_place))
                elif self._is_idle(child, child_place, below, status):
                    self._idle.setdefault(number, []).append((folder, name))
                subfolders += child.is_folder - (status is not None and stat.S_ISDIR(status.mode))
            if (folder.nlink or 0) != subfolders:
                folder.nlink = subfolders
                self._tree.save(folder)

    def _parent_home(self, place: bytes) -> bool:
        parent_place = place.rpartition(b"/")[0]
        parent = self._settler.folder_at(parent_place)
        return parent is not None and parent.origin == parent_place

    def _is_idle(
        self, inode: StagedInode, place: bytes, below: bytes | None, status: Stat | None
    ) -> bool:
        """True if the entry shows nothing that the source would not show in its place."""
        if below is None or status is None:
            return not self._alive(inode)
        if place == below:
            return place not in self._new
        return (
            inode.origin == below
            and inode.body is None
            and inode.target is None
            and not inode.xattrs
            and inode.mode in (None, stat.S_IMODE(status.mode))
            and inode.uid in (None, status.uid)
            and inode.gid in (None, status.gid)
        )

    def _alive(self, inode: StagedInode) -> bool:
        return self._settler._union.alive(self._projection, inode.ino)

    def _drop_idle(self) -> None:
        for number, entries in self._idle.items():
            inode = self._tree.inodes[number]
            if len(entries) < self._names[number]:
                continue  # it has a name besides, for which it must be kept
            status, origin = None, None
            for folder, name in entries:
                self._settler._drop_entry(folder, name)
                if folder.origin is not None and status is None:
                    origin = names.join(folder.origin, name)
                    status = self._settler._stat(origin)
            self._settler._release(inode, status, origin)

    def _drop_bare(self, top: StagedInode) -> None:
        """Drop folders that hold no change, the deepest first."""
        folders = list(self._settler._folders())
        for folder, place in reversed(folders):
            if folder.origin == place and place not in self._new and folder.mode is not None:
                folder.mode = folder.uid = folder.gid = None
                self._tree.save(folder)
            if not folder.bare or folder.origin != place:
                continue
            status = self._settler._stat(place)
            if folder is top:
                self._tree.drop_top(self._projection.id)
            else:
                parent_place, _, name = place.rpartition(b"/")
                parent = self._settler.folder_at(parent_place)
                if parent is None or parent.origin != parent_place:
                    continue
                self._settler._drop_entry(parent, name)
            self._settler._release(folder, status, place)

    def _drop_unnamed(self) -> None:
        """Rows that only tell of another name of a source file, which is settled."""
        if not self._tree.linked:
            return
        tops = {ino for top in self._tree.tops.values() for ino in top.values()}
        for ino in list(self._tree.linked.values()):
            inode = self._tree.inodes.get(ino)
            if inode is None or inode.projection != self._projection.id:
                continue
            if inode.persistent and not inode.is_folder and ino not in tops:
                if self._tree.is_named(ino):
                    continue
                origin = inode.origin or b""
                self._settler._release(inode, self._settler._stat(origin), origin)

    def _drop_bases(self) -> None:
        for projection, path in list(self._tree.bases):
            if projection == self._projection.id and not self._changed_within(path):
                self._tree.drop_base(projection, path)
