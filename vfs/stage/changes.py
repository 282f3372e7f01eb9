"""What the stage amounts to: the differences between each source and what its mount shows.

Only staged folders are compared, so the cost follows what was changed; a moved or replaced
folder is compared in full. Changes name files, as git does; a folder is named where it is empty.
A file moved by the agent is known to be one (its origin tells), never guessed by similarity.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from vfs import names
from vfs.attributes import Fingerprint
from vfs.projection import Projection
from vfs.stage.tree import WHITEOUT, StagedInode
from vfs.statx import Stat
from vfs.union import Union, fingerprint


class Kind(StrEnum):
    """What happened to a place; MODE is of permission bits or owner, SYMLINK of a link that was
    added or changed."""

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


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. Paths are within the projection.

    `place` is where the new side stands (of a deletion: where the old one stood), `old_place`
    where the old side stands in the source: None for an addition, another place for a rename.
    """

    projection: Projection
    kind: Kind
    place: bytes
    old_place: bytes | None
    item: Item | None
    old: Fingerprint | None

    @property
    def path(self) -> bytes:
        """Path relative to the mount's root."""
        return names.join(self.projection.name, self.place)

    @property
    def from_path(self) -> bytes | None:
        """Where a renamed file was, relative to the mount's root."""
        if self.kind is not Kind.RENAMED or self.old_place is None:
            return None
        return names.join(self.projection.name, self.old_place)

    @property
    def is_folder(self) -> bool:
        """True where an (empty) folder came, went or changed its mode."""
        mode = self.item.mode if self.item is not None else self.old.mode if self.old else 0
        return stat.S_ISDIR(mode)


@dataclass(slots=True)
class _Found:
    changes: list[Change] = field(default_factory=list)
    gone: dict[bytes, Stat] = field(default_factory=dict)
    new: dict[bytes, Item] = field(default_factory=dict)


def _attributes_differ(inode: StagedInode, base: Fingerprint) -> bool:
    return (
        (inode.mode is not None and inode.mode != stat.S_IMODE(base.mode))
        or (inode.uid is not None and inode.uid != base.uid)
        or (inode.gid is not None and inode.gid != base.gid)
    )


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
        self._pair(projection, old, b"", self._item(top), b"", found)
        for place, item in found.new.items():
            found.changes.append(self._addition(projection, place, item, found))
        for place, status in found.gone.items():
            found.changes.append(
                Change(
                    projection,
                    Kind.DELETED,
                    place,
                    place,
                    None,
                    self._base(projection, place, status),
                )
            )
        return sorted(found.changes, key=lambda change: (change.place, change.kind))

    def _addition(self, projection: Projection, place: bytes, item: Item, found: _Found) -> Change:
        if item.origin is not None and item.origin in found.gone:
            status = found.gone.pop(item.origin)
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
        return None if self._union.hidden(projection, path) else status

    def _item(self, ino: int) -> Item:
        inode = self._tree.inodes[ino]
        return Item(inode.kind, ino, inode.origin, inode.kind | (inode.mode or 0))

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
        if ino is not None:
            return self._item(ino)
        if folder.origin is None:
            return None
        path = names.join(folder.origin, name)
        status = self._source_stat(projection, path)
        return None if status is None else Item(status.kind, None, path, status.mode)

    def _names(
        self, projection: Projection, old_path: bytes | None, folder: Item | None
    ) -> Iterator[bytes]:
        inode = self._staged(folder)
        staged = set(inode.entries) if inode is not None else set()
        if folder is not None and folder.origin is not None and folder.origin == old_path:
            yield from sorted(staged)  # what is not staged is the same on both sides
            return
        for path in {old_path, folder.origin if folder is not None else None}:
            if path is not None:
                try:
                    staged.update(projection.source.list(path))
                except FileNotFoundError:
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
    ) -> None:
        old_folder = old is not None and stat.S_ISDIR(old.mode)
        new_folder = new is not None and stat.S_ISDIR(new.kind)
        if old_folder or new_folder:
            if old is not None and not old_folder:
                assert old_path is not None
                found.gone[old_path] = old
            if new is not None and not new_folder:
                found.new[place] = new
            self._folders(
                projection,
                old if old_folder else None,
                old_path if old_folder else None,
                new if new_folder else None,
                place,
                found,
            )
        elif old is not None and new is not None:
            assert old_path is not None
            self._files(projection, old, old_path, new, place, found)
        elif new is not None:
            known = self._tree.bases.get((projection.id, old_path)) if old_path else None
            if known is not None:
                # The user deleted what the agent had changed: still a change of that file, and
                # a conflict for whoever commits it.
                change = Change(projection, Kind.MODIFIED, place, old_path, new, known.fingerprint)
                found.changes.append(change)
            else:
                found.new[place] = new
        elif old is not None:
            assert old_path is not None
            found.gone[old_path] = old

    def _folders(
        self,
        projection: Projection,
        old: Stat | None,
        old_path: bytes | None,
        new: Item | None,
        place: bytes,
        found: _Found,
    ) -> None:
        before = len(found.changes) + len(found.gone) + len(found.new)
        empty = True
        for name in self._names(projection, old_path, new):
            below = names.join(old_path, name) if old_path is not None else None
            status = self._source_stat(projection, below) if below is not None else None
            child = self._child(projection, new, name)
            empty = empty and status is None and child is None
            self._pair(projection, status, below, child, names.join(place, name), found)
        nothing_below = before == len(found.changes) + len(found.gone) + len(found.new)
        inode = self._staged(new)
        if old is None and new is not None and nothing_below:
            found.new[place] = new
        elif new is None and old is not None and empty:
            assert old_path is not None
            found.gone[old_path] = old
        elif old is not None and inode is not None and inode.mode is not None:
            base = self._base(projection, old_path or b"", old)
            if inode.mode != stat.S_IMODE(base.mode):
                found.changes.append(Change(projection, Kind.MODE, place, old_path, new, base))

    def _files(
        self,
        projection: Projection,
        old: Stat,
        old_path: bytes,
        new: Item,
        place: bytes,
        found: _Found,
    ) -> None:
        base = self._base(projection, old_path, old)
        inode = self._staged(new)
        if inode is None and new.origin == old_path:
            return
        if new.kind != stat.S_IFMT(base.mode) or not self._same_content(
            projection, old_path, base, new, inode
        ):
            kind = Kind.SYMLINK if stat.S_ISLNK(new.kind) else Kind.MODIFIED
        elif inode is not None and _attributes_differ(inode, base):
            kind = Kind.MODE
        else:
            return
        found.changes.append(Change(projection, kind, place, old_path, new, base))

    def _same_content(
        self,
        projection: Projection,
        old_path: bytes,
        base: Fingerprint,
        new: Item,
        inode: StagedInode | None,
    ) -> bool:
        if stat.S_ISLNK(new.kind):
            if inode is None or inode.target is None:
                return new.origin == old_path
            return inode.target == projection.source.readlink(old_path)
        if inode is None or inode.body is None:
            return new.origin == old_path
        known = self._tree.bases.get((projection.id, old_path))
        if known is None or known.body is None:
            return False
        key = (inode.body, inode.writes, known.body)
        same = self._same.get(key)
        if same is None:
            if len(self._same) > 4096:
                self._same.clear()
            same = self._same[key] = self._equal_bodies(inode.body, known.body)
        return same

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
