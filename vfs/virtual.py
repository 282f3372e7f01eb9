"""The mount's own places: its root and `.grantfs/`, which the agent reads and never changes."""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vfs.attributes import Attributes

ROOT_INO = 1
OWN_NAME = b".grantfs"


@dataclass(slots=True, eq=False)
class VirtualNode:
    """A folder (with `children`) or a file whose bytes are made at each open."""

    ino: int
    name: bytes
    content: Callable[[], bytes] | None = None
    children: dict[bytes, "VirtualNode"] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return self.content is None


class VirtualTree:
    """The root and `.grantfs/`; `add` places a file below the latter."""

    def __init__(self) -> None:
        self.root = VirtualNode(ROOT_INO, b"")
        self.own = VirtualNode(ROOT_INO + 1, OWN_NAME)
        self.root.children[OWN_NAME] = self.own
        self.by_ino = {node.ino: node for node in (self.root, self.own)}
        self._since = time.time_ns()

    def add(self, name: bytes, content: Callable[[], bytes]) -> None:
        """Place a read-only file in `.grantfs/`."""
        node = VirtualNode(ROOT_INO + 1 + len(self.by_ino), name, content)
        self.own.children[name] = node
        self.by_ino[node.ino] = node

    def attributes(self, node: VirtualNode, subfolders: int = 0) -> Attributes:
        """What `stat` shows; a file's size is that of its present bytes."""
        if node.content is None:
            mode, nlink, size = stat.S_IFDIR | 0o555, 2 + subfolders, 4096
        else:
            mode, nlink, size = stat.S_IFREG | 0o444, 1, len(node.content())
        return Attributes(
            node.ino, mode, nlink, os.getuid(), os.getgid(), 0, size, (size + 511) // 512,
            self._since, self._since, self._since,
        )  # fmt: skip
