"""The table of nodes: every object the kernel holds a number of, with its look-up counts.

Inode numbers stay below 2**53. A source object's is made of its projection and its own number,
so that it is the same after a remount, that hard links share it, and that the low 32 bits, which
are all that git's index keeps, equal the host's.
"""

import hashlib
import stat

from vfs import names
from vfs.content import Shown, SourceContent
from vfs.projection import Projection
from vfs.stage.tree import AGENT_INO

_SOURCE_BITS = 40
_SOURCE_MASK = (1 << _SOURCE_BITS) - 1
PROJECTIONS_MAX = (AGENT_INO >> _SOURCE_BITS) - 1


class Node:
    """One object as the kernel knows it.

    `origin` is the path in the source that content and attributes come from, None for what the
    agent made. `parent` and `name` are the place where it was last met; of a file with several
    links that is one of them. `shown` is what the kernel's pages were made of, while no content
    is held: a version and the rules that it was masked by.
    """

    __slots__ = (
        "content",
        "identity",
        "ino",
        "kind",
        "lookups",
        "name",
        "opens",
        "origin",
        "parent",
        "projection",
        "shown",
        "unlinked",
    )

    def __init__(
        self,
        ino: int,
        projection: Projection,
        kind: int,
        parent: "Node | None",
        name: bytes,
        origin: bytes | None,
        identity: tuple[int, int],
    ) -> None:
        self.ino = ino
        self.projection = projection
        self.kind = kind
        self.parent = parent
        self.name = name
        self.origin = origin
        self.identity = identity
        self.lookups = 0
        self.opens = 0
        self.shown: Shown | None = None
        self.unlinked = False
        self.content: SourceContent | None = None

    @property
    def is_folder(self) -> bool:
        """True for a directory."""
        return self.kind == stat.S_IFDIR

    @property
    def place(self) -> bytes:
        """Path within the projection, by the names in the mount (b"" for its root)."""
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))

    @property
    def mount_path(self) -> bytes:
        """Path relative to the mount's root."""
        return self.projection.mount_path(self.place)

    def place_of(self, name: bytes) -> bytes:
        """Path within the projection of an entry of this folder."""
        return names.join(self.place, name)

    @property
    def host_path(self) -> bytes:
        """Absolute host path at which this object is, or would be committed."""
        return self.projection.source.host_path(self.place)


class NodeTable:
    """Nodes by number and, while nothing is staged on them, by the identity of their source."""

    def __init__(self) -> None:
        self.by_ino: dict[int, Node] = {}
        self._by_identity: dict[tuple[int, int, int], Node] = {}
        self._fresh: list[Node] = []

    def number(self, projection: Projection, identity: tuple[int, int], home_dev: int) -> int:
        """A number for a source object that is not taken by another."""
        dev, ino = identity
        high = projection.id << _SOURCE_BITS
        if dev == home_dev and ino <= _SOURCE_MASK and not self._taken(high | ino, identity):
            return high | ino
        # Another file system of one mount (btrfs), huge numbers, or a name moved on the host
        # while its old one is staged: a number drawn from the identity, the next free one of it.
        salt = 0
        while True:
            seed = f"{dev}:{ino}:{salt}".encode()
            drawn = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "big")
            number = high | (drawn & _SOURCE_MASK)
            if not self._taken(number, identity):
                return number
            salt += 1

    def _taken(self, number: int, identity: tuple[int, int]) -> bool:
        known = self.by_ino.get(number)
        return known is not None and known.identity != identity

    def find(self, projection: Projection, identity: tuple[int, int]) -> Node | None:
        """The unstaged node of a source object, if the kernel may hold one."""
        return self._by_identity.get((projection.id, *identity))

    def add(self, node: Node, *, from_source: bool) -> None:
        """Make a node known; `from_source` if it may be met again by its source's identity."""
        self.by_ino[node.ino] = node
        self._fresh.append(node)
        if from_source:
            self._by_identity[(node.projection.id, *node.identity)] = node

    def take_fresh(self) -> list[Node]:
        """Nodes made since the last call: some of them nobody may have come to hold."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def hide_identity(self, node: Node) -> bool:
        """The node is staged now: its source object, met elsewhere, is another node.

        True if it could be met by its identity until now.
        """
        key = (node.projection.id, *node.identity)
        if self._by_identity.get(key) is not node:
            return False
        del self._by_identity[key]
        return True

    def show_identity(self, node: Node, identity: tuple[int, int]) -> None:
        """The node is (again) nothing but the source object of this identity."""
        self.hide_identity(node)
        node.identity = identity
        self._by_identity[(node.projection.id, *identity)] = node

    def drop(self, node: Node) -> None:
        """Forget a node that neither the kernel nor a handle holds."""
        if self.by_ino.get(node.ino) is node:
            del self.by_ino[node.ino]
        self.hide_identity(node)

    def of_projection(self, projection: Projection) -> list[Node]:
        """Every known node of a projection."""
        return [node for node in self.by_ino.values() if node.projection is projection]
