"""What the stage amounts to: the differences between each source and what its mount shows.

Only staged folders are compared, so the cost follows what was changed; a moved or replaced
folder is compared in full. Changes name files, as git does; a folder is named where it is empty.
A file moved by the agent is known to be one (its origin tells), never guessed by similarity.

What the user put into a source meanwhile is never taken for something that the agent deleted or
replaced: the agent's part in a source place is known by its base (see `stage.tree`), or by the
object's showing elsewhere in the mount.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vfs import names
from vfs.attributes import Fingerprint
from vfs.projection import Projection
from vfs.stage.tree import WHITEOUT, StagedInode
from vfs.statx import Stat
from vfs.union import Union, fingerprint


class Kind(StrEnum):
    """What happened to a place; MODE is of permission bits, owner or extended attributes alone,
    SYMLINK of a link that was added or changed."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    RENAMED = "renamed"
    MODE = "mode"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Item:
    """A thing on the new side: a staged inode, or a source object that moved with its folder.

    `ino` is None for the latter; `origin` None for what the agent made; `mode` has type bits.
    """

    kind: int
    ino: int | None
    origin: bytes | None
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. Paths are within the projection.

    `place` is where the new side stands (of a deletion: where the old one stood), `old_place`
    where the old side stands in the source: None for an addition, another place for a rename.
    `taken`: the source has something at `place` that the agent never saw.
    """

    projection: Projection
    kind: Kind
    place: bytes
    old_place: bytes | None
    item: Item | None
    old: Fingerprint | None
    taken: bool = False

    @property
    def path(self) -> bytes:
        """Path relative to the mount's root."""
        return self.projection.mount_path(self.place)

    @property
    def from_path(self) -> bytes | None:
        """Where a renamed file was, relative to the mount's root."""
        if self.kind is not Kind.RENAMED or self.old_place is None:
            return None
        return self.projection.mount_path(self.old_place)

    @property
    def is_folder(self) -> bool:
        """True where an (empty) folder came, went or changed its mode."""
        mode = self.item.mode if self.item is not None else self.old.mode if self.old else 0
        return stat.S_ISDIR(mode)

    @property
    def ends(self) -> bytes | None:
        """The place of the source whose content is gone once this change has landed."""
        return None if self.kind is Kind.MODE else self.old_place


@dataclass(slots=True)
class _Found:
    changes: list[Change] = field(default_factory=list)
    gone: dict[bytes, Stat] = field(default_factory=dict)
    new: dict[bytes, Item] = field(default_factory=dict)
    pairs: list[tuple[Stat, bytes, Item]] = field(default_factory=list)
    over: dict[bytes, Stat] = field(default_factory=dict)
    elsewhere: set[bytes] = field(default_factory=set)


_Steps = Iterator["_Steps"]
"""A walk that yields the walks below it, each to be done before it goes on."""


def _walk(steps: _Steps) -> None:
    """Do a walk. Trees may be deeper than Python's stack."""
    under_way = [steps]
    while under_way:
        below = next(under_way[-1], None)
        if below is None:
            under_way.pop()
        else:
            under_way.append(below)


class ChangeFinder:
    """Finds the changes of one workspace; runs on the core's task."""

    def __init__(self, union: Union) -> None:
        self._union = union
        self._tree = union.tree
        self._same: dict[tuple[int, int, int], bool] = {}

    def find(self, projection: Projection) -> list[Change]:
        """Every change of a projection, sorted by path. Raises OSError as its source does."""
        top = self._tree.top(projection.id)
        if top is None:
            return []
        found = _Found()
        old = self._source_stat(projection, b"")
        _walk(self._pair(projection, old, b"", self._item(projection, top), b"", found))
        for status, path, item in found.pairs:
            known = item.origin == path or self._seen(projection, path, found)
            if known or self._linked(projection, path, item):
                self._files(projection, status, path, item, found)
            else:
                found.new[path] = item
                found.over[path] = status
        for path in list(found.gone):
            if not self._seen(projection, path, found):
                del found.gone[path]
        for place, item in found.new.items():
            change = self._addition(projection, place, item, found)
            taken = place in found.over and not self._seen(projection, place, found)
            found.changes.append(replace(change, taken=True) if taken else change)
        for place, status in found.gone.items():
            base = self._base(projection, place, status)
            found.changes.append(Change(projection, Kind.DELETED, place, place, None, base))
        return sorted(found.changes, key=lambda change: (change.place, change.kind))

    def _seen(self, projection: Projection, path: bytes, found: _Found) -> bool:
        """True if the agent had to do with what the source has at *path*."""
        return (projection.id, path) in self._tree.bases or path in found.elsewhere

    def _addition(self, projection: Projection, place: bytes, item: Item, found: _Found) -> Change:
        status = found.gone.get(item.origin) if item.origin is not None else None
        if status is not None and stat.S_IFMT(status.mode) == item.kind:
            assert item.origin is not None
            del found.gone[item.origin]
            base = self._base(projection, item.origin, status)
            return Change(projection, Kind.RENAMED, place, item.origin, item, base)
        kind = Kind.SYMLINK if stat.S_ISLNK(item.kind) else Kind.ADDED
        return Change(projection, kind, place, None, item, None)

    def _base(self, projection: Projection, path: bytes, status: Stat) -> Fingerprint:
        base = self._tree.bases.get((projection.id, path))
        return base.fingerprint if base is not None else fingerprint(status)

    # -- the two sides ---------------------------------------------------------------------

    def _source_stat(self, projection: Projection, path: bytes) -> Stat | None:
        try:
            status = projection.source.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if self._union.unseen(projection, path) else status

    def _item(self, projection: Projection, ino: int) -> Item:
        inode = self._tree.inodes[ino]
        mode, uid, gid = inode.mode, inode.uid, inode.gid
        if inode.origin is not None and None in (mode, uid, gid):
            try:
                status = projection.source.stat(inode.origin)
            except (FileNotFoundError, NotADirectoryError):
                pass
            else:
                mode = stat.S_IMODE(status.mode) if mode is None else mode
                uid = status.uid if uid is None else uid
                gid = status.gid if gid is None else gid
        if mode is None:
            mode = 0o755  # a folder that the user removed from the source
        return Item(inode.kind, ino, inode.origin, inode.kind | mode, uid or 0, gid or 0)

    def _staged(self, item: Item | None) -> StagedInode | None:
        if item is None or item.ino is None:
            return None
        return self._tree.inodes.get(item.ino)

    def _child(self, projection: Projection, folder: Item | None, name: bytes) -> Item | None:
        if folder is None:
            return None
        inode = self._staged(folder)
        ino = inode.entries.get(name) if inode is not None else None
        if ino == WHITEOUT:
            return None
        path = None if folder.origin is None else names.join(folder.origin, name)
        if ino is not None and (path is None or not self._union.gives_way(projection, path, ino)):
            return self._item(projection, ino) if self._union.alive(projection, ino) else None
        if path is None:
            return None
        status = self._source_stat(projection, path)
        if status is None:
            return None
        linked = self._tree.linked.get((projection.id, *status.identity))
        if linked is not None:
            return self._item(projection, linked)  # another name of a staged file
        return Item(status.kind, None, path, status.mode, status.uid, status.gid)

    def _names(
        self, projection: Projection, old_path: bytes | None, folder: Item | None
    ) -> Iterator[bytes]:
        if projection.is_room:
            yield projection.granted  # what the agent keeps beside it is nobody's business
            return
        inode = self._staged(folder)
        staged = set(inode.entries) if inode is not None else set()
        if folder is not None and folder.origin is not None and folder.origin == old_path:
            yield from sorted(staged)  # what is not staged is the same on both sides
            return
        for path in {old_path, folder.origin if folder is not None else None}:
            if path is not None:
                try:
                    staged.update(projection.source.list(path))
                except (FileNotFoundError, NotADirectoryError):
                    continue
        yield from sorted(staged)

    # -- comparing -------------------------------------------------------------------------

    def _pair(
        self,
        projection: Projection,
        old: Stat | None,
        old_path: bytes | None,
        new: Item | None,
        place: bytes,
        found: _Found,
    ) -> _Steps:
        if new is not None and new.origin is not None and new.origin != place:
            found.elsewhere.add(new.origin)
        old_folder = old is not None and stat.S_ISDIR(old.mode)
        new_folder = new is not None and stat.S_ISDIR(new.kind)
        if new is not None and not new_folder and (old is None or old_folder):
            known = self._tree.bases.get((projection.id, place)) if old_path is not None else None
            if known is not None and not stat.S_ISDIR(known.fingerprint.mode):
                # The user deleted what the agent had changed, or put a folder there: still a
                # change of that file, and a conflict for whoever commits it.
                change = Change(projection, Kind.MODIFIED, place, place, new, known.fingerprint)
                found.changes.append(change)
                return
        if old_folder or new_folder:
            if old is not None and not old_folder:
                found.gone[place] = old
            if new is not None and not new_folder:
                found.new[place] = new
                if old is not None:
                    found.over[place] = old
            yield self._folders(
                projection,
                old if old_folder else None,
                old_path if old_folder else None,
                new if new_folder else None,
                place,
                found,
            )
        elif old is not None and new is not None:
            found.pairs.append((old, place, new))
        elif new is not None:
            found.new[place] = new
        elif old is not None:
            found.gone[place] = old

    def _folders(
        self,
        projection: Projection,
        old: Stat | None,
        old_path: bytes | None,
        new: Item | None,
        place: bytes,
        found: _Found,
    ) -> _Steps:
        """Compare folders. `old_path` is None where the source has no folder at *place*."""
        before = len(found.changes) + len(found.gone) + len(found.new) + len(found.pairs)
        empty = True
        for name in self._names(projection, old_path, new):
            below = names.join(old_path, name) if old_path is not None else None
            status = self._source_stat(projection, below) if below is not None else None
            child = self._child(projection, new, name)
            empty = empty and status is None and child is None
            yield self._pair(projection, status, below, child, names.join(place, name), found)
        after = len(found.changes) + len(found.gone) + len(found.new) + len(found.pairs)
        if old is None and new is not None and before == after:
            found.new[place] = new
        elif new is None and old is not None and empty:
            found.gone[place] = old
        elif old is not None and new is not None:
            moved = new.origin != place
            if new.ino is None and not moved:
                return  # the user's own, come in place of something else
            base = self._base(projection, place, old)
            staged = self._staged(new)
            own = staged is not None and (staged.uid is not None or staged.gid is not None)
            if (
                new.mode != base.mode
                or ((moved or own) and (new.uid, new.gid) != (base.uid, base.gid))
                or (staged is not None and staged.xattrs)
            ):
                found.changes.append(Change(projection, Kind.MODE, place, place, new, base))

    def _files(
        self, projection: Projection, old: Stat, place: bytes, new: Item, found: _Found
    ) -> None:
        base = self._base(projection, place, old)
        inode = self._staged(new)
        if inode is None and new.origin == place:
            return
        if (
            new.kind != stat.S_IFMT(base.mode)
            or not self._same_content(projection, place, new, inode)
            or self._joined(projection, place, new, inode)
        ):
            kind = Kind.SYMLINK if stat.S_ISLNK(new.kind) else Kind.MODIFIED
        elif (new.mode, new.uid, new.gid) != (base.mode, base.uid, base.gid) or (
            inode is not None and inode.xattrs
        ):
            kind = Kind.MODE
        else:
            return
        found.changes.append(Change(projection, kind, place, place, new, base))

    def _joined(
        self, projection: Projection, place: bytes, new: Item, inode: StagedInode | None
    ) -> bool:
        """True if the place got another file of the same content, which has more names: what is
        written through one of them shows here."""
        if inode is None or (inode.nlink or 1) < 2 or new.origin == place:
            return False
        return not self._linked(projection, place, new)

    def _same_content(
        self, projection: Projection, place: bytes, new: Item, inode: StagedInode | None
    ) -> bool:
        if stat.S_ISLNK(new.kind):
            if inode is None or inode.target is None:
                return new.origin == place or self._linked(projection, place, new)
            return inode.target == projection.source.readlink(place)
        if not stat.S_ISREG(new.kind):
            return True
        if inode is None or inode.body is None:
            return new.origin == place or self._linked(projection, place, new)
        known = self._tree.bases.get((projection.id, place))
        if (known is None or known.body is None) and self._linked(projection, place, new):
            assert new.origin is not None
            known = self._tree.bases.get((projection.id, new.origin))
        if known is None or known.body is None:
            return False
        key = (inode.body, inode.writes, known.body)
        same = self._same.get(key)
        if same is None:
            if len(self._same) > 4096:
                self._same.clear()
            same = self._same[key] = self._equal_bodies(inode.body, known.body)
        return same

    def _linked(self, projection: Projection, place: bytes, new: Item) -> bool:
        """True if the place is another name, in the source, of the file that *new* is."""
        if new.origin is None:
            return False
        try:
            one, other = projection.source.stat(place), projection.source.stat(new.origin)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return one.identity == other.identity

    def _equal_bodies(self, one: int, other: int) -> bool:
        bodies = self._tree.bodies
        if bodies.stat(one).st_size != bodies.stat(other).st_size:
            return False
        first, second = bodies.open(one), bodies.open(other)
        try:
            at = 0
            while True:
                left, right = os.pread(first, 1 << 20, at), os.pread(second, 1 << 20, at)
                if left != right:
                    return False
                if not left:
                    return True
                at += len(left)
        finally:
            os.close(first)
            os.close(second)
