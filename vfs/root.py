"""The mount's root: projections by name, `.grantfs/`, and the rooms of single files.

The kernel knows one folder here. What is at a name of it is found, and what the agent makes in it
is sent to the room that it belongs to.
"""

import errno
import stat

from vfs.admission import Audience
from vfs.attributes import Attributes
from vfs.gate import Access, Gate
from vfs.nodes import Node
from vfs.projection import Life, Projection
from vfs.union import Union, os_error
from vfs.virtual import VirtualNode, VirtualTree


class Root:
    """Finds names at the root. `projections` are all that were shown, ended ones included."""

    def __init__(self, union: Union, gate: Gate, virtual: VirtualTree, audience: Audience) -> None:
        self._audience = audience
        self.projections: dict[bytes, Projection] = {}
        self._union = union
        self._gate = gate
        self._virtual = virtual

    def _live(self) -> list[Projection]:
        return [
            projection
            for projection in self.projections.values()
            if projection.life is Life.LIVE and self._gate.access(projection.id)
        ]

    def _rooms(self) -> list[Node]:
        return [self._union.root(projection) for projection in self._live() if projection.is_room]

    def find(self, name: bytes) -> Node | VirtualNode:
        """What is at a name. Raises OSError(ENOENT)."""
        own = self._virtual.root.children.get(name)
        if own is not None:
            return own
        granted = self.projections.get(name)
        if granted is not None and granted in self._live():
            root = self._union.root(granted)
            return self._union.child(root, name) if granted.is_room else root
        for room in self._rooms():
            try:
                return self._union.child(room, name)
            except FileNotFoundError:
                continue
        raise os_error(errno.ENOENT)

    def names(self) -> list[bytes]:
        """Every name, sorted, `.grantfs` first."""
        found = {one.name for one in self._live() if not one.is_room}
        for room in self._rooms():
            found.update(self._union.listing(room))
        return [*self._virtual.root.children, *sorted(found - set(self._virtual.root.children))]

    def room(self, name: bytes, beside: Node | None = None) -> Node:
        """The room in which an agent may make, change or remove *name*.

        That is where the name is; a new one goes where the file *beside* it is that it comes from,
        else to the single file whose name is part of it, as in `.notes.txt.swp`, else to any that
        may be written. Raises OSError(EROFS) where there is none.
        """
        try:
            known = self.find(name)
        except FileNotFoundError:
            pass
        else:
            if isinstance(known, Node) and known.parent is not None:
                return known.parent
            raise os_error(errno.EROFS)  # a folder that was granted, or our own
        taken = name in self.projections
        if beside is not None and not taken:
            return beside
        rooms = [
            room
            for room in self._rooms()
            if self._gate.access(room.projection.id) & Access.WRITE
            # A granted file's name is for that file alone, an ended grant's for nobody.
            and (not taken or room.projection.name == name)
        ]
        if not rooms:
            raise os_error(errno.EROFS)

        def likeness(room: Node) -> int:
            granted = room.projection.name
            return len(granted) if granted in name else 0

        return max(rooms, key=likeness)

    def attributes(self) -> Attributes:
        """What `stat` shows of the root: writable while a single file may be saved in it.

        Where one user is let in, the root is that user's, and closed to others but the owner's
        group: so the kernel keeps them from what it has cached.
        """
        live = self._live()
        folders = len(self._virtual.root.children) + sum(not one.is_room for one in live)
        shown = self._virtual.attributes(self._virtual.root, folders)
        for one in live:
            if one.is_room and self._gate.access(one.id) & Access.WRITE:
                shown.mode |= stat.S_IWUSR
        if self._audience.agent is not None:
            shown.uid = self._audience.agent
            owner = shown.mode & stat.S_IRWXU
            shown.mode = shown.kind | owner | owner >> 3
        return shown

    def names_of(self, projection: Projection) -> list[bytes]:
        """Names at the root that belong to a projection, live or not: for the kernel to drop."""
        found = {projection.name}
        if projection.is_room:
            top = self._union.tree.top(projection.id)
            if top is not None:
                found.update(self._union.tree.inodes[top].entries)
        return sorted(found)
