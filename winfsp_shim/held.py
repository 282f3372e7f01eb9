"""Keeps the core's nodes known between requests, as the kernel's look-up counts do elsewhere.

A path-based library never says that it forgets a node. The core drops what nobody holds, and a
node leads to its folder, so a folder has to stay known as long as anything beneath it is: what is
used is moved to the end together with the folders above it, nearest first, and what stands at the
front is let go once there are too many. Only the core's task calls this.
"""

from collections import OrderedDict

from vfs.filesystem import Filesystem

LIMIT = 100_000
"""Nodes kept; about half a kilobyte each."""


class Held:
    """The nodes that one adapter holds, and its open handles."""

    def __init__(self, filesystem: Filesystem, limit: int = LIMIT) -> None:
        self._fs = filesystem
        self._limit = limit
        self._counts: OrderedDict[int, int] = OrderedDict()
        self._opened: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def chain(self, ino: int) -> list[int]:
        """The node and the folders above it within its projection, nearest first."""
        found = []
        node = self._fs.nodes.by_ino.get(ino)
        while node is not None:
            found.append(node.ino)
            node = node.parent
        return found

    def keep(self, ino: int) -> None:
        """Hold a node that was just used; what is not projected needs no holding."""
        for each in self.chain(ino):
            if each not in self._counts:
                self._fs.remember(each)
                self._counts[each] = 1
            self._counts.move_to_end(each)
        self._fs.forget(())  # lets go of what was met on the way and is not held now
        if len(self._counts) > self._limit:
            self._let_go()

    def counted(self, ino: int) -> None:
        """Hold a node that an operation has returned, and has counted itself."""
        self._counts[ino] = self._counts.get(ino, 0) + 1
        self.keep(ino)

    def _let_go(self) -> None:
        in_use: set[int] = set()
        for ino in self._opened.values():
            in_use.update(self.chain(ino))
        # A tenth at once, so that this is seldom.
        surplus = len(self._counts) - self._limit + self._limit // 10
        for ino in list(self._counts)[:surplus]:
            if ino not in in_use:
                self._fs.forget([(ino, self._counts.pop(ino))])

    # -- handles ---------------------------------------------------------------------------

    def open(self, fh: int, ino: int) -> int:
        """Note an open handle of a file or folder, and return it."""
        self._opened[fh] = ino
        return fh

    def of_handle(self, fh: int) -> int | None:
        """The node that a handle was opened on."""
        return self._opened.get(fh)

    def close(self, fh: int) -> None:
        """The handle is closed."""
        self._opened.pop(fh, None)
