"""Finding every name of a staged file that has several links in its source.

A write through one name shows at all of them (one inode), but only the name that was used has a
staged entry. Before the stage is reviewed or settled the others get theirs, so that a change is
shown, and committed, at each name. The source's tree is searched only while such a file is staged
and some of its links are unaccounted for, and once for each count of links.
"""

import stat
from collections import Counter

from vfs import names
from vfs.nodes import Node
from vfs.projection import Projection
from vfs.stage.tree import WHITEOUT, Base, StagedInode
from vfs.union import Union, fingerprint


class LinkNames:
    """Names the links of staged files; runs on the core's task."""

    def __init__(self, union: Union) -> None:
        self._union = union
        self._tree = union.tree
        self._searched: dict[int, int] = {}

    def name_all(self, projection: Projection) -> None:
        """Give every shown name of a staged file an entry. Raises OSError as the source does."""
        wanted = self._unaccounted(projection)
        if not wanted:
            return
        shown = self._moved(projection)
        with self._tree.transaction():
            for path, key in self._search(projection, set(wanted)):
                self._name(projection, path, self._tree.linked[key], shown)
        self._searched.update({self._tree.linked[key]: count for key, count in wanted.items()})

    def forget(self) -> None:
        """Stage and source have been settled: what was searched for before says nothing now."""
        self._searched.clear()

    def _unaccounted(self, projection: Projection) -> dict[tuple[int, int, int], int]:
        """Staged files (by the source's identity) with more links than staged names."""
        known: Counter[int] = Counter()
        found = {}
        for key, ino in self._tree.linked.items():
            if key[0] != projection.id or ino not in self._tree.inodes:
                continue
            inode = self._tree.inodes[ino]
            if inode.origin is None or inode.is_folder:
                continue
            if not known:
                for folder in self._tree.inodes.values():
                    known.update(folder.entries.values())
            try:
                status = projection.source.stat(inode.origin)
            except OSError:
                continue
            if status.nlink > known[ino] and self._searched.get(ino) != status.nlink:
                found[key] = status.nlink
        return found

    def _search(
        self, projection: Projection, wanted: set[tuple[int, int, int]]
    ) -> list[tuple[bytes, tuple[int, int, int]]]:
        """Paths in the source of the wanted objects, each with its key."""
        source = projection.source
        found = []
        folders = [b""]
        while folders:
            folder = folders.pop()
            try:
                below = source.list(folder)
            except OSError:
                continue  # gone, or closed to us: nothing in it can be met through the mount
            for name in below:
                path = names.join(folder, name)
                try:
                    status = source.stat(path)
                except OSError:
                    continue
                if stat.S_ISDIR(status.mode):
                    folders.append(path)
                elif (key := (projection.id, *status.identity)) in wanted:
                    found.append((path, key))
        return found

    def _moved(self, projection: Projection) -> list[tuple[bytes, bytes]]:
        """(origin, place) of every staged folder that shows a source folder of another place."""
        found = []
        top = self._tree.top(projection.id)
        stack = [] if top is None else [(top, b"")]
        while stack:
            number, place = stack.pop()
            folder = self._tree.inodes[number]
            if folder.origin is not None and folder.origin != place:
                found.append((folder.origin, place))
            for name, child in folder.entries.items():
                if child != WHITEOUT and self._tree.inodes[child].is_folder:
                    stack.append((child, names.join(place, name)))
        return found

    def _name(
        self, projection: Projection, path: bytes, ino: int, moved: list[tuple[bytes, bytes]]
    ) -> None:
        places = {path}
        places.update(names.rebase(path, old, new) for old, new in moved if names.within(path, old))
        for place in places:
            folder_place, _, name = place.rpartition(b"/")
            parent = self._folder(projection, folder_place)
            if parent is None:
                continue
            try:
                node = self._union.child(parent, name)
            except OSError:
                continue
            inode = self._union.staged(node)
            if inode is None or inode.ino != ino or not inode.persistent:
                continue
            folder = self._union.stage_folder(parent)
            if name not in folder.entries:
                self._tree.set_entry(folder, name, inode.ino)
            self._keep_base(projection, path, inode)
            if inode.origin is not None and not self._shows(projection, inode.origin, inode.ino):
                # The name by which it was staged is gone: it is the source's file of this one.
                self._keep_base(projection, inode.origin, inode)
                inode.origin = node.origin = path
                self._tree.save(inode)

    def _keep_base(self, projection: Projection, path: bytes, inode: StagedInode) -> None:
        """What the name held is known from the name by which the file was staged."""
        if (projection.id, path) in self._tree.bases:
            return
        known = self._tree.bases.get((projection.id, inode.origin or b""))
        try:
            now = fingerprint(projection.source.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        if known is not None and known.fingerprint.same_version(now):
            now = known.fingerprint
        self._tree.put_base(projection.id, path, Base(now))

    def _shows(self, projection: Projection, place: bytes, ino: int) -> bool:
        folder_place, _, name = place.rpartition(b"/")
        folder = self._folder(projection, folder_place)
        if folder is None:
            return False
        try:
            return self._union.child(folder, name).ino == ino
        except OSError:
            return False

    def _folder(self, projection: Projection, place: bytes) -> Node | None:
        try:
            node = self._union.root(projection)
            for name in place.split(b"/") if place else ():
                node = self._union.child(node, name)
        except OSError:
            return None
        return node if node.is_folder else None
