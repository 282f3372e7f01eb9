"""Telling the kernel what no longer holds: the notifications, from threads of their own.

A notification may wait for a request that is being served, so none is ever sent from the task
that serves, nor with a lock held (promise 7, and what deadlocked comparable systems).
"""

from collections.abc import Sequence
from typing import Protocol

import trio

from vfs.nodes import Node
from vfs.virtual import ROOT_INO


class Mount(Protocol):
    """What both adapters offer the daemon."""

    def open(self) -> None:
        """Mount."""

    async def serve(self) -> None:
        """Answer until unmounted or stopped."""

    def stop(self) -> None:
        """Let `serve` return."""

    def close(self) -> None:
        """Unmount."""

    def invalidate_inode(self, ino: int) -> None:
        """Drop attributes and pages of a node."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Drop a cached name."""


async def drop_projection(mount: Mount, names: Sequence[bytes], nodes: Sequence[Node]) -> None:
    """Drop a projection's names at the root and all that the kernel holds of its nodes: cached
    pages go, maps fault, and pages that were dirty have been written back on return."""
    numbers = [node.ino for node in nodes]

    def notify() -> None:
        for name in names:
            mount.invalidate_entry(ROOT_INO, name)
        for number in numbers:
            mount.invalidate_inode(number)

    await trio.to_thread.run_sync(notify)


async def drop_nodes(
    mount: Mount, entries: Sequence[tuple[int, bytes]], numbers: Sequence[int]
) -> None:
    """Drop cached names and nodes after a commit, discard or change of policy."""

    def notify() -> None:
        for parent, name in entries:
            mount.invalidate_entry(parent, name)
        for number in numbers:
            mount.invalidate_inode(number)

    await trio.to_thread.run_sync(notify)
