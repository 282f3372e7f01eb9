"""The choke point: every operation on a projected node is admitted here, or refused with a reason.

Names first, then life, then the grants' access, then policy. What is refused is on the record
before the caller hears of it.
"""

import errno
from dataclasses import dataclass

from vfs import names
from vfs.attributes import Caller
from vfs.gate import Access, Gate, Request
from vfs.nodes import Node
from vfs.projection import Life
from vfs.union import os_error

ROOT_USER = 0


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may use the mount beside its owner: whomever the kernel lets in, or one user alone
    (`agent` is that user's uid), and root, whom nobody keeps out."""

    owner: int
    agent: int | None = None

    def admits(self, caller: Caller) -> bool:
        """True if the caller may use the mount."""
        return self.agent is None or caller.uid in (self.owner, self.agent, ROOT_USER)


KERNEL = Caller(0, 0, 0)
"""Stands for the kernel acting by itself, as when it writes dirty pages back."""


class Admission:
    """Admits operations on nodes of live projections."""

    def __init__(self, gate: Gate, audience: Audience) -> None:
        self._gate = gate
        self._audience = audience

    def meet(self, caller: Caller) -> None:
        """Admit a process to the mount at all. Raises OSError(EACCES)."""
        if not self._audience.admits(caller):
            raise os_error(errno.EACCES)

    def look(self, node: Node) -> None:
        """Admit a look at names and attributes.

        Raises OSError(ESTALE) where no live grant covers the node.
        """
        if node.projection.life is not Life.LIVE or not self._gate.access(node.projection.id):
            raise os_error(errno.ESTALE)

    def use(self, node: Node, action: str, caller: Caller, name: bytes | None = None) -> None:
        """Admit `read`, `write` or `delete` of a node, or of the entry *name* of a folder.

        Raises OSError: ESTALE without a live grant, EROFS for a write without a write grant,
        EACCES for a read that a grant only lists, and where policy refuses.
        """
        self.meet(caller)
        self.look(node)
        projection = node.projection
        need = Access.READ if action == "read" else Access.WRITE
        place = node.place if name is None else node.place_of(name)
        mount_path = projection.mount_path(place)
        if action == "delete" and projection.is_temporary(place):
            action = "write"  # what an editor tidies up after itself
        if not self._gate.access(projection.id) & need:
            number = errno.EROFS if need is Access.WRITE else errno.EACCES
            self._refused(node, mount_path, caller, action, "no grant for it")
            raise os_error(number)
        # Where the file came from counts as well as where it stands: a rename, of it or of a
        # folder above it, sheds no rule.
        paths = {place}
        if name is None and node.origin is not None:
            paths.add(node.origin)
        for path in paths:
            host_path = projection.source.host_path(path)
            if self._gate.hidden(projection.id, host_path):
                self._refused(node, mount_path, caller, action, "hidden by policy")
                raise os_error(errno.EACCES)
            request = Request(projection.id, action, host_path, mount_path, caller)
            if not self._gate.decide(request).allowed:
                raise os_error(errno.EACCES)

    def contents(self, node: Node, labels: frozenset[str], caller: Caller) -> None:
        """Admit reading a file that cannot be masked in place, once it has been looked into.

        Raises OSError(EACCES) where policy refuses what its contents are labelled with.
        """
        for path in {node.place, node.origin if node.origin is not None else node.place}:
            host_path = node.projection.source.host_path(path)
            request = Request(
                node.projection.id, "read", host_path, node.mount_path, caller, labels
            )
            if not self._gate.decide(request).allowed:
                raise os_error(errno.EACCES)

    def follow(self, node: Node, target: bytes, caller: Caller, *, secret: bool = False) -> None:
        """Admit reading the target of a source's own symlink; `secret` if it holds a finding.

        Raises OSError(EACCES) then, and where it leads out of the projection: what is there was
        not granted, and its name is not the agent's to know.
        """
        self.look(node)
        if secret:
            self._refused(node, node.mount_path, caller, "read", "link target holds a secret")
            raise os_error(errno.EACCES)
        if names.leaves(node.origin if node.origin is not None else node.place, target):
            self._refused(node, node.mount_path, caller, "read", "link leaves the grant")
            raise os_error(errno.EACCES)

    def held(self, node: Node, epoch: int, need: Access) -> None:
        """Admit the use of an open handle, opened in *epoch* of its projection.

        While a grant ends, pages that the kernel still holds dirty are taken in (promise 7).
        Raises OSError(ESTALE) after that, EACCES where the access has been narrowed.
        """
        projection = node.projection
        if projection.draining and need is Access.WRITE and epoch == projection.epoch:
            return
        if projection.epoch != epoch:
            raise os_error(errno.ESTALE)
        self.look(node)
        if not self._gate.access(projection.id) & need:
            raise os_error(errno.EACCES)

    def _refused(
        self, node: Node, mount_path: bytes, caller: Caller, action: str, why: str
    ) -> None:
        self._gate.report(
            "refuse", "refused", mount_path, caller, node.projection.id,
            {"action": action, "why": why},
        )  # fmt: skip
