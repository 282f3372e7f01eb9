"""The one protocol through which the vfs asks who may do what, and tells what happened.

The gateway implements `Gate`; the vfs holds no grant, policy or log of its own. Every operation
of `vfs.filesystem.Filesystem` passes its `_admit`, which calls this and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Protocol

from vfs.attributes import Caller


class Access(IntFlag):
    """What a projection may be used for; WRITE stands for staged writes."""

    NONE = 0
    LIST = 1
    READ = 2
    WRITE = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One access that wants a verdict.

    `action` is one of `list`, `read`, `write`, `delete`; `host_path` is absolute, `mount_path`
    relative to the mount's root. `labels` say what was found in the contents, None where nobody
    has looked.
    """

    projection: int
    action: str
    host_path: bytes
    mount_path: bytes
    caller: Caller
    labels: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a `Request`; `rule` names what refused it, for the log and for people."""

    allowed: bool
    rule: str | None = None


class Gate(Protocol):
    """What the vfs needs of the gateway. All calls are synchronous, quick and never touch the
    mount; they come from the task that runs the core."""

    @property
    def generation(self) -> int:
        """Changes whenever a grant or a policy does; verdicts of an older one are void."""

    def access(self, projection: int) -> Access:
        """What the live grants of a projection allow at this instant (NONE: none is live)."""

    def profile(self, projection: int, host_path: bytes) -> str:
        """Redaction profile under which a file of a projection is served."""

    def hidden(self, projection: int, host_path: bytes) -> bool:
        """True if policy hides this path from every listing and look-up."""

    def decide(self, request: Request) -> Verdict:
        """Decide an access that the grants allow. A refusal is durable in the log on return."""

    def report(
        self,
        event: str,
        outcome: str,
        mount_path: bytes,
        caller: Caller | None,
        projection: int,
        detail: Mapping[str, str | int | bool | bytes | None],
    ) -> None:
        """Record what happened; never blocks."""
